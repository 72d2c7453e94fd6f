"""How many requests per second the simulator simulates on one core: `python -m benchmarks.speed [--json]`.

short     204 tokens in, 62 out, Llama-3.1-8B on H100, Poisson at 80 per second (about 80 % of capacity), one replica
mooncake  Mooncake's conversation trace with prefix caching on one H200
azure     Azure's 2023 conversation trace on one H200
chunked   64 to 2,048 tokens, prompt to output 4:1, Llama-3.1-8B on A100-80, Poisson at 6 per second,
          chunks of 512 (Vidur's own setting; Llama-3 and 3.1 have one shape)

Processor time of `Simulation.run`, lowering of the price list included, compilation and reading of traces apart; the
median of three runs. Traces are read from ../shared/data/traces; a workload whose trace is missing is null.
"""

import argparse
import json
import resource
import sys
from pathlib import Path
from statistics import median
from time import process_time

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
REPEATS = 3


def short(requests: int) -> Workload:
    """The short workload."""
    return synthetic(requests=requests, arrivals=Poisson(80), prompts=Fixed(204), outputs=Fixed(62))


def chunked(requests: int) -> Workload:
    """Uniform total lengths, four prompt tokens to one output token."""
    rng = np.random.default_rng(0)
    total = rng.integers(64, 2049, requests)
    output = np.maximum(1, total // 5)
    return Workload(Poisson(6)(requests, rng), total - output, output, name="uniform 64-2048")


def trace(name: str) -> Workload | None:
    """A shared trace, or None where it is missing."""
    path = TRACES / name
    return read_trace(path) if path.is_file() else None


def seconds(workload: Workload, gpu: str, model: str, config: SchedulerConfig) -> float:
    """Processor seconds of one run, the median of three."""
    shape = model_named(model)
    run = Simulation(workload, Deployment(shape, gpu_named(gpu)), strategy_named("dense", shape), config).run
    taken = []
    for _ in range(REPEATS):
        before = process_time()
        run()
        taken.append(process_time() - before)
    return median(taken)


def rate(workload: Workload | None, gpu: str, model: str, **config: object) -> float | None:
    """Simulated requests per second."""
    if workload is None:
        return None
    return len(workload) / seconds(workload, gpu, model, SchedulerConfig(**config))  # type: ignore[arg-type]


def measure(million: int) -> dict[str, float | None]:
    """Every figure by name."""
    before = process_time()
    rate(short(100), "h100", "llama-3.1-8b")
    first_call_s = process_time() - before
    few, many = short(10_000), short(million)
    cost_few = seconds(few, "h100", "llama-3.1-8b", SchedulerConfig()) / len(few)
    cost_many = seconds(many, "h100", "llama-3.1-8b", SchedulerConfig()) / len(many)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "first_call_s": first_call_s,
        "short_req_per_s": 1 / cost_many,
        "growth_1m_over_10k": cost_many / cost_few,
        "peak_rss_mib_1m": peak_mib,
        "mooncake_req_per_s": rate(trace("mooncake_conversation.jsonl"), "h200", "llama-3.1-8b", prefix_caching=True),
        "azure_req_per_s": rate(trace("AzureLLMInferenceTrace_conv.csv"), "h200", "llama-3.1-8b"),
        "chunked_req_per_s": rate(chunked(20_000), "a100-80", "llama-3.1-8b", max_num_batched_tokens=512),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="simulated requests per second on one core")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the long run of the short workload")
    given = parser.parse_args()
    figures = measure(given.requests)
    if given.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:22} {'no trace' if value is None else f'{value:,.2f}'}\n")


if __name__ == "__main__":
    main()
