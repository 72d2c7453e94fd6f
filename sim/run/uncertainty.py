"""Prediction intervals: how far a figure may be off, and which of three sources makes it so.

    kernels      each kernel's price is off by what its fit leaves unexplained, and by more where nothing was measured
    parameters   the engine's parameters are known to a standard error, and servers scatter around any fit
    sampling     the same kind of traffic, drawn again

Each source is varied alone in a few seeded runs; the logarithm of a figure is taken to be normal and the sources to be
independent, so their variances add. Intervals are for a single server measured once, not for the mean of many.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sim.cost.perturbed import Perturbed
from sim.cost.profiles import FACTORS, EngineProfile
from sim.cost.times import times_for
from sim.errors import InputError
from sim.run.result import Result
from sim.run.simulate import Simulation
from sim.workload.workload import Workload

Source = Literal["kernels", "parameters", "sampling"]
SOURCES: tuple[Source, ...] = get_args(Source)
Z90 = 1.645
Figures = Mapping[str, float]
Measure = Callable[[Simulation], Figures]
LATENCIES = ("ttft", "tpot", "e2e")


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 90 % interval and the standard deviation of its logarithm by source."""

    value: float
    low: float
    high: float
    by_source: Mapping[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the variance that each source contributes."""
        total = sum(sd**2 for sd in self.by_source.values())
        return {name: sd**2 / total if total else 0.0 for name, sd in self.by_source.items()}

    def whole(self) -> tuple[int, int, int]:
        """Value, low and high rounded up: a number of GPUs."""
        return math.ceil(self.value), math.ceil(self.low), math.ceil(self.high)


@dataclass(frozen=True)
class Variation:
    """The simulation with one source varied."""

    source: Source
    simulation: Simulation


def predict(
    simulation: Simulation,
    profile: EngineProfile,
    *,
    draws: int = 8,
    seed: int = 0,
    measure: Measure | None = None,
) -> dict[str, Interval]:
    """Every figure of the run under the engine's profile, with its 90 % interval.

    `measure` maps a simulation to named figures; the default runs it and takes mean and percentiles of TTFT, TPOT and
    E2E in ms and the rates. Pass a capacity search to have its interval. It is called 3 · draws + 1 times. Raises
    InputError for fewer than two draws.
    """
    if draws < 2:
        raise InputError(f"draws={draws}: an interval needs at least 2")
    figures = measure or run_figures
    under = with_profile(simulation, profile)
    centre = figures(under)
    drawn: dict[str, list[Figures]] = {source: [] for source in SOURCES}
    for variation in variations(under, profile, draws=draws, seed=seed):
        drawn[variation.source].append(figures(variation.simulation))
    gpu = under.deployment.gpu.name
    return {
        name: interval(value, {s: [one[name] for one in drawn[s]] for s in SOURCES}, profile.residual(name, gpu))
        for name, value in centre.items()
    }


def with_profile(simulation: Simulation, profile: EngineProfile) -> Simulation:
    """The simulation on the engine of a profile: its host, frontend and kernel factors; the scheduler stays."""
    deployment = profile.on(simulation.deployment)
    source = simulation.times or times_for(deployment.gpu.name)
    return replace(simulation, deployment=deployment, times=profile.scaled(source))


def variations(simulation: Simulation, profile: EngineProfile, *, draws: int, seed: int = 0) -> Iterator[Variation]:
    """`draws` variations per source of a simulation that already runs under the profile."""
    assert simulation.times is not None
    deviations = spread_normals(draws, len(profile.fitted), np.random.default_rng(seed))
    for number in range(draws):
        rng = np.random.default_rng([seed, number])
        yield Variation("kernels", replace(simulation, times=Perturbed(simulation.times, seed * 1000 + number)))
        drawn = profile.at(deviations[number])
        moved = {name: drawn.parameters[name] / profile.parameters[name] for name in FACTORS}
        yield Variation(
            "parameters",
            replace(
                simulation,
                deployment=drawn.on(simulation.deployment),
                times=profile.scaled(simulation.times, moved),
            ),
        )
        yield Variation("sampling", replace(simulation, workload=resampled(simulation.workload, rng)))


def spread_normals(draws: int, columns: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Standard normals, [draws, columns], each column one from every slice of equal probability, with variance 1.

    (A Latin hypercube, McKay, Beckman and Conover 1979.) A few independent draws may by chance all be small.
    """
    slices = np.array([NormalDist().inv_cdf((i + 0.5) / draws) for i in range(draws)])
    slices /= np.sqrt(np.mean(slices**2))
    return np.stack([rng.permutation(slices) for _ in range(columns)], axis=1) if columns else np.zeros((draws, 0))


def interval(value: float, drawn: Mapping[str, list[float]], residual_sd: float) -> Interval:
    """The 90 % interval of a figure from its draws by source; what no parameter explains counts as parameters'."""
    by_source: dict[str, float] = {}
    for source, values in drawn.items():
        positive = [v for v in values if v > 0 and math.isfinite(v)]
        logs = np.log(positive) - math.log(value) if value > 0 and positive else np.zeros(1)
        # both the traffic that was simulated and the one that will come are draws of their kind
        by_source[source] = float(np.sqrt(np.mean(logs**2) * (2.0 if source == "sampling" else 1.0)))
    by_source["parameters"] = math.hypot(by_source.get("parameters", 0.0), residual_sd)
    sd = math.sqrt(sum(one**2 for one in by_source.values()))
    return Interval(value, value * math.exp(-Z90 * sd), value * math.exp(Z90 * sd), by_source)


def run_figures(simulation: Simulation) -> dict[str, float]:
    """The default figures of a run: latencies in ms, rates per second; those that are undefined are left out."""
    return figures_of(simulation.run())


def figures_of(result: Result) -> dict[str, float]:
    """Mean, p50, p90 and p99 of TTFT, TPOT and E2E in ms, and the rates of a finished run."""
    found: dict[str, float] = {}
    for name in LATENCIES:
        values = result.requests[f"{name}_ms"].drop_nulls().to_numpy()
        if values.size:
            found[f"{name}_mean_ms"] = float(values.mean())
            found |= {f"{name}_p{q}_ms": float(np.percentile(values, q)) for q in (50, 90, 99)}
    span = result.makespan_s
    if span > 0:
        served = result.requests.drop_nulls("last_token_ns")
        output, prompt = float(served["output_tokens"].sum()), float(served["prompt_tokens"].sum())
        found["requests_per_s"] = len(served) / span
        found["output_tokens_per_s"] = output / span
        found["total_tokens_per_s"] = (output + prompt) / span
    return found


def resampled(workload: Workload, rng: np.random.Generator) -> Workload:
    """The same kind of traffic drawn again: requests with replacement, and gaps between arrivals likewise."""
    n = len(workload)
    picks = rng.integers(0, n, n)
    gaps = np.diff(workload.arrival_ns)
    arrivals = np.concatenate([[0], np.cumsum(gaps[rng.integers(0, n - 1, n - 1)])]) if n > 1 else workload.arrival_ns
    ids, offsets = workload.hash_ids, workload.hash_offsets
    if ids is not None and offsets is not None:
        sizes = np.diff(offsets)[picks]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        position = np.arange(int(starts[-1])) - np.repeat(starts[:-1], sizes)
        ids, offsets = ids[np.repeat(offsets[picks], sizes) + position], starts.astype(np.int64)
    return replace(
        workload,
        arrival_ns=arrivals.astype(np.int64),
        prompt_tokens=workload.prompt_tokens[picks],
        output_tokens=workload.output_tokens[picks],
        hash_ids=ids,
        hash_offsets=offsets,
    )
