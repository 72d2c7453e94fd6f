"""The workloads of the speed benchmark, each as the simulations that it takes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.simulate import Simulation
from sim.serving.config import SchedulerConfig
from sim.workload.arrivals import Poisson
from sim.workload.generate import synthetic
from sim.workload.lengths import Fixed
from sim.workload.traces import read_trace
from sim.workload.workload import Workload

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
MODEL = "llama-3.1-8b"
REPLICAS = 8


def short(requests: int) -> list[Simulation]:
    """204 tokens in, 62 out, on one H100, 107 per second: 80 % of the 134 that it takes with 256 clients in a loop."""
    load = synthetic(requests=requests, arrivals=Poisson(107), prompts=Fixed(204), outputs=Fixed(62))
    return [on("h100", load)]


def mooncake(requests: int) -> list[Simulation]:
    """Mooncake's conversation trace dealt round robin to eight H200 with prefix caching.

    Which replica a request goes to depends on its number alone, so each replica is a simulation of its own.
    """
    load = trace("mooncake_conversation.jsonl").take(requests)
    return [on("h200", every(load, i, REPLICAS), prefix_caching=True) for i in range(REPLICAS)]


def azure(requests: int) -> list[Simulation]:
    """Azure's 2023 conversation trace on one H200."""
    return [on("h200", trace("AzureLLMInferenceTrace_conv.csv").take(requests))]


def chunked(requests: int) -> list[Simulation]:
    """Vidur's own setting: 64 to 2,048 tokens, four of the prompt to one of the output, 6 per second on one A100,
    chunks of 512, at most 128 sequences (Llama-3-8B and 3.1-8B have one shape)."""
    rng = np.random.default_rng(0)
    total = rng.integers(64, 2049, requests)
    output = np.maximum(1, total // 5)
    load = Workload(Poisson(6)(requests, rng), total - output, output, name="uniform 64-2048")
    return [on("a100-80", load, max_num_batched_tokens=512, max_num_seqs=128)]


WORKLOADS: Mapping[str, Callable[[int], list[Simulation]]] = {
    "short": short,
    "mooncake": mooncake,
    "azure": azure,
    "chunked": chunked,
}


def on(gpu: str, load: Workload, **config: object) -> Simulation:
    """The dense Llama-3.1-8B under this load."""
    model = model_named(MODEL)
    return Simulation(
        load,
        Deployment(model, gpu_named(gpu)),
        strategy_named("dense", model),
        SchedulerConfig(**config),  # type: ignore[arg-type]
    )


def trace(name: str) -> Workload:
    """A shared trace; FileNotFoundError where it is missing."""
    path = TRACES / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such trace")
    return read_trace(path)


def every(load: Workload, first: int, step: int) -> Workload:
    """Requests first, first + step, … with their prefix blocks."""
    picks = np.arange(first, len(load), step)
    columns = {name: getattr(load, name)[picks] for name in ("arrival_ns", "prompt_tokens", "output_tokens")}
    blocks = list(load.hashes())
    if not blocks:
        return replace(load, **columns)
    mine = [blocks[i] for i in picks]
    offsets = np.cumsum([0, *map(len, mine)])
    return replace(load, **columns, hash_ids=np.concatenate(mine), hash_offsets=offsets)
