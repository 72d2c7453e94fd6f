"""From names to things: folder, device, dtype, plan, weights, and how much KV memory there is."""

import gc
from pathlib import Path

import torch

from engine.config import ModelConfig
from engine.llama import load_llama
from engine.model import Model
from engine.opt import load_opt
from engine.weights import Checkpoint, Random, Source
from sim.errors import InputError, PlanError, UnknownName
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.serving.config import SchedulerConfig

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
KV_SHARE = 0.9  # of the device memory that the weights leave free
CPU_KV_TOKENS = 16_384


def plan_for(config: ModelConfig, plan: SkipPlan | str | None) -> SkipPlan:
    """The plan that was asked for, checked against the model. Raises PlanError if its depth is another."""
    if plan is None:
        swift = f"swift_kv:keep={config.swift_keep},group={config.swift_group}"
        plan = swift if config.swift_keep else "dense"
    made = strategy_named(plan, config.shape) if isinstance(plan, str) else plan
    if made.layers != config.shape.layers:
        have = f"{config.shape.name or 'the model'} has {config.shape.layers}"
        raise PlanError(f"plan {made.name!r} is for {made.layers} layers, {have}; make it for this model")
    return made


def load(config: ModelConfig, plan: SkipPlan, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Model:
    """The model's weights as far as the plan needs them; random ones where the config has no folder."""
    source: Source
    if config.folder:
        source = Checkpoint(config.folder, dtype=dtype, device=device)
    else:
        source = Random(seed, dtype=dtype, device=device)
    return (load_opt if config.shape.family == "opt" else load_llama)(config, source, plan)


def folder_of(model: str | Path) -> Path:
    """The folder of that path. Raises InputError where there is none."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder; give one with config.json and *.safetensors")
    return folder


def device_named(name: str) -> torch.device:
    """The device: auto, cpu or cuda. Raises UnknownName, and InputError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise UnknownName("device", name, ("auto", "cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device='cuda': this machine has no usable NVIDIA GPU; use cpu")
    return torch.device(name)


def dtype_named(name: str, device: torch.device) -> torch.dtype:
    """The dtype; auto is bfloat16 on a GPU and float32 elsewhere. Raises UnknownName."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UnknownName("dtype", name, ("auto", *DTYPES))
    return DTYPES[name]


def free_memory(device: torch.device) -> None:
    """None: a GPU has back what engines that are gone held on it.

    An engine's parts refer to each other, so that only the collector finds them, and what it finds the allocator keeps.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def kv_blocks_for(model: Model, plan: SkipPlan, config: SchedulerConfig, context: int) -> int:
    """Blocks of all caches: what fits beside the weights on a GPU; on a CPU enough for a few contexts."""
    if model.embedding.is_cuda:
        free, _ = torch.cuda.mem_get_info()
        token = model.config.shape.kv_bytes_per_token_layer(model.weight_bytes) * plan.caches.size
        return max(1, int(free * KV_SHARE / (token * config.block_tokens)))
    return max(CPU_KV_TOKENS, context) // config.block_tokens + 1
