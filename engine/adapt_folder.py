"""Folders of models that are trained: read into a twin, written with Hugging Face's and SwiftKV's names."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from engine.adapt_model import Twin
from engine.config import read_config
from engine.text import read_tokenizer
from engine.weights import Checkpoint
from sim.errors import InputError

SIDECARS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
Kind = torch.dtype


def read_twin(folder: Path, *, device: torch.device | str = "cpu", dtype: Kind = torch.float32) -> Twin:
    """The model of a folder, ready to be trained or scored.

    A SwiftKV folder gives teacher and student in one: the twin's `distilled` is set. Raises InputError for what the
    engine could not load either.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give one with config.json and *.safetensors")
    config = read_config(folder)
    fields: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = str(fields.pop("model_type")).removesuffix("_swiftkv")
    hf = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **fields))  # type: ignore[no-untyped-call]
    twin = Twin(hf, config)
    if config.swift_keep:
        add_swift(twin, keep=config.swift_keep, group=config.swift_group)
    source = Checkpoint(folder, dtype=dtype, device=torch.device("cpu"))  # refuses pickles, broken files, odd dtypes
    tensors = {name: source.take(name, *p.shape) for name, p in twin.hf.state_dict().items() if source.has(name)}
    missing = set(twin.hf.state_dict()) - set(tensors) - _tied(twin.hf)
    if missing:
        raise InputError(f"{folder}: tensor {min(missing)!r} is missing; the checkpoint is incomplete")
    twin.hf.load_state_dict(tensors, strict=False)
    hf.tie_weights()
    return twin.to(device=device, dtype=dtype)


def _tied(hf: Any) -> set[str]:
    return {"lm_head.weight"} if hf.config.tie_word_embeddings else set()


def add_swift(twin: Twin, *, keep: int, group: int) -> None:
    """Give the layers from `keep` on SwiftKV's projections, as the paper starts them.

    Queries copy their layer's, keys and values are the mean over each group of `group` layers, the one norm that all
    share copies layer keep's (SwiftKV, arXiv 2410.03960, section 3.2). Raises InputError outside the Llama family,
    for which the format is not defined, and for groups that do not divide the layers.
    """
    shape = twin.shape
    if shape.family == "opt":
        raise InputError("SwiftKV checkpoints are defined for the Llama family; OPT can run the plan undistilled only")
    if not 1 <= keep < shape.layers or (shape.layers - keep) % group:
        raise InputError(f"keep={keep}, group={group}: keep must be in 1..{shape.layers - 1}, group divide the rest")
    hf: Any = twin.hf
    layers = hf.model.layers
    hf.model.norm_swiftkv = _copy(layers[keep].input_layernorm)
    for layer in range(keep, shape.layers):
        attn = layers[layer].self_attn
        attn.q_proj_swiftkv = _copy(attn.q_proj)
        if (layer - keep) % group == 0:
            members = [layers[j].self_attn for j in range(layer, layer + group)]
            attn.k_proj_swiftkv = _mean([m.k_proj for m in members])
            attn.v_proj_swiftkv = _mean([m.v_proj for m in members])
    twin.distilled = (keep, group)


def _copy(module: nn.Module) -> nn.Module:
    return _mean([module])


def _mean(modules: list[Any]) -> nn.Module:
    """A module like the first, each parameter the mean of theirs."""
    made = deepcopy(modules[0])
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.stack([dict(m.named_parameters())[name] for m in modules]).mean(0))
    return made


def write_folder(twin: Twin, folder: Path, *, dtype: Kind, like: Path | None = None) -> Path:
    """The folder with config.json and model.safetensors in `dtype`, and the tokenizer files of `like`.

    A twin with SwiftKV projections gets model_type llama_swiftkv, num_key_value_layers and key_value_group_size, as
    the published checkpoints have them. The file is replaced in one move, so a folder is never half written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hf: Any = twin.hf
    fields: dict[str, Any] = hf.config.to_dict() | {"dtype": str(dtype).removeprefix("torch.")}
    fields.pop("_name_or_path", None)
    if twin.distilled:
        fields["model_type"] = f"{twin.shape.family}_swiftkv"
        fields["architectures"] = [f"{twin.shape.family.capitalize()}SwiftKVForCausalLM"]
        fields["num_key_value_layers"], fields["key_value_group_size"] = twin.distilled
    tensors = {name: t.detach().to("cpu", dtype).contiguous() for name, t in twin.hf.state_dict().items()}
    for name in _tied(hf):
        tensors.pop(name, None)
    save_tensors(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if like is not None and like.resolve() != folder.resolve():
        for name in SIDECARS:
            if (like / name).exists():
                shutil.copyfile(like / name, folder / name)
    return folder


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a safetensors file in one move."""
    part = file.with_suffix(".part")
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(file)


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises InputError where it is missing or broken."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error


def tokenizer_of(folder: Path) -> Any:
    """The folder's tokenizer. Raises InputError where it has none."""
    tokenizer = read_tokenizer(folder, read_config(folder).shape.family)
    if tokenizer is None:
        raise InputError(f"{folder}: has no tokenizer; add its tokenizer.json")
    return tokenizer
