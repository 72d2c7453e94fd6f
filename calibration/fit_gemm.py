"""Fit of GEMM times: tile kernels by alternating assignment and non-negative least squares (`sim.cost.gemm_times`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calibration.monotone import Floats, hinges, relative_nnls, spread
from sim.cost.gemm_times import CLIMBING, WAVING, GemmTimes, Tile, term

WHOLE = ((128, 256), (256, 128), (128, 128), (64, 128), (64, 64), (64, 256), (192, 128), (128, 64))
SPLIT = ((64, 64, 2), (64, 64, 4), (128, 128, 2), (64, 128, 2), (128, 64, 4))
TILES: tuple[Tile, ...] = (*((rows, width, 1) for rows, width in WHOLE), *SPLIT)
KNOTS = (
    *(1, 16, 17, 32, 48, 64, 65, 96, 128, 129, 160, 192, 224, 256, 384, 512, 768, 1024, 1280, 1536, 2048, 3072),
    *(4096, 8192, 16384, 32768),
)
HELD_OUT_ROWS = (96, 97, 512, 513, 1024, 1025, 2048, 2049, 3072, 3073)
BANDS = ((1, 16), (17, 64), (65, 256), (257, 1024), (1025, 4352), (4353, 16384))
SMALLEST = 512  # narrower or shallower matrices are launch-bound and rare: fitted by nobody, priced by extrapolation
NARROW = 128  # columns of a matrix that takes next to no time to multiply with
FEW, MANY = 64, 2048
ROUNDS = 25
UNDERCUT = (0.1, 0.03)  # weights tried for rows that a kernel would undercut
HELD_OUT = 0.2
SMALLEST_SHARE = 50  # rows below which a kernel is dropped


def fit_gemm(rows: pl.DataFrame, *, sms: int, seed: int = 0) -> dict[str, Any]:
    """The table of one dtype for `GemmTimes.read`, with domain and residuals.

    Held-out residuals come from fits that never saw a random fifth of the (n, k) shapes, or none of the row counts
    in HELD_OUT_ROWS; the coefficients come from all rows. Residuals are of n, k >= 1024 and m <= 16384, the shapes
    of language models; `aligned` leaves out the successors of multiples of 256.
    """
    rows = rows.filter((pl.col("n") >= SMALLEST) & (pl.col("k") >= SMALLEST))
    m, n, k, ns = (rows[name].to_numpy().astype(np.float64) for name in ("m", "n", "k", "ns"))
    shapes = n * 2.0**32 + k
    unique = np.unique(shapes)
    held = np.isin(shapes, np.random.default_rng(seed).choice(unique, int(HELD_OUT * unique.size), replace=False))
    held_rows = np.isin(m, HELD_OUT_ROWS)
    knots, found = _fit(m, n, k, ns, sms)
    full = _predict(found, m, n, k, knots, sms)
    blind, blind_rows = (
        _predict(seen[1], m, n, k, seen[0], sms)
        for seen in (_fit(m[~out], n[~out], k[~out], ns[~out], sms) for out in (held, held_rows))
    )
    relevant = (n >= 1024) & (k >= 1024) & (m <= 16384)
    aligned = relevant & ((m <= 256) | (m % 256 == 0))
    table: dict[str, Any] = {
        "sms": sms,
        "kernels": [kernel_table(TILES[j], knots, weights) for j, weights in found.items()],
        "domain": {name: [float(x.min()), float(x.max())] for name, x in (("m", m), ("n", n), ("k", k))},
        "residuals": {
            "in_sample": spread(full[relevant], ns[relevant]),
            "held_out": spread(blind[relevant & held], ns[relevant & held]),
            "held_out_aligned": spread(blind[aligned & held], ns[aligned & held]),
            "held_out_rows": spread(blind_rows[aligned & held_rows], ns[aligned & held_rows]),
            "by_m": {
                f"{low}-{high}": spread(blind[q], ns[q])
                for low, high in BANDS
                if (q := aligned & held & (m >= low) & (m <= high)).any()
            },
        },
    }
    GemmTimes.read(table)
    return table


def fit_quantisation(rows: pl.DataFrame) -> dict[str, float]:
    """What fp8 takes longer than bf16 where a matrix is too narrow to take time: ns, and ns per 2^20 numbers of [m, k].

    Between `FEW` and `MANY` rows kernels for narrow matrices, which no model has, differ more than their inputs do.
    """
    ends = (pl.col("m") <= FEW) | (pl.col("m") >= MANY)
    narrow = rows.filter(ends & (pl.col("n") <= NARROW) & (pl.col("k") >= SMALLEST))
    by_dtype = [narrow.filter(pl.col("dtype") == dtype).group_by("m", "k") for dtype in ("bf16", "fp8")]
    bf16, fp8 = (some.agg(pl.col("ns").median()) for some in by_dtype)
    both = fp8.join(bf16, on=["m", "k"], suffix="_bf16").filter(pl.col("ns") > pl.col("ns_bf16")).sort("m", "k")
    numbers = (both["m"] * both["k"]).to_numpy() / 2.0**20
    extra = (both["ns"] - both["ns_bf16"]).to_numpy()
    design = np.stack([np.ones(numbers.shape), numbers], axis=1)
    floor, each = relative_nnls(design, extra, np.ones(extra.shape))
    return {"floor_ns": round(float(floor), 1), "ns_per_mi": round(float(each), 1)}


def _fit(m: Floats, n: Floats, k: Floats, ns: Floats, sms: int) -> tuple[list[float], dict[int, Floats]]:
    """Knots of m, and the weights of each tile's design, from the better of two alternations.

    Above 256 rows the tables hold multiples of 256 and their successors. An fp8 kernel with an odd number of row
    tiles is up to twice as slow as the next larger even one, which no monotone function follows; steps that fill
    their token budget have round sizes, so the successors weigh a quarter.
    """
    measured = set(m)
    knots = [float(x) for x in KNOTS if x in measured]  # a knot without data is where a minimum of fits dives
    weight = np.where((n >= 1024) & (k >= 1024) & (m <= 16384), 1.0, 0.16)
    weight = np.where((m > 256) & (m % 256 == 1), 0.25 * weight, weight)
    designs = [tile_design(m, n, k, knots, tile, sms) for tile in TILES]
    ideal = np.stack([_ideal(m, n, k, tile, sms) for tile in TILES], axis=1)
    tried = [_alternate(designs, ns, weight, np.argmin(ideal, axis=1), undercut) for undercut in UNDERCUT]
    return knots, min(tried, key=lambda one: one[0])[1]


def _ideal(m: Floats, n: Floats, k: Floats, tile: Tile, sms: int) -> Floats:
    """A guess at a tile's time, to start from: waves times a loop with overheads; small tiles waste more."""
    loop = k / tile[2] + 100.0 + 300.0 * (tile[2] > 1)
    guess: Floats = term("waves", m, n, k, tile=tile, sms=sms) * loop * (tile[0] * tile[1]) ** 0.7
    return guess


def _alternate(
    designs: Sequence[Floats], ns: Floats, weight: Floats, owner: NDArray[np.intp], undercut: float
) -> tuple[float, dict[int, Floats]]:
    """Loss and weights: rows go to the kernel that predicts them cheapest, kernels are refitted, again.

    A kernel also sees, at the weight `undercut`, rows of others that it would undercut: the minimum must not dive.
    """
    predicted = np.full((ns.size, len(designs)), np.inf)
    best_loss = np.inf
    best: dict[int, Floats] = {}
    for _ in range(ROUNDS):
        weights: dict[int, Floats] = {}
        for j, design in enumerate(designs):
            mine = owner == j
            if mine.sum() < SMALLEST_SHARE:
                predicted[:, j] = np.inf
                continue
            seen = mine | (predicted[:, j] < ns)
            weights[j] = relative_nnls(design[seen], ns[seen], np.where(mine, weight, undercut * weight)[seen])
            predicted[:, j] = design @ weights[j]
        loss = float(np.average(np.minimum(np.abs(predicted.min(axis=1) / ns - 1.0), 0.5), weights=weight))
        if loss < best_loss:
            best_loss, best = loss, weights
        owner = np.argmin(predicted, axis=1)
    return best_loss, best


def tile_design(m: Floats, n: Floats, k: Floats, knots: Sequence[float], tile: Tile, sms: int) -> Floats:
    """Columns of a tile's kernel, [rows, terms x knots]; the waves of a kernel cost the same at every m."""
    climbing = hinges(m, knots)
    blocks = [climbing * term(name, m, n, k, tile=tile, sms=sms)[:, None] for name in CLIMBING]
    blocks += [term(name, m, n, k, tile=tile, sms=sms)[:, None] for name in WAVING]
    return np.concatenate(blocks, axis=1)


def kernel_table(tile: Tile, knots: Sequence[float], weights: Floats) -> dict[str, Any]:
    """One kernel as it stands in the file; terms that vanish are left out."""
    split = len(CLIMBING) * len(knots)
    values = np.cumsum(weights[:split].reshape(len(CLIMBING), -1), axis=1)
    return {
        "tile": list(tile),
        "knots": [float(x) for x in knots],
        "climbing": {f: [float(f"{x:.6g}") for x in row] for f, row in zip(CLIMBING, values) if row[-1] > 0},
        "waving": {f: float(f"{x:.6g}") for f, x in zip(WAVING, weights[split:]) if x > 0},
    }


def _predict(found: dict[int, Floats], m: Floats, n: Floats, k: Floats, knots: Sequence[float], sms: int) -> Floats:
    """ns of every row: the cheapest of the fitted kernels."""
    return np.min([tile_design(m, n, k, knots, TILES[j], sms) @ weights for j, weights in found.items()], axis=0)
