"""How fast a large fleet is simulated: `python -m benchmarks.fleet [--replicas N --hours H --router R] [--json]`.

Llama-3.1-8B in fp8 on one L4 per replica, conversation lengths of Azure's 2023 trace, 0.6 requests per second and
on average with a daily swing of ± 50 %: 1,000 replicas and 24 hours are 52 million requests. Traffic is drawn in
windows of five minutes, metrics are sketched, replicas are simulated in cells over processes. Processor time of all
processes; compilation is apart, imports and lowering of the price list are included.
"""

import argparse
import json
import resource
import sys
from time import perf_counter

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.cells import Cells
from sim.run.cluster import Fleet, Group
from sim.run.dispatch import ROUTERS
from sim.run.fleet_result import FleetResult
from sim.study.fleet_day import through_the_day
from sim.workload.stream import Day

QPS = 0.6  # per replica


def cells_of(replicas: int, hours: float, router: str, cells: int) -> Cells:
    """The fleet and its day."""
    model = model_named("llama-3.1-8b")
    group = Group("l4", Deployment(model, gpu_named("l4"), weights="fp8"), strategy_named("dense", model), replicas)
    return Cells(Fleet([group], router=router), Day("azure-conv", qps=QPS * replicas, hours=hours), cells)


def seconds_and_mib() -> tuple[float, float]:
    """Processor seconds so far of this process and its children that ended; the largest memory of any of them."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in both), max(use.ru_maxrss for use in both) / 1024


def measure(replicas: int, hours: float, router: str, *, cells: int, workers: int) -> dict[str, object]:
    """Every figure by name."""
    cells_of(1, 0.01, router, 1).run(0)  # compiles
    before, wall = seconds_and_mib()[0], perf_counter()
    result: FleetResult = through_the_day(cells_of(replicas, hours, router, cells), workers=workers)
    after, peak_mib = seconds_and_mib()
    summary = result.summary()
    requests = int(str(summary["requests"]))
    return {
        "replicas": replicas,
        "hours": hours,
        "router": router,
        "cells": cells,
        "workers": workers,
        "requests": requests,
        "iterations": summary["iterations"],
        "cpu_s": after - before,
        "wall_s": perf_counter() - wall,
        "requests_per_cpu_s": requests / (after - before),
        "peak_rss_mib": peak_mib,
        "ttft_ms": summary["ttft_ms"],
        "tpot_ms": summary["tpot_ms"],
        "slo_met_share": summary["slo_met_share"],
        "gpu_hours": summary["gpu_hours"],
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="a large fleet through a day")
    parser.add_argument("--replicas", type=int, default=50)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--router", choices=ROUTERS, default="round_robin")
    parser.add_argument("--cells", type=int, help="default: one per worker")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cells = given.cells or given.workers
    figures = measure(given.replicas, given.hours, given.router, cells=cells, workers=given.workers)
    if given.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:22} {f'{value:,.2f}' if isinstance(value, float) else value}\n")


if __name__ == "__main__":
    main()
