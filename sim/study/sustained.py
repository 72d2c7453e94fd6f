"""Whether a run shows a load that can go on: the SLO holds, and the queue stands still."""

import math

import numpy as np
from numpy.typing import NDArray

from sim.errors import CapacityError
from sim.run.metrics import MS, Slo
from sim.run.result import Result
from sim.serving.columns import DONE, REFUSED
from sim.study.service import Service

ALONE = 200  # requests that are served one by one to see whether an SLO can be met at all
GROWTH = 0.02  # share of the last third's arrivals that may pile up
STAYS = 10.0  # mean stays that the arrivals should last for; with 10, capacity is found within a few per cent
DEVIATIONS = 3.0  # standard deviations by which the number in the system may grow by chance


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
    return stands_still(result)


def stands_still(result: Result) -> bool:
    """Whether the requests that were served left as fast as they came."""
    done = result.state.status == DONE
    return is_stable(result.asked.arrival_ns[done], result.state.last_token_ns[done])


def short_sample(result: Result) -> str:
    """A warning where the arrivals last for few stays of a request: an overload then has no time to show."""
    stays = float(result.asked.arrival_ns[-1]) / MS / float(np.nanmean(result.latency_ms["e2e"]))
    if stays >= STAYS:
        return ""
    few = f"{len(result.workload)} requests arrive within {stays:.1f} stays of one: too short to show overload"
    return f"{few}; raise --requests, or bring a longer trace"


def check_alone(service: Service, slo: Slo, requests: int = ALONE) -> float:
    """Mean seconds that a request stays when it is alone.

    Raises CapacityError, with the best that can be had, where requests served one by one miss the SLO.
    """
    result = service.run(service.load.alone(requests))
    if meets(result, slo):
        return float(np.nanmean(result.latency_ms["e2e"])) / 1e3
    asked, refused = len(result.workload), int((result.state.status == REFUSED).sum())
    if refused > (1 - slo.percentile / 100) * asked:
        raise CapacityError(
            f"{refused} of the first {asked} requests can never fit, more than an SLO for {slo.percentile:g} % of"
            " requests forgives; choose a model or GPU that holds them"
        )
    ttft, tpot = (float(np.nanpercentile(result.latency_ms[n], slo.percentile)) for n in ("ttft", "tpot"))
    on = service.deployment
    raise CapacityError(
        f"no load meets TTFT ≤ {slo.ttft_ms:g} ms and TPOT ≤ {slo.tpot_ms:g} ms for {slo.percentile:g} % of requests:"
        f" {service.plan.name} on {on.tp} x {on.gpu.name} takes {ttft:.1f} ms and {tpot:.1f} ms (p{slo.percentile:g})"
        " for a request alone; relax --slo-ttft-ms or --slo-tpot-ms, raise --tp or change --gpu"
    )
