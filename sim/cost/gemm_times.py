"""GEMM times from fitted coefficients: the cheapest of a few kernels, each a sum of non-negative physical terms.

    t(m; n, k) = min over kernels of  sum over terms f of  c_f(m) · φ_f(m, n, k)

φ: one (launch, prologue), n·k (weights streamed, and the multiply-adds of every row), k (the length of the main
loop), n (the output), waves·k and waves (tiles of the kernel's size over the SMs, rounded up, times the main loop;
a kernel may split k, which multiplies its tiles and divides its loop).
c_f(m) is piecewise linear and never falls with m, constant for the waves; every φ never falls with m, n or k; a
minimum of such sums keeps that, so more rows, a wider or a deeper matrix never cost less. The minimum is what a
library's heuristic does when it picks a tile.

Where a model's own matrices were measured, the file also holds a curve for each of them: linear between measured m,
never falling. Then only these matrices count as measured, the sum above stands in for every other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sim.cost.arrays import Bools, Floats, Times

CLIMBING = ("one", "nk", "k", "n")
WAVING = ("waves_k", "waves")
Tile = tuple[int, int, int]


@dataclass(frozen=True)
class GemmKernel:
    """One kernel: its tile (rows, columns, splits of k), the knots of m, its coefficients at each, its waves', ns."""

    tile: Tile
    knots: Floats
    climbing: Mapping[str, Floats]
    waving: Mapping[str, float]

    def ns(self, m: Floats, n: int, k: int, sms: int) -> Floats:
        """Time of this kernel for every m."""
        at_knots = np.zeros(self.knots.shape)
        for name, values in self.climbing.items():
            at_knots += values * float(term(name, np.ones(()), n, k, tile=self.tile, sms=sms))
        total = climb(m, self.knots, at_knots)
        for name, value in self.waving.items():
            total += value * term(name, m, n, k, tile=self.tile, sms=sms)
        return total


@dataclass(frozen=True)
class GemmTimes:
    """Fitted GEMM times of one GPU and dtype."""

    sms: int
    kernels: Sequence[GemmKernel]
    domain: Mapping[str, Sequence[float]]
    curves: Mapping[tuple[int, int], tuple[Floats, Floats]] = field(default_factory=dict)  # (n, k) to m and ns
    floor_ns: float = 0.0  # of quantising an input, and per 2^20 numbers of it
    ns_per_mi: float = 0.0

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> "GemmTimes":
        """The fit as it stands in a coefficients file."""
        kernels = [
            GemmKernel(
                tile=(int(one["tile"][0]), int(one["tile"][1]), int(one["tile"][2])),
                knots=np.asarray(one["knots"], dtype=np.float64),
                climbing={f: np.asarray(c, dtype=np.float64) for f, c in one["climbing"].items()},
                waving={f: float(c) for f, c in one["waving"].items()},
            )
            for one in table["kernels"]
        ]
        curves = {
            (int(one["n"]), int(one["k"])): (np.asarray(one["m"], np.float64), np.asarray(one["ns"], np.float64))
            for one in table.get("curves", ())
        }
        return cls(int(table["sms"]), kernels, table["domain"], curves, **table.get("quantisation", {}))

    def __call__(self, m: Floats, n: int, k: int) -> Times:
        """ns of [m, k] x [k, n] for every m, and whether (m, n, k) was measured."""
        if (n, k) in self.curves:
            knots, values = self.curves[n, k]
            return climb(m, knots, values), within({"m": (knots[0], knots[-1])}, m=m)
        ns = np.full(m.shape, np.inf)
        for kernel in self.kernels:
            ns = np.minimum(ns, kernel.ns(m, n, k, self.sms))
        return ns, within(self.domain, m=m, n=n, k=k) & (not self.curves)

    def quantisation(self, m: Floats, k: int) -> Floats:
        """ns of quantising [m, k], which a GEMM of this dtype contains; 0 where it was not told apart."""
        return self.floor_ns + self.ns_per_mi * m * (k / 2.0**20)


def climb(x: Floats, knots: Floats, values: Floats, *, beyond: bool = True) -> Floats:
    """A coefficient at x: linear between knots, constant below the first; above the last its slope goes on.

    With beyond=False it stays constant there.
    """
    inner: Floats = np.interp(x, knots, values)
    if beyond and values.size > 1:
        slope = (values[-1] - values[-2]) / (knots[-1] - knots[-2])
        inner += slope * np.maximum(x - knots[-1], 0.0)
    return inner


def term(name: str, m: Floats, n: Floats | int, k: Floats | int, *, tile: Tile, sms: int) -> Floats:
    """One physical term, scaled so that coefficients are of the order of microseconds; shape of m."""
    whole = np.ones(m.shape)
    if name == "one":
        return whole
    if name == "nk":
        return whole * (np.asarray(n) * np.asarray(k) / 2.0**20)
    if name == "k":
        return whole * (np.asarray(k) / 2.0**10)
    if name == "n":
        return whole * (np.asarray(n) / 2.0**10)
    rows, width, splits = tile
    waves: Floats = np.ceil(np.ceil(m / rows) * np.ceil(np.asarray(n) / width) * splits / sms)
    return waves * np.asarray(k) / (splits * 2.0**10) if name == "waves_k" else waves


def within(domain: Mapping[str, Sequence[float]], **values: Floats | float) -> Bools:
    """Whether every value lies between the lower and upper bound that the domain gives for its name."""
    inside = np.ones((), dtype=bool)
    for name, value in values.items():
        low, high = domain[name]
        inside = inside & (np.asarray(value) >= low) & (np.asarray(value) <= high)
    return inside
