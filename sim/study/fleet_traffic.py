"""The traffic of a fleet's run: a workload, or a day drawn window by window."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from sim.errors import InputError
from sim.run.cluster import EXACT_BELOW, Fleet
from sim.run.dispatch import Batch
from sim.run.fleet_result import FleetResult
from sim.run.traffic import batch_of
from sim.workload.stream import Day
from sim.workload.workload import Workload


@dataclass(frozen=True)
class Whole:
    """A workload that is there as a whole."""

    work: Workload

    @property
    def source(self) -> str:
        """Where it comes from."""
        return self.work.source

    def through(self, fleet: Fleet) -> FleetResult:
        """What the fleet did with it."""
        return fleet.run(self.work)


@dataclass(frozen=True)
class Windows:
    """A day of traffic; every fleet sees the same requests."""

    day: Day

    @property
    def source(self) -> str:
        """Where it comes from."""
        return f"{self.day.name}; Poisson, a daily swing around the mean rate; seed {self.day.seed}"

    def through(self, fleet: Fleet) -> FleetResult:
        """What the fleet did with it; requests are kept one by one where there are few."""
        windows = self.day.windows()
        first = next(windows, None)
        if first is None:
            raise InputError(f"{self.day.name}: nobody asks anything; raise --qps or --hours")
        exact = self.day.expected < EXACT_BELOW
        return fleet.serve(self._batches(fleet, chain([first], windows)), like=first, exact=exact)

    def _batches(self, fleet: Fleet, windows: Iterator[Workload]) -> Iterator[Batch]:
        numbered = 0
        for window, work in enumerate(windows):
            yield batch_of(work, [k.share for k in fleet.classes], fleet.seed, first=numbered, window=window)
            numbered += len(work)


Traffic = Whole | Windows
