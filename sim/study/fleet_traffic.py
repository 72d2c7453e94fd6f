"""The traffic of a fleet's run: a workload, or a day drawn window by window."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from sim.errors import InputError
from sim.run.cluster import EXACT_BELOW, Fleet
from sim.run.dispatch import Batch
from sim.run.fleet_result import FleetResult
from sim.run.traffic import batch_of
from sim.study.loads import TraceLoad
from sim.study.settings import DEFAULT_WORKLOAD, load_of, seed_of, workload_of
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

    @property
    def expected(self) -> float:
        """Requests."""
        return len(self.work)

    @property
    def lasts_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return float(self.work.arrival_ns[-1]) / 1e9

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

    @property
    def expected(self) -> float:
        """Requests to expect."""
        return self.day.expected

    @property
    def lasts_s(self) -> float:
        """Seconds of traffic."""
        return self.day.hours * 3600

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


def traffic_of(args: argparse.Namespace) -> Traffic:
    """The traffic that the options describe: a day where --hours says so, else a workload."""
    if args.hours is None:
        args.concurrency = None
        return Whole(workload_of(args, load_of(args)))
    for name in ("trace", "prompt_tokens", "arrivals"):
        if getattr(args, name) is not None:
            raise InputError(f"--hours draws its own traffic; it does not go with --{name.replace('_', '-')}")
    if args.qps is None:
        raise InputError("--hours needs the mean rate of the whole fleet: give --qps")
    return Windows(Day(args.workload or DEFAULT_WORKLOAD, args.qps, args.hours, args.swing, seed=seed_of(args)))


def traffic_again(args: argparse.Namespace, traffic: Traffic) -> Traffic:
    """Traffic of the same kind under the options' seed: a recorded trace, which has none, in blocks drawn again."""
    if isinstance(traffic, Windows) or args.trace is None:
        return traffic_of(args)
    load = load_of(args)
    if not isinstance(load, TraceLoad) or load.arrivals is not None or not traffic.lasts_s:
        return traffic_of(args)
    return Whole(load.at((len(traffic.work) - 1) / traffic.lasts_s, args.seed))
