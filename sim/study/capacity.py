"""How much one replica can take: the largest rate at which the SLO holds and the queue stands still."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from sim.errors import CapacityError, InputError
from sim.run.metrics import Slo
from sim.run.uncertainty import Interval
from sim.study.intervals import DRAWN, DRAWS, STUDENT, check_draws, combined, mean_sd, rms, scatter_of, varied
from sim.study.search import Bracket, search
from sim.study.service import Service
from sim.study.sustained import check_alone, meets, short_sample, sustains

MOST_SEEDS = len(STUDENT) + 1
SEEDS = (0, 1, 2)
FINE, NEAR = 0.005, 1.04  # width of a draw's bracket, and the first step from the capacity without draws
NEVER = 0.02  # share of the capacity below which a draw counts as one that has none
LONELY = 0.001  # requests per stay of one alone: they never meet
MOST_DRAWN = 4000  # requests of a draw: how far it moves the capacity shows in some thousands
ALONE_SEED = "one seed does not show what the traffic's chance does to a capacity; give --seeds 2 or more"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Capacity:
    """The largest rates that one replica sustains, one bracket per seed, and what moves them.

    The traffic's chance is Student's t over the seeds. `drawn` holds, by source, the logarithm of the capacity under
    each draw over the capacity without (minus infinity: the draw meets the SLO at no rate); `scatter` is how far
    servers lie around their engine's profile. `flattery` is the share by which traffic half as long overstates the
    capacity: the shorter the traffic, the less time an overload has to show, so the interval reaches down by as much.
    """

    brackets: tuple[Bracket, ...]
    limited_by: str = "slo"  # or queue: the SLO would still hold, but requests pile up
    note: str = ""  # what to know before believing the figure
    drawn: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    scatter: float = 0.0
    flattery: float = 0.0

    @property
    def qps(self) -> float:
        """Mean over seeds of the largest rate seen to work."""
        return float(self._lows.mean())

    @property
    def low(self) -> float:
        """Lower end of the 90 % interval."""
        return self.interval.low

    @property
    def high(self) -> float:
        """Upper end of the 90 % interval."""
        return self.interval.high

    @cached_property
    def interval(self) -> Interval:
        """The capacity with its 90 % interval; from 0 on where a draw meets the SLO at no rate."""
        by_source = {name: rms(_finite(self._logs(name))) for name in DRAWN}
        by_source["parameters"] = math.hypot(by_source["parameters"], self.scatter)
        found = combined(self.qps, by_source | {"sampling": self._chance})
        hopeless = any(np.isinf(self._logs(name)).any() for name in DRAWN)
        low = 0.0 if hopeless else found.low / (1 + self.flattery)
        return replace(found, low=low, high=found.high * self._resolution)

    @property
    def evaluations(self) -> int:
        """Runs that the search took."""
        return sum(b.evaluations for b in self.brackets)

    def ratio_to(self, other: "Capacity") -> Interval:
        """This capacity over another's; its doubt is paired by seed and by draw, which both saw."""
        logs = np.log(self._lows / other._lows)
        by_source = {name: rms(_finite(self._logs(name) - other._logs(name))) for name in DRAWN}
        found = combined(self.qps / other.qps, by_source | {"sampling": mean_sd(logs)})
        wide = 1.0 if self is other else self._resolution
        return replace(found, low=found.low / wide, high=found.high * wide)

    @cached_property
    def _lows(self) -> NDArray[np.float64]:
        return np.array([b.low for b in self.brackets])

    @property
    def _chance(self) -> float:
        """What seeds differ by, which brackets tell no better than they are wide (each a uniform distribution)."""
        width = math.log(self._resolution) / math.sqrt(12 * len(self.brackets))
        return math.hypot(mean_sd(np.log(self._lows)), width)

    @property
    def _resolution(self) -> float:
        return float(np.mean([b.high / b.low for b in self.brackets]))

    def _logs(self, source: str) -> NDArray[np.float64]:
        return np.array(self.drawn.get(source, ()))


def _finite(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    return logs[np.isfinite(logs)]


def replicas_for(demand_qps: float, qps: float) -> int:
    """Replicas that a demand needs when it is spread evenly: ⌈demand / capacity⌉."""
    if not (math.isfinite(demand_qps) and demand_qps > 0):
        raise InputError(f"demand is {demand_qps} requests per second; it must be a positive number")
    return math.ceil(demand_qps / qps)


def capacity_of(
    service: Service,
    slo: Slo,
    *,
    seeds: Sequence[int] = SEEDS,
    tolerance: float = 0.02,
    draws: int = DRAWS,
    tell: Tell | None = None,
) -> Capacity:
    """The capacity of a replica; `tell` hears of every rate that was tried.

    The first search starts from four fifths of the rate at which a replica works off all requests when they are there
    at once; those of the other seeds start where the one before ended. `draws` per source widen the interval by what
    is not known of kernels and engine. Raises CapacityError where not even a request alone meets the SLO, and where
    all requests at once still do.
    """
    if not 1 <= len(seeds) <= MOST_SEEDS:
        raise InputError(f"{len(seeds)} seeds: a capacity needs 1 to {MOST_SEEDS}")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is {tolerance}; it must be a share between 0 and 1")
    check_draws(draws)
    brackets = _brackets(service, slo, seeds, tolerance, tell)
    beyond = service.at(brackets[0].high, seeds[0])
    notes = [short_sample(service.at(brackets[0].low, seeds[0])), ALONE_SEED if len(seeds) == 1 else ""]
    return Capacity(
        tuple(brackets),
        "queue" if meets(beyond, slo) else "slo",
        "; ".join(filter(None, notes)),
        drawn_logs(service, slo, seeds[0], near=brackets[0].low, draws=draws, tell=tell),
        scatter_of(service).residual("throughput", service.deployment.gpu.name) if draws else 0.0,
        flattery_of(service, slo, seeds, [b.low for b in brackets]),
    )


def _brackets(service: Service, slo: Slo, seeds: Sequence[int], tolerance: float, tell: Tell | None) -> list[Bracket]:
    """A bracket per seed; raises what `capacity_of` does of the SLO."""
    least = LONELY / check_alone(service, slo)
    start, step = 0.8 * min(_drain_rate(service, slo, seed) for seed in seeds), 1.25
    found: list[Bracket] = []
    for seed in seeds:
        works = partial(_works, service, slo, seed, tell)
        try:
            found.append(search(works, start=start, step=step, tolerance=tolerance, least=least))
        except CapacityError:
            check_alone(service, slo, len(service.load.together(seed)))  # the first of them may have been lucky
            raise
        start, step = found[-1].low, 1 + 2 * tolerance
    return found


def drawn_logs(
    service: Service, slo: Slo, seed: int, *, near: float, draws: int, tell: Tell | None = None
) -> dict[str, tuple[float, ...]]:
    """Logarithm of the capacity under each draw over the capacity without, by source, for the first requests."""

    def log_of(one: Service) -> float:
        works = partial(_works_first, one, slo, seed, MOST_DRAWN)
        try:
            return math.log(search(works, start=near, step=NEAR, tolerance=FINE, least=NEVER * near).low)
        except CapacityError:
            return -math.inf

    found = varied(service, draws=draws)
    centre = log_of(service) if draws else 0.0
    if math.isinf(centre):
        return dict.fromkeys(DRAWN, (centre,))
    logs: dict[str, tuple[float, ...]] = {}
    for source in DRAWN:
        if tell and found[source]:
            tell(f"{draws} draws of the {source}")
        logs[source] = tuple(log_of(one) - centre for one in found[source])
    return logs


def flattery_of(service: Service, slo: Slo, seeds: Sequence[int], works_at: Sequence[float]) -> float:
    """How much more the first half of the requests seems to let through, as a share; infinite where it has no limit.

    An overload of x piles up over the time that the traffic lasts, so what is overlooked falls with its length, and
    half the traffic overlooks twice as much.
    """
    logs = []
    for seed, qps in zip(seeds, works_at):
        half = len(service.load.at(qps, seed)) // 2
        if half < 2 or meets(service.run(service.load.together(seed).take(half)), slo):
            return math.inf
        works = partial(_works_first, service, slo, seed, half)
        with suppress(CapacityError):  # where no rate works for half the traffic, it flatters nobody
            logs.append(math.log(search(works, start=qps, step=1.1, tolerance=0.02, least=NEVER * qps).low / qps))
    return max(0.0, math.expm1(float(np.mean(logs)))) if logs else 0.0


def _drain_rate(service: Service, slo: Slo, seed: int) -> float:
    """Requests per second at which all requests of a seed are worked off when they are there at once."""
    together = service.run(service.load.together(seed), seed=seed)
    if meets(together, slo):
        raise CapacityError(
            f"all {len(together.workload)} requests at once still meet the SLO, so they show no limit;"
            " raise --requests, bring a longer trace, or tighten the SLO"
        )
    return len(together.workload) / together.makespan_s


def _works(service: Service, slo: Slo, seed: int, tell: Tell | None, qps: float) -> bool:
    good = sustains(service.at(qps, seed), slo)
    if tell:
        tell(f"seed {seed}: {qps:.3g} requests per second {'hold' if good else 'do not hold'}")
    return good


def _works_first(service: Service, slo: Slo, seed: int, most: int, qps: float) -> bool:
    """The same for the first requests at that rate."""
    work = service.load.at(qps, seed)
    if most < len(work):
        work = work.take(most)
        if not work.arrival_ns[-1]:
            return False  # they all come at once
        work = work.scaled_to(qps)
    return sustains(service.run(work, seed=seed), slo)
