"""What is kept of a metric: all its values, or a sketch of them that can be merged.

A sketch is a DDSketch (Masson et al., VLDB 2019): counts in bins that grow by a constant factor, so each quantile is
known within `ACCURACY` of itself, and the sketch of two parts is the sum of their sketches whatever the order.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from ddsketch import DDSketch

from sim.run.metrics import QUANTILES, Floats, spread
from sim.serving.columns import Ints

ACCURACY = 0.005  # relative
AT_ONCE = 1 << 16
WIDTH = np.log1p(2 * ACCURACY / (1 - ACCURACY))  # of a bin, in logarithms


class Distribution(Protocol):
    """Values of one metric, one per request; NaN stands for none."""

    def add(self, values: Floats, requests: Ints) -> None:
        """Take in the values of some requests."""
        ...

    def spread(self) -> dict[str, float]:
        """p50, p90, p99 and mean, as `sim.run.metrics.spread` has them."""
        ...


@dataclass
class Exact:
    """Every value; the spread carries its 90 % intervals."""

    values: list[Floats] = field(default_factory=list)
    requests: list[Ints] = field(default_factory=list)

    def add(self, values: Floats, requests: Ints) -> None:
        """Keep the values."""
        self.values.append(values)
        self.requests.append(requests)

    def merge(self, other: "Exact") -> None:
        """Keep another's values, too."""
        self.values += other.values
        self.requests += other.requests

    def spread(self) -> dict[str, float]:
        """Of all values, in the order of the requests."""
        order = np.argsort(np.concatenate([np.empty(0, np.int64), *self.requests]), kind="stable")
        return spread(np.concatenate([np.empty(0), *self.values])[order])


@dataclass
class Sketch:
    """Bin counts, the sum and the number; memory does not grow with the number of values."""

    bins: DDSketch = field(default_factory=lambda: DDSketch(ACCURACY))
    pending: list[Floats] = field(default_factory=list)
    held: int = 0

    def add(self, values: Floats, requests: Ints) -> None:
        """Count the values, some ten thousand at a time."""
        self.pending.append(values[np.isfinite(values)])
        self.held += values.size
        if self.held >= AT_ONCE:
            self._count()

    def merge(self, other: "Sketch") -> None:
        """Add another's counts."""
        self._count()
        other._count()
        self.bins.merge(other.bins)

    def spread(self) -> dict[str, float]:
        """Quantiles within ACCURACY, and the exact mean."""
        self._count()
        names = [f"p{q}" for q in QUANTILES]
        if not self.bins.count:
            return dict.fromkeys([*names, "mean"], float("nan"))
        values = [float(self.bins.get_quantile_value(q / 100) or 0.0) for q in QUANTILES]
        return dict(zip(names, values)) | {"mean": float(self.bins.avg)}

    def _count(self) -> None:
        """Bin what is pending, all at once, and hand it over bin by bin with its number."""
        values = np.concatenate([np.empty(0), *self.pending])
        self.pending, self.held = [], 0
        positive = values[values > 0]
        if values.size > positive.size:
            self.bins.add(0.0, float(values.size - positive.size))
        if not positive.size:
            return
        keys = np.floor(np.log(positive) / WIDTH).astype(np.int64)
        low = int(keys.min())
        counts, sums = np.bincount(keys - low), np.bincount(keys - low, positive)
        for bin_ in np.flatnonzero(counts):
            self.bins.add(float(sums[bin_] / counts[bin_]), float(counts[bin_]))
