"""How much one replica can take: the largest rate at which the SLO holds and the queue stands still."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sim.errors import CapacityError, InputError
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.study.search import Bracket, search
from sim.study.service import Service

ALONE = 200  # requests that are served one by one to see whether an SLO can be met at all
GROWTH = 0.02  # share of the last third's arrivals that may pile up
STAYS = 10.0  # mean stays that the arrivals should last for; with 10, capacity is found within a few per cent
DEVIATIONS = 3.0  # standard deviations by which the number in the system may grow by chance
# 95 % quantiles of Student's t with 1, 2, … degrees of freedom: the ends of a two-sided 90 % interval
STUDENT = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
MOST_SEEDS = len(STUDENT) + 1
Tell = Callable[[str], None]


def is_stable(arrival_ns: NDArray[np.int64], leave_ns: NDArray[np.int64]) -> bool:
    """Whether requests leave as fast as they come.

    Compares the mean number in the system over the middle and the last third of the arrivals. An overload of x % piles
    up x % of what arrives; a queue is called unstable when more than 2 % of the last third's arrivals do, and more
    than chance explains: three standard deviations of that difference in a system where nobody waits (M/G/∞, where
    the mean of N over a window W varies by 2·N·stay/W), widened by the burstiness of the arrivals.
    """
    span = float(arrival_ns[-1])
    if span == 0:
        return False
    window = span / 3

    def mean(begin: float) -> float:
        stays = np.minimum(leave_ns, begin + window) - np.maximum(arrival_ns, begin)
        return float(np.clip(stays, 0, None).sum()) / window

    middle, last = mean(window), mean(2 * window)
    stay = float((leave_ns - arrival_ns).mean())
    gaps = np.diff(arrival_ns)
    burstiness = max(1.0, float(gaps.std() / gaps.mean()))
    chance = DEVIATIONS * burstiness * math.sqrt(2 * 2 * middle * stay / window)
    arrivals = int((arrival_ns > 2 * window).sum())
    return last - middle <= max(GROWTH * arrivals, chance)


def meets(result: Result, slo: Slo) -> bool:
    """Whether the share of requests that the SLO promises met both limits; a refused request misses them."""
    return result.goodput(slo)[1] >= slo.percentile / 100


def sustains(result: Result, slo: Slo) -> bool:
    """Whether the run met the SLO on a queue that stood still."""
    if not meets(result, slo):
        return False
    served = result.requests.drop_nulls("last_token_ns")
    return is_stable(served["arrival_ns"].to_numpy(), served["last_token_ns"].to_numpy())


@dataclass(frozen=True)
class Capacity:
    """The largest rates that one replica sustains, one bracket per seed; the interval is for 90 %.

    The interval is Student's t over the seeds' rates, widened above by the brackets: it says how far the figure is
    known for traffic of this kind, not how well the model prices a step.
    """

    brackets: tuple[Bracket, ...]
    limited_by: str = "slo"  # or queue: the SLO would still hold, but requests pile up
    note: str = ""  # what to know before believing the figure

    @property
    def qps(self) -> float:
        """Mean over seeds of the largest rate seen to work."""
        return float(self._lows.mean())

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return max(0.0, self.qps - self._half)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return float(np.mean([b.high for b in self.brackets])) + self._half

    @property
    def evaluations(self) -> int:
        """Runs that the search took."""
        return sum(b.evaluations for b in self.brackets)

    def ratio_to(self, other: "Capacity") -> tuple[float, float, float]:
        """This capacity over another's with its interval: paired by seed, since both saw the same requests."""
        ratios = self._lows / other._lows
        half = student_half(ratios) + self._resolution
        mean = float(ratios.mean())
        return mean, mean - half, mean + half

    @cached_property
    def _lows(self) -> NDArray[np.float64]:
        return np.array([b.low for b in self.brackets])

    @property
    def _half(self) -> float:
        return student_half(self._lows)

    @property
    def _resolution(self) -> float:
        return float(np.mean([b.width for b in self.brackets]))


def student_half(values: NDArray[np.float64]) -> float:
    """Half the width of the two-sided 90 % interval of the mean; 0 for a single value, which knows no spread."""
    k = values.size
    return 0.0 if k < 2 else STUDENT[k - 2] * float(values.std(ddof=1)) / math.sqrt(k)


def replicas_for(demand_qps: float, qps: float) -> int:
    """Replicas that a demand needs when it is spread evenly: ⌈demand / capacity⌉."""
    if not (math.isfinite(demand_qps) and demand_qps > 0):
        raise InputError(f"demand is {demand_qps} requests per second; it must be a positive number")
    return math.ceil(demand_qps / qps)


def capacity_of(
    service: Service, slo: Slo, *, seeds: Sequence[int] = (0, 1, 2), tolerance: float = 0.02, tell: Tell | None = None
) -> Capacity:
    """The capacity of a replica; `tell` hears of every rate that was tried.

    The first search starts from four fifths of the rate at which a replica works off all requests when they are there
    at once; those of the other seeds start where the one before ended. Raises CapacityError where not even a request
    alone meets the SLO, and where all requests at once still do.
    """
    if not 1 <= len(seeds) <= MOST_SEEDS:
        raise InputError(f"{len(seeds)} seeds: a capacity needs 1 to {MOST_SEEDS}")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance is {tolerance}; it must be a share between 0 and 1")
    check_alone(service, slo)
    together = service.run(service.load.together(seeds[0]))
    if meets(together, slo):
        raise CapacityError(
            f"all {len(together.requests)} requests at once still meet the SLO, so they show no limit;"
            " raise --requests or tighten the SLO"
        )
    start, step = 0.8 * len(together.requests) / together.makespan_s, 1.25
    brackets: list[Bracket] = []
    for seed in seeds:
        works = partial(_works, service, slo, seed, tell)
        brackets.append(search(works, start=start, step=step, tolerance=tolerance))
        start, step = brackets[-1].low, 1 + 2 * tolerance
    beyond = service.at(brackets[0].high, seeds[0])
    note = short_sample(service.at(brackets[0].low, seeds[0]))
    return Capacity(tuple(brackets), "queue" if meets(beyond, slo) else "slo", note)


def _works(service: Service, slo: Slo, seed: int, tell: Tell | None, qps: float) -> bool:
    good = sustains(service.at(qps, seed), slo)
    if tell:
        tell(f"seed {seed}: {qps:.3g} requests per second {'hold' if good else 'do not hold'}")
    return good


def short_sample(result: Result) -> str:
    """A warning where the arrivals last for few stays of a request: an overload then has no time to show."""
    frame = result.requests
    stays = float(frame["arrival_ns"][-1]) / 1e6 / float(np.nanmean(frame["e2e_ms"].cast(pl.Float64).to_numpy()))
    if stays >= STAYS:
        return ""
    return f"{len(frame)} requests arrive within {stays:.1f} stays of one: too short to show overload; raise --requests"


def check_alone(service: Service, slo: Slo) -> None:
    """Raises CapacityError, with the best that can be had, where requests served one by one miss the SLO."""
    result = service.run(service.load.alone(ALONE))
    if meets(result, slo):
        return
    frame = result.requests
    refused = int((frame["status"] == "refused").sum())
    if refused > (1 - slo.percentile / 100) * len(frame):
        raise CapacityError(
            f"{refused} of the first {len(frame)} requests can never fit, more than an SLO for {slo.percentile:g} % of"
            " requests forgives; choose a model or GPU that holds them"
        )
    ttft, tpot = (float(np.nanpercentile(frame[n].cast(pl.Float64), slo.percentile)) for n in ("ttft_ms", "tpot_ms"))
    on = service.deployment
    raise CapacityError(
        f"no load meets TTFT ≤ {slo.ttft_ms:g} ms and TPOT ≤ {slo.tpot_ms:g} ms for {slo.percentile:g} % of requests:"
        f" {service.plan.name} on {on.tp} x {on.gpu.name} takes {ttft:.1f} ms and {tpot:.1f} ms (p{slo.percentile:g})"
        " for a request alone; relax --slo-ttft-ms or --slo-tpot-ms, raise --tp or change --gpu"
    )
