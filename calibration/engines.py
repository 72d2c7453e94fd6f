"""From a measured point to the deployment and scheduler that it ran on: the point's own facts, then the engine's."""

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from calibration.points import Point
from calibration.remembered import Remembered
from sim.cost.deployment import Deployment, Frontend
from sim.cost.hardware import gpu_named
from sim.cost.profiles import POOLED, EngineProfile, profile_named, profiles
from sim.cost.times import KernelTimes, times_for
from sim.errors import CapacityError, InputError
from sim.plans.catalogue import model_named
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.serving.config import SchedulerConfig

NEEDED = ("gpu", "tp", "model", "weights_dtype", "engine", "isl", "osl", "load")
FREE_FRACTION = "kv_cache_free_gpu_mem_fraction"  # TensorRT-LLM: a share of what the weights leave
DATED = {"2023": "0.2", "2024-01": "0.2"}  # versions that a table only dates
IN_PROCESS = ("static_batch", "offline")  # measured inside the engine's process: no HTTP, no tokenisation
OPTIONS = {"weights_dtype": "--weights", "load": "--concurrency or --qps"}


@dataclass(frozen=True)
class Setting:
    """What a point ran on. `replicas` of the deployment share its load."""

    deployment: Deployment
    plan: SkipPlan
    config: SchedulerConfig
    times: KernelTimes
    profile: EngineProfile
    replicas: int


def profile_of(point: Point) -> EngineProfile:
    """The profile of the point's engine and version; the pooled one for an engine that nobody measured."""
    version = DATED.get(point.engine_version or "", point.engine_version)
    number = re.match(r"[>=]*(\d+(\.\d+)*(rc)?)", version or "")
    engine = re.split(r"[(+]", point.engine or "")[0]  # forks and plug-ins share the engine's loop
    if engine not in {one.engine for one in profiles().values()}:
        return profile_named(POOLED)
    return profile_named(f"{engine}-{number[1]}" if number else engine)


def obstacle(point: Point) -> str:
    """Why the point cannot be simulated; empty where it can."""
    missing = [OPTIONS.get(name, f"--{name}") for name in NEEDED if getattr(point, name) is None]
    if missing:
        return f"not stated: {', '.join(missing)}"
    if point.flags.get("speculative"):
        return "speculative decoding with a trained head is not simulated"
    if point.flags.get("disaggregated"):
        return "disaggregated prefill and decode are not simulated"
    if point.weights_dtype not in ("bf16", "fp8"):
        return f"weights in {point.weights_dtype} are not simulated"
    return ""


def setting_of(point: Point, profile: EngineProfile | None = None) -> Setting:
    """The point's setting under a profile (default: its engine's). Raises InputError naming what it does not state."""
    why = obstacle(point)
    if why:
        raise InputError(f"{point.source}: {why}")
    profile = _streaming(point, profile or profile_of(point))
    assert point.gpu is not None
    assert point.model is not None
    assert point.tp is not None
    gpu, model = gpu_named(point.gpu), model_named(point.model)
    plan = strategy_named(str(point.flags.get("strategy", "none")), model)
    config = profile.config(gpu, **_scheduler_flags(point))
    deployment = _overlapping(point, profile).on(
        Deployment(
            model=model,
            gpu=gpu,
            tp=point.tp,
            weights=point.weights_dtype,  # type: ignore[arg-type]
            kv=point.kv_dtype or "bf16",  # type: ignore[arg-type]
            memory_utilization=float(str(point.flags.get("gpu_memory_utilization", 0.9))),
            kv_blocks=_integer(point.flags.get("num_gpu_blocks")),
        )
    )
    share = point.flags.get(FREE_FRACTION, profile.scheduler.get("kv_free_fraction"))
    if share is not None and deployment.kv_blocks is None:
        activations = float(profile.scheduler.get("activations", 1.0))
        deployment = _with_free_fraction(deployment, plan, config, float(str(share)), activations)
    if point.load is not None and point.load.kind in IN_PROCESS:
        deployment = replace(deployment, frontend=Frontend())
    replicas = max(1, (point.n_gpus or point.tp) // point.tp)
    return Setting(deployment, plan, config, profile.times(gpu.name, source=_kernels(gpu.name)), profile, replicas)


def _streaming(point: Point, profile: EngineProfile) -> EngineProfile:
    """The profile whose frontend handles every so manieth token only, where the point's flags say so."""
    interval = float(str(point.flags.get("stream_interval", 1)))
    if interval <= 1:
        return profile
    per_token = profile.parameters["stream_token_us"] / interval
    return replace(profile, parameters={**profile.parameters, "stream_token_us": per_token})


def _overlapping(point: Point, profile: EngineProfile) -> EngineProfile:
    """The profile with asynchronous scheduling on or off, where the point's flags say so."""
    wanted = point.flags.get("async_scheduling")
    if wanted is None:
        return profile
    return replace(profile, switches={**profile.switches, "overlap": bool(wanted)})


def _scheduler_flags(point: Point) -> dict[str, Any]:
    flags = point.flags
    names = ("max_num_seqs", "max_num_batched_tokens")
    known: dict[str, Any] = {name: int(str(flags[name])) for name in names if flags.get(name)}
    if flags.get("prefix_caching") is not None:
        known["prefix_caching"] = bool(flags["prefix_caching"])
    if flags.get("block_size"):
        known["block_tokens"] = int(str(flags["block_size"]))
    if point.load and point.load.kind == "static_batch":
        batch, prompt = int(point.load.value), round(point.isl or 1)
        known |= {"policy": "static", "max_num_seqs": batch, "max_num_batched_tokens": batch * prompt}
    return known


@cache
def _kernels(gpu: str) -> KernelTimes:
    return Remembered(times_for(gpu))


def _with_free_fraction(
    on: Deployment, plan: SkipPlan, config: SchedulerConfig, share: float, activations: float
) -> Deployment:
    """The deployment whose KV cache takes that share of what weights and so much of our activations leave."""
    used = on.weight_bytes_per_gpu(plan)
    used += activations * on.activation_bytes_per_gpu(config.max_num_batched_tokens, config.max_num_seqs)
    block = on.kv_bytes_per_block(plan, config.block_tokens) * on.model.layers / plan.caches.size
    blocks = int(share * (on.gpu.memory_bytes - used) // block)
    if blocks < 1:
        raise CapacityError(f"{on.model.name} on {on.tp} x {on.gpu.name}: weights leave no KV memory")
    return replace(on, kv_blocks=blocks)


def _integer(value: object) -> int | None:
    return None if value is None else int(str(value))
