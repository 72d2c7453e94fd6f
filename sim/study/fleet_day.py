"""A large fleet through a day: its cells over processes, their results merged."""

from collections.abc import Callable
from time import perf_counter

from sim.run.cells import Cells, merged
from sim.run.fleet_result import FleetResult
from sim.study.pool import Job, executor, run_all

Tick = Callable[[str, int, int], None]


def through_the_day(cells: Cells, *, workers: int = 1, tick: Tick | None = None) -> FleetResult:
    """What the whole fleet did. Results do not depend on the number of processes."""
    started = perf_counter()
    jobs: list[tuple[str, Job]] = [(f"cell {i + 1}", (cells.run, (i,))) for i in range(cells.cells)]
    done = [0]

    def told(name: str) -> None:
        done[0] += 1
        if tick:
            tick(name, done[0], len(jobs))

    with executor(min(workers, len(jobs))) as pool:
        parts = run_all(pool, jobs, told)
    return merged(parts, perf_counter() - started)
