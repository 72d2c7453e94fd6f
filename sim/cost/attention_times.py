"""Attention times from fitted coefficients.

Prefill is compute in tiles of 128 queries against steps of 128 keys, FlashAttention's schedule (Dao, 2023): a tile
is a chain of steps on one SM, so a sequence takes the longer of its longest chain and its steps per SM.

    t(new, context) = sum over terms f of c_f(new) · φ_f(new, heads, kv_heads)  +  step_ns · steps(new, context)

with φ one, heads, kv_heads and `roof`, that maximum in key steps; c_f is piecewise linear and never falls with new.
Cached context lengthens the chain of every tile: steps = context / 128 x waves of tiles over the SMs, divided by the
splits of FlashAttention-3 (flash decoding) where tiles leave SMs idle. Only prompts without context were measured:
chunks after context lean on the schedule and on step_ns, the rate of long prompts.

Decode reads each sequence's KV once per KV head: time is a function of `pairs` = rows · kv_heads and of the context,
linear between grid points (interpolation in log space is several times worse). Query heads of a group ride along;
one query head per KV head takes another kernel and has its own grid. A head width without a fit is priced by its KV
bytes at the nearest width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.cost.arrays import Floats, Times
from sim.cost.gemm_times import climb, within

TILE = 128.0
PREFILL_TERMS = ("one", "heads", "kv_heads", "roof")


@dataclass(frozen=True)
class PrefillTimes:
    """Fitted prefill attention of one GPU, KV dtype and head width."""

    sms: int
    head_dim: int
    splits: bool
    step_ns: float
    knots: Floats
    coefficients: Mapping[str, Floats]
    domain: Mapping[str, Sequence[float]]

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> "PrefillTimes":
        """The fit as it stands in a coefficients file."""
        return cls(
            sms=int(table["sms"]),
            head_dim=int(table["head_dim"]),
            splits=bool(table["splits"]),
            step_ns=float(table["step_ns"]),
            knots=np.asarray(table["knots"], dtype=np.float64),
            coefficients={f: np.asarray(c, dtype=np.float64) for f, c in table["coefficients"].items()},
            domain=table["domain"],
        )

    def __call__(self, new: Floats, context: Floats, heads: int, kv_heads: int, head_dim: int) -> Times:
        """ns of one causal chunk, and whether it was measured."""
        ns = self.step_ns * context_steps(new, context, heads, kv_heads, sms=self.sms, splits=self.splits)
        for name, values in self.coefficients.items():
            slope = climb(new, self.knots, values, beyond=False)
            ns += slope * prefill_term(name, new, heads, kv_heads, sms=self.sms)
        ns *= max(1.0, head_dim / self.head_dim)
        inside = within(self.domain, new=new, context=context, heads=heads, kv_heads=kv_heads)
        return ns, inside & (head_dim == self.head_dim)


def prefill_term(name: str, new: Floats, heads: Floats | int, kv_heads: Floats | int, *, sms: int) -> Floats:
    """One term of a prompt without context, shape of `new`; `roof` is in key steps of one SM."""
    whole = np.ones(new.shape)
    if name == "one":
        return whole
    if name in ("heads", "kv_heads"):
        return whole * (heads if name == "heads" else kv_heads)
    blocks = new / TILE
    roof: Floats = np.maximum(blocks + 1.0, heads * blocks * (blocks + 1.0) / 2.0 / sms)
    return roof


def context_steps(new: Floats, context: Floats, heads: int, kv_heads: int, *, sms: int, splits: bool) -> Floats:
    """Key steps that cached context adds to the longest SM.

    FlashAttention-3 packs the query heads of a KV head into one tile and splits chains over idle SMs; version 2
    does neither.
    """
    if splits:
        tiles = kv_heads * np.ceil(new * (heads / kv_heads) / TILE)
    else:
        tiles = heads * np.ceil(new / TILE)
    waves = np.ceil(tiles / sms)
    shared = np.maximum(1.0, np.floor(sms / np.maximum(tiles, 1.0))) if splits else 1.0
    steps: Floats = context / TILE * waves / shared
    return steps


@dataclass(frozen=True)
class DecodeTimes:
    """Fitted decode attention of one GPU, KV dtype and head width: a grid of ns over pairs and context."""

    head_dim: int
    grouped: bool
    pairs: Floats
    context: Floats
    grid: Floats
    reach: Floats
    domain: Mapping[str, Sequence[float]]

    @classmethod
    def read(cls, table: Mapping[str, Any]) -> "DecodeTimes":
        """The fit as it stands in a coefficients file."""
        arrays = {name: np.asarray(table[name], dtype=np.float64) for name in ("pairs", "context", "grid", "reach")}
        grouped = bool(table["grouped"])
        return cls(head_dim=int(table["head_dim"]), grouped=grouped, domain=table["domain"], **arrays)

    def __call__(self, rows: Floats, context: Floats, heads: int, kv_heads: int, head_dim: int) -> Times:
        """ns of one step of decode, and whether it was measured."""
        pairs = rows * kv_heads * (head_dim / self.head_dim)
        ns = bilinear(self.pairs, self.context, self.grid, pairs, context)
        inside = within(self.domain, rows=rows, context=context, heads=heads, kv_heads=kv_heads)
        inside = inside & (context <= np.interp(pairs, self.pairs, self.reach)) & (head_dim == self.head_dim)
        return ns, inside


def bilinear(xs: Floats, ys: Floats, grid: Floats, x: Floats, y: Floats) -> Floats:
    """Linear interpolation in a grid [xs, ys]; constant below the axes, the last cell goes on above them."""
    i = np.clip(np.searchsorted(xs, x, side="right") - 1, 0, xs.size - 2)
    j = np.clip(np.searchsorted(ys, y, side="right") - 1, 0, ys.size - 2)
    u = np.maximum((x - xs[i]) / (xs[i + 1] - xs[i]), 0.0)
    v = np.maximum((y - ys[j]) / (ys[j + 1] - ys[j]), 0.0)
    near = grid[i, j] + v * (grid[i, j + 1] - grid[i, j])
    far = grid[i + 1, j] + v * (grid[i + 1, j + 1] - grid[i + 1, j])
    value: Floats = near + u * (far - near)
    return value
