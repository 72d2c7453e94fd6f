"""What chance alone does to a run's figures, from the run itself.

A run is cut into contiguous parts that last for some stays of a request each, long enough to be taken for independent;
what its figures do when one part is left out says what they would do with other requests of the same kind (the
delete-one-block jackknife; Kunsch 1989).
"""

import math

import numpy as np
from numpy.typing import NDArray

from sim.run.bootstrap import resampled
from sim.run.log import regular_gaps
from sim.run.metrics import MS, QUANTILES, Slo
from sim.run.result import Result
from sim.serving.columns import DONE
from sim.study.intervals import students

LATENCIES = ("ttft", "tpot", "e2e")
STATISTICS = (*(f"p{q}" for q in QUANTILES), "mean")
FEWEST = 4  # requests without which nothing is known of the traffic's chance
LEAST_PARTS, MOST_PARTS = 4, 30
MOST_GAPS = 200_000  # iterations whose gaps are looked at
STAYS = 2.0  # mean stays that a part lasts for
Figures = dict[str, float]
Floats = NDArray[np.float64]


def sampling_sd(result: Result, slo: Slo) -> Figures:
    """Standard deviation by figure: of its logarithm, and of the figure itself for goodput and the share that met."""
    if np.isnan(result.latency_ms["e2e"]).all():
        return {}
    parts = parts_of(result)
    found: Figures = {}
    for name in LATENCIES:
        values = served(result, name)
        if values.size >= FEWEST:
            all_but_one = 1 - np.eye(min(parts, values.size), dtype=np.int64)
            figures = resampled(values, QUANTILES, all_but_one)
            found |= {f"{name}_{q}_ms": _log_sd(column) for q, column in zip(STATISTICS, figures.T)}
    found |= {f"itl_{q}_ms": _log_sd(column) for q, column in zip(STATISTICS, _gap_figures(result, parts).T)}
    return found | _rate_sd(result, slo, parts)


def parts_of(result: Result) -> int:
    """How many parts a run is cut into."""
    stay_s = float(np.nanmean(result.latency_ms["e2e"])) / 1e3
    lasting = result.makespan_s / (STAYS * stay_s) if stay_s > 0 else MOST_PARTS
    return round(min(MOST_PARTS, max(LEAST_PARTS, lasting)))


def served(result: Result, metric: str) -> Floats:
    """A latency in ms of the requests that have it, in the order of their arrival."""
    values = result.latency_ms[metric]
    return values[np.isfinite(values)]


def _gap_figures(result: Result, parts: int) -> Floats:
    """p50, p90, p99 and mean of the gaps between tokens without each part of the iterations, [parts, 4]."""
    gaps_ns, after = regular_gaps(result.logged)
    every = 1 + gaps_ns.size // MOST_GAPS
    gaps_ns, after = gaps_ns[::every], after[::every]
    order = np.argsort(gaps_ns, kind="stable")
    gaps, weights = gaps_ns[order] / MS, after[order].astype(np.float64)
    part = _numbered(gaps.size, parts)[order]
    rows = []
    for one in range(parts):
        covered = np.cumsum(np.where(part == one, 0.0, weights))
        if covered.size and covered[-1] > 0:
            at = np.searchsorted(covered, np.array(QUANTILES) / 100 * covered[-1])
            mean = float((gaps * np.diff(covered, prepend=0.0)).sum() / covered[-1])
            rows.append([*gaps[at], mean])
    return np.array(rows).reshape(-1, len(STATISTICS))


def _rate_sd(result: Result, slo: Slo, parts: int) -> Figures:
    """The same of the rates: sums over the time in which each part of the requests came, or left.

    The steadier of both counts: below its capacity a replica passes on the chance of arrivals, above it its own.
    """
    done = np.flatnonzero(result.state.status == DONE)
    if done.size < FEWEST:
        return {}
    came_ns, left_ns = result.asked.arrival_ns[done], result.state.last_token_ns[done]
    found = _rates_by(result, slo, parts, done[np.argsort(left_ns, kind="stable")], result.state.last_token_ns)
    if not result.workload.concurrency and came_ns[-1] > came_ns[0]:
        other = _rates_by(result, slo, parts, done, result.asked.arrival_ns)
        found = {name: min(sd, other[name]) for name, sd in found.items()}
    costs = ("dollars_per_million_output_tokens", "kwh_per_million_output_tokens")
    return found | dict.fromkeys(costs, found["output_tokens_per_s"])


def _rates_by(result: Result, slo: Slo, parts: int, order: NDArray[np.int64], when_ns: NDArray[np.int64]) -> Figures:
    """The spread of the rates over parts of the requests in an order, each lasting to the time of its last one."""
    part = _numbered(order.size, parts)
    ends = when_ns[order][np.append(np.flatnonzero(np.diff(part)), order.size - 1)]
    spans = np.diff(ends, prepend=result.asked.arrival_ns[0]).astype(np.float64)
    met = slo.met(result.latency_ms["ttft"], result.latency_ms["tpot"])

    def sums(of: NDArray[np.generic]) -> Floats:
        return np.bincount(part, of[order].astype(np.float64)).astype(np.float64)

    output, prompt = sums(result.asked.output_tokens), sums(result.asked.prompt_tokens)
    counts = np.bincount(part).astype(np.float64)
    goodput, share = result.goodput(slo)
    return {
        "requests_per_s": _ratio_sd(counts, spans),
        "output_tokens_per_s": _ratio_sd(output, spans),
        "total_tokens_per_s": _ratio_sd(output + prompt, spans),
        "goodput_per_s": goodput * _ratio_sd(sums(met), spans),
        "slo_met_share": share * _ratio_sd(sums(met), counts),
    }


def _numbered(size: int, parts: int) -> NDArray[np.int64]:
    """The part that each of so many neighbours belongs to, [size]; no more parts than there are neighbours."""
    return np.arange(size) * min(parts, size) // max(1, size)


def _log_sd(without: Floats) -> float:
    """Standard deviation of a figure's logarithm, from the figure without each part."""
    logs = np.log(without[without > 0])
    k = logs.size
    return students(k) * math.sqrt((k - 1) * float(logs.var())) if k > 1 else 0.0


def _ratio_sd(above: Floats, below: Floats) -> float:
    """Standard deviation of a ratio of sums over parts, as a share of it (the ratio estimator); 0 for a ratio of 0."""
    total, k = float(above.sum()), above.size
    if not total:
        return 0.0
    return students(k) * math.sqrt(k / (k - 1) * float(np.square(above - total / below.sum() * below).sum())) / total
