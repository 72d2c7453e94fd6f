"""What the engine has to know of a model, read from a Hugging Face config.json; remote code is never run."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from sim.errors import InputError
from sim.plans.config_json import shape_from_config
from sim.plans.model import ModelShape


@dataclass(frozen=True)
class Rope:
    """Rotary embedding: base and frequency scaling."""

    theta: float
    kind: str = "default"  # default | linear | llama3
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_context: int = 8192

    def tables(self, positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [positions, head_dim / 2].

        llama3 keeps short wavelengths, divides long ones by `factor` and blends between (Llama 3.1 model card).
        """
        frequency = 1.0 / self.theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
        if self.kind == "linear":
            frequency = frequency / self.factor
        elif self.kind == "llama3":
            turns = self.original_context * frequency / (2 * math.pi)
            kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
            frequency = kept * frequency + (1 - kept) * frequency / self.factor
        angle = torch.arange(positions).float()[:, None] * frequency[None, :]
        return angle.cos(), angle.sin()


@dataclass(frozen=True)
class ModelConfig:
    """A model that the engine can build."""

    shape: ModelShape
    norm_eps: float
    rope: Rope | None  # None: learned positions (OPT)
    qkv_bias: bool = False
    out_bias: bool = False
    ffn_bias: bool = False
    post_norm: bool = False  # OPT-350m: each norm follows its residual add
    final_norm: bool = True
    embed_dim: int = 0  # width of the token embeddings; OPT-350m projects them to and from the stream
    swift_keep: int = 0  # layers below SwiftKV's l* in a SwiftKV checkpoint; 0 for every other
    swift_group: int = 1
    eos: tuple[int, ...] = ()
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not self.embed_dim:
            object.__setattr__(self, "embed_dim", self.shape.hidden)


def config_of(shape: ModelShape) -> ModelConfig:
    """The config of a catalogue shape, for random weights: its family's customs, no end-of-text token."""
    if shape.family == "opt":
        return ModelConfig(shape, 1e-5, None, qkv_bias=True, out_bias=True, ffn_bias=True)
    theta = 1e6 if shape.family == "qwen2" else 5e5
    return ModelConfig(shape, 1e-5, Rope(theta), qkv_bias=shape.family == "qwen2")


def read_config(folder: Path) -> ModelConfig:
    """The config of a checkpoint's folder.

    Raises InputError, naming file and field, for an unknown architecture, an active sliding window, remote code, or
    a feature that the engine's arithmetic does not have.
    """
    shape = shape_from_config(folder)
    file = folder / "config.json"
    fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if "auto_map" in fields:
        raise InputError(
            f"{file}: 'auto_map' asks for remote code, which is never run; remove it to run {shape.family}"
        )
    kind = str(fields.pop("model_type")).removesuffix("_swiftkv")
    config = AutoConfig.for_model(kind, **fields)
    common: dict[str, Any] = {"folder": folder, "eos": _end_of_text(folder, config)}
    if shape.family == "opt":
        return replace(_opt(file, shape, config), **common)
    return replace(_llama(file, shape, config), **common, **_swift(file, fields, shape))


def _refuse(file: Path, field: str, value: object, why: str) -> InputError:
    return InputError(f"{file}: {field}={value!r}: {why}")


def _opt(file: Path, shape: ModelShape, config: PreTrainedConfig) -> ModelConfig:
    if config.activation_function != "relu":
        raise _refuse(file, "activation_function", config.activation_function, "OPT's FFN is built for 'relu'")
    if not config.layer_norm_elementwise_affine:
        raise _refuse(file, "layer_norm_elementwise_affine", value=False, why="norms without weights are not built")
    bias = bool(config.enable_bias)
    pre = bool(config.do_layer_norm_before)
    return ModelConfig(
        shape,
        1e-5,
        None,
        qkv_bias=bias,
        out_bias=bias,
        ffn_bias=bias,
        post_norm=not pre,
        final_norm=pre and not config._remove_final_layer_norm,
        embed_dim=config.word_embed_proj_dim,
    )


def _llama(file: Path, shape: ModelShape, config: PreTrainedConfig) -> ModelConfig:
    if config.hidden_act != "silu":
        raise _refuse(file, "hidden_act", config.hidden_act, "the gated FFN is built for 'silu'")
    if shape.max_context < config.max_position_embeddings:
        window = config.sliding_window
        raise _refuse(
            file,
            "sliding_window",
            window,
            "attention is full; set it to null, or max_position_embeddings to at most it",
        )
    attention_bias = bool(getattr(config, "attention_bias", False))
    return ModelConfig(
        shape,
        config.rms_norm_eps,
        _rope(file, shape, dict(config.rope_parameters)),
        qkv_bias=attention_bias or shape.family == "qwen2",
        out_bias=attention_bias,
        ffn_bias=bool(getattr(config, "mlp_bias", False)),
    )


def _rope(file: Path, shape: ModelShape, fields: dict[str, Any]) -> Rope:
    kind = fields.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise _refuse(file, "rope_type", kind, "known are default, linear, llama3")
    if fields.get("partial_rotary_factor", 1.0) != 1.0:
        raise _refuse(file, "partial_rotary_factor", fields["partial_rotary_factor"], "only whole heads are rotated")
    return Rope(
        theta=float(fields["rope_theta"]),
        kind=kind,
        factor=float(fields.get("factor", 1.0)),
        low=float(fields.get("low_freq_factor", 1.0)),
        high=float(fields.get("high_freq_factor", 4.0)),
        original_context=int(fields.get("original_max_position_embeddings") or shape.max_context),
    )


def _swift(file: Path, fields: dict[str, Any], shape: ModelShape) -> dict[str, Any]:
    keep = fields.get("num_key_value_layers")
    if keep is None:
        return {}
    group = fields.get("key_value_group_size", 1)
    if not (isinstance(keep, int) and 1 <= keep <= shape.layers):
        raise _refuse(file, "num_key_value_layers", keep, f"must be in 1..{shape.layers}")
    if not (isinstance(group, int) and group >= 1) or (shape.layers - keep) % group:
        raise _refuse(file, "key_value_group_size", group, f"must divide the {shape.layers - keep} layers above l*")
    return {"swift_keep": keep if keep < shape.layers else 0, "swift_group": group}


def _end_of_text(folder: Path, config: PreTrainedConfig) -> tuple[int, ...]:
    """End-of-text tokens of the model, and of its generation_config.json."""
    found: list[Any] = [config.eos_token_id]
    generation = folder / "generation_config.json"
    if generation.exists():
        found.append(json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
    ids = [token for entry in found for token in (entry if isinstance(entry, list) else [entry])]
    return tuple(sorted({int(token) for token in ids if token is not None}))
