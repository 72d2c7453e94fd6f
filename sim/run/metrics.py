"""The metrics, each defined once, for simulated and measured requests alike.

TTFT   time to first token: first output token − arrival.
TPOT   time per output token: (last − first output token) / (output tokens − 1); undefined for a single token.
ITL    inter-token latency: every gap between consecutive tokens of a request, pooled over all requests. Tokens that a
       speculative step yields together count as one arrival.
E2E    last output token − arrival.
Goodput   requests per second that meet every limit of the SLO.
Percentiles interpolate linearly between order statistics; ITL's take the smallest gap that covers the share.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError
from sim.run.bootstrap import resampled

Floats = NDArray[np.float64]
QUANTILES = (50, 90, 99)
MS = 1e6  # nanoseconds


@dataclass(frozen=True)
class Slo:
    """Latency limits that a share of all requests must meet."""

    ttft_ms: float = 1000.0
    tpot_ms: float = 50.0
    percentile: float = 90.0

    def __post_init__(self) -> None:
        for name in ("ttft_ms", "tpot_ms"):
            if not getattr(self, name) > 0:
                raise InputError(f"SLO {name}={getattr(self, name)}: must be positive")
        if not 0 < self.percentile <= 100:
            raise InputError(f"SLO percentile={self.percentile}: must be in (0, 100]")

    def met(self, ttft_ms: Floats, tpot_ms: Floats) -> NDArray[np.bool_]:
        """Which requests meet both limits, [n]; a request of one token has no TPOT (NaN) to miss."""
        return (ttft_ms <= self.ttft_ms) & ~(tpot_ms > self.tpot_ms)


def tpot_ns(first_ns: NDArray[np.int64], last_ns: NDArray[np.int64], output_tokens: NDArray[np.int64]) -> Floats:
    """Time per output token of each request, [n]; NaN where there is only one token."""
    gaps = output_tokens - 1
    return np.where(gaps > 0, (last_ns - first_ns) / np.maximum(gaps, 1), np.nan)


def spread(values: Floats, *, seed: int = 0, intervals: bool = True) -> dict[str, float]:
    """p50, p90, p99 and mean, each with the ends of its 90 % interval (`p50_low`, `p50_high`, …); NaNs are left out.

    The interval is a bootstrap over contiguous batches of requests, which keeps the correlation that queueing puts
    between neighbours. It says how much the workload's randomness alone moves the figure, and costs more than it.
    """
    names = [f"p{q}" for q in QUANTILES] + ["mean"]
    clean = values[np.isfinite(values)]
    if not clean.size:
        return dict.fromkeys(names, float("nan"))
    point = _figures(clean)
    result = dict(zip(names, map(float, point)))
    draws = _bootstrap(clean, seed) if intervals else None
    if draws is not None:
        low, high = np.percentile(draws, [5, 95], axis=0)
        for name, a, b in zip(names, low, high):
            result |= {f"{name}_low": float(a), f"{name}_high": float(b)}
    return result


def _figures(values: Floats) -> Floats:
    return np.append(np.percentile(values, QUANTILES), values.mean())


def _bootstrap(values: Floats, seed: int, *, batches: int = 30, draws: int = 200) -> Floats | None:
    """Figures of resampled batches, [draws, 4]; None for too few values to cut into batches of two."""
    if values.size < 2 * batches:
        return None
    picks = np.random.default_rng(seed).integers(0, batches, size=(draws, batches))
    times = np.stack([np.bincount(pick, minlength=batches) for pick in picks])
    return resampled(values, QUANTILES, times)


def weighted_spread(values: Floats, weights: NDArray[np.int64]) -> dict[str, float]:
    """p50, p90, p99 and mean of values that occur `weights` times each."""
    total = int(weights.sum())
    names = [f"p{q}" for q in QUANTILES] + ["mean"]
    if total == 0:
        return dict.fromkeys(names, float("nan"))
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    figures = [float(values[order][np.searchsorted(cumulative, q / 100 * total)]) for q in QUANTILES]
    return dict(zip(names, [*figures, float(values @ weights) / total]))
