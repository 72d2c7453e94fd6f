"""90 % intervals from three sources of doubt: kernel prices, the engine's parameters and scatter, the traffic's chance.

Kernels and parameters are drawn (sim.run.uncertainty says how) and the question is asked again of every draw. The
same draws serve all strategies and all rates, so that they cancel where strategies are compared.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sim.cost.profiles import FACTORS, EngineProfile
from sim.cost.scaled import Factors, Scaled
from sim.errors import InputError
from sim.run.uncertainty import Z90, Interval, variations
from sim.study.engines import unmeasured
from sim.study.service import ONE_TOKEN, Service

DRAWS = 8
DRAWN, SERVER = ("kernels", "parameters"), "server"
# 95 % quantiles of Student's t with 1, 2, … degrees of freedom: the ends of a two-sided 90 % interval
STUDENT = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833)
Varied = Mapping[str, Sequence[Service]]  # by source


def varied(service: Service, *, draws: int, seed: int = 0) -> dict[str, list[Service]]:
    """The service as it may really be: `draws` times by source, and once on a server slower by a standard deviation.

    Parameters that were not fitted are not drawn, and for 0 draws nothing is. Raises InputError as `check_draws`.
    """
    check_draws(draws)
    found: dict[str, list[Service]] = {source: [] for source in (*DRAWN, SERVER)}
    if not draws:
        return found
    found[SERVER].append(slower(service, scatter_of(service).residual("throughput", service.deployment.gpu.name)))
    fitted = service.engine is not None and bool(service.engine.fitted)
    simulation = service.simulation(ONE_TOKEN)
    for one in variations(simulation, scatter_of(service), draws=draws, seed=seed):
        if one.source == "kernels" or (one.source == "parameters" and fitted):
            drawn = one.simulation
            found[one.source].append(replace(service, deployment=drawn.deployment, kernels=drawn.times))
    return found


def check_draws(draws: int) -> None:
    """Raises InputError for a number of draws that makes no interval."""
    if draws < 0 or draws == 1:
        raise InputError(f"draws={draws}: an interval needs 2 or more; 0 leaves kernels and engine out of it")


def slower(service: Service, share: float) -> Service:
    """The service on a server on which everything takes longer by the share: every kernel, and the host."""
    by = 1 + share
    host = service.deployment.host
    slow = {name: round(by * getattr(host, name)) for name in ("step_ns", "row_ns", "graph_gap_ns", "eager_launch_ns")}
    return replace(
        service,
        deployment=replace(service.deployment, host=replace(host, **slow)),
        kernels=Scaled(service.times, Factors(**dict.fromkeys(FACTORS, by)), "a slower server"),
    )


def scatter_of(service: Service) -> EngineProfile:
    """The profile that says how far servers of this kind scatter; where no engine was named, of any kind."""
    return service.engine or unmeasured()


def combined(value: float, by_source: Mapping[str, float]) -> Interval:
    """The interval of a figure whose logarithm is normal; `by_source` are standard deviations of the logarithm."""
    sd = math.sqrt(sum(one**2 for one in by_source.values()))
    return Interval(value, value * math.exp(-Z90 * sd), value * math.exp(Z90 * sd), dict(by_source))


def level(value: float, by_source: Mapping[str, float], *, most: float = math.inf) -> Interval:
    """The interval of a figure between 0 and `most` that may well be either; `by_source` are standard deviations."""
    half = Z90 * math.sqrt(sum(one**2 for one in by_source.values()))
    return Interval(value, max(0.0, value - half), min(most, value + half), dict(by_source))


def scaled(found: Interval, by: float) -> Interval:
    """The interval of a multiple of the figure."""
    return replace(found, value=found.value * by, low=found.low * by, high=found.high * by)


def rms(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Root of the mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def students(values: int) -> float:
    """How much wider a 90 % interval is where the spread was estimated from so few values (Student's t over normal)."""
    free = values - 1
    return STUDENT[free - 1] / Z90 if free <= len(STUDENT) else 1 + (Z90**2 + 1) / (4 * free)


def mean_sd(values: NDArray[np.float64]) -> float:
    """Standard deviation of the mean of a few values, widened for how few; 0 for a single one, which has no spread."""
    k = values.size
    return students(k) * float(values.std(ddof=1)) / math.sqrt(k) if k > 1 else 0.0


def columns(name: str, found: Interval | None) -> dict[str, object]:
    """`name` with its interval as a frame has them: name_low, name_high, and name_shares of the variance by source."""
    if found is None:
        return {f"{name}_low": None, f"{name}_high": None, f"{name}_shares": None}
    return {f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_shares": found.shares}
