"""Measures one workload in a process of its own: `python -m benchmarks.measure NAME REPEATS SIZE…` prints JSON.

Processor time of `Simulation.run`, the least of the repeats: whatever else the machine does only adds to it. A run is
counted whole, from the workload's columns to the result; apart are reading or drawing the workload, the first call
(which loads the compiled loop or compiles it), the price list (made once, whatever the workload) and summaries.
"""

import json
import resource
import sys
from time import process_time

from benchmarks.workloads import WORKLOADS
from sim.run.simulate import Simulation

SHORTEST_S = 0.05  # runs shorter than this are repeated until they take as long


def run_s(simulations: list[Simulation]) -> float:
    """Processor seconds of one run of all of them, the mean of as many as fill the shortest time."""
    runs, before = 0, process_time()
    while not runs or process_time() - before < SHORTEST_S:
        for one in simulations:
            one.run()
        runs += 1
    return (process_time() - before) / runs


def timed(call: object) -> float:
    """Processor seconds of a call."""
    before = process_time()
    call()  # type: ignore[operator]
    return process_time() - before


def measure(name: str, repeats: int, sizes: list[int]) -> dict[str, object]:
    """Seconds by number of requests, interleaved so that all see the same machine; start-up apart; peak memory."""
    make = WORKLOADS[name]
    few = make(len(make(8)))
    prices_s = timed(few[0].price_list)
    first_s = timed(few[0].run)
    work = {size: make(size) for size in sizes}
    best = dict.fromkeys([0, *sizes], float("inf"))
    for _ in range(repeats):
        best[0] = min(best[0], run_s(few))
        for size, simulations in work.items():
            best[size] = min(best[size], run_s(simulations))
    return {
        "run_s": {str(size): best[size] for size in sizes},
        "startup_s": best[0],
        "price_list_s": prices_s,
        "first_call_s": first_s,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1], int(sys.argv[2]), [int(size) for size in sys.argv[3:]])) + "\n")
