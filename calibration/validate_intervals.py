"""Intervals for measured points, and whether nine in ten contain the measurement.

The variance of a figure's logarithm is what kernels, parameters and sampling give in a few draws, plus a remainder
that no parameter explains: servers differ. The remainder of a point's configuration is estimated from the held-out
errors of all *other* configurations of its engine, so coverage is never judged by the data that set the width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from calibration.points import Point
from calibration.validate_run import Prediction, metrics_of, wanted
from sim.cost.profiles import EngineProfile
from sim.run.uncertainty import SOURCES, Z90, interval, variations

DRAWS = 2
COVERED = 0.9
FLOOR = {"ttft": 0.08, "tpot": 0.02, "e2e": 0.02, "throughput": 0.02}
FAMILY = {"itl": "tpot", "decode": "tpot", "prefill": "ttft", "output": "throughput", "requests": "throughput"}
FAMILY |= {"total": "throughput"}
PROFILE_WIDE = 3  # configurations below which an engine's remainder is taken from all engines


@dataclass(frozen=True)
class Held:
    """One figure's held-out log error, the variance that its draws give, and where it comes from."""

    profile: str
    configuration: str
    family: str
    error: float
    variance: float


def family_of(metric: str) -> str:
    """ttft, tpot, e2e or throughput; a static batch's prefill and decode step count as TTFT and TPOT."""
    kind = metric.split("_")[0]
    return FAMILY.get(kind, kind)


def spreads(
    point: Point, prediction: Prediction, profile: EngineProfile, replicas: int, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Standard deviation of each metric's logarithm by source, from `draws` runs of each."""
    names = tuple(wanted(point))
    drawn: dict[str, list[Mapping[str, float]]] = {source: [] for source in SOURCES}
    for one in variations(prediction.simulation, profile, draws=draws, seed=seed):
        drawn[one.source].append(metrics_of(one.simulation.run(), names, replicas))
    return {
        name: dict(interval(prediction.metrics[name], {s: [d[name] for d in drawn[s]] for s in SOURCES}, 0.0).by_source)
        for name in names
    }


def variance(by_source: Mapping[str, float]) -> float:
    """Sum of the sources' variances."""
    return sum(sd**2 for sd in by_source.values())


def remainder(held: Sequence[Held], family: str) -> float:
    """Standard deviation that, added to the variances, makes nine of ten intervals contain their error."""
    errors = np.array([abs(one.error) for one in held if one.family == family])
    known = np.array([one.variance for one in held if one.family == family])
    if not errors.size:
        return FLOOR[family]
    low, high = 0.0, 3.0
    for _ in range(40):
        middle = (low + high) / 2
        if np.mean(errors <= Z90 * np.sqrt(known + middle**2)) >= COVERED:
            high = middle
        else:
            low = middle
    return max(high, FLOOR[family])


def usual_variance(held: Sequence[Held], profile: str, family: str) -> float:
    """What draws give for the usual figure of the family: of the profile, else of all; 0 where none was drawn."""
    some = [one for one in held if one.family == family]
    own = [one.variance for one in some if one.profile == profile]
    return float(np.median(own or [one.variance for one in some])) if some else 0.0


def remainder_without(held: Sequence[Held], profile: str, configuration: str, family: str) -> float:
    """The remainder from other configurations of the engine; of all engines where it has too few others."""
    others = [one for one in held if one.configuration != configuration]
    own = [one for one in others if one.profile == profile]
    enough = len({one.configuration for one in own if one.family == family}) >= PROFILE_WIDE
    return remainder(own if enough else others, family)


def ends(value: float, sd: float) -> tuple[float, float]:
    """The 90 % interval of a log-normal figure."""
    return value * math.exp(-Z90 * sd), value * math.exp(Z90 * sd)
