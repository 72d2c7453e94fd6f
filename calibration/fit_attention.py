"""Fits of attention: prefill by the tile schedule, decode by a monotone grid (`sim.cost.attention_times`)."""

from typing import Any

import numpy as np
import polars as pl

from calibration.monotone import Floats, hinges, never_falling, relative_nnls, spread
from sim.cost.attention_times import PREFILL_TERMS, DecodeTimes, PrefillTimes, bilinear, prefill_term

HELD_OUT = 0.2


def fit_prefill(rows: pl.DataFrame, *, sms: int, splits: bool, seed: int = 0) -> dict[str, Any]:
    """The table of one KV dtype and head width for `PrefillTimes.read`, from prompts measured alone (rows = 1).

    Held-out residuals: a second fit that never saw a random fifth of the (heads, kv_heads) pairs.
    """
    rows = rows.filter((pl.col("rows") == 1) & (pl.col("context") == 0))
    new, heads, kv_heads, ns = _columns(rows, ("new", "heads", "kv_heads", "ns"))
    knots = np.unique(new)
    held = _held_out(heads * 1e4 + kv_heads, seed)
    head_dim = int(rows["head_dim"][0])
    measured = (("new", new), ("heads", heads), ("kv_heads", kv_heads))
    domain = {name: [float(x.min()), float(x.max())] for name, x in measured} | {"context": [0.0, 0.0]}

    def solve(seen: Any) -> tuple[dict[str, list[float]], Floats]:
        design = prefill_design(new, heads, kv_heads, list(knots), sms=sms)
        found = relative_nnls(design[seen], ns[seen], np.ones(int(seen.sum())))
        return prefill_coefficients(found), design @ found

    _, blind = solve(~held)
    coefficients, full = solve(np.ones(ns.shape, dtype=bool))
    long = (new >= 4096) & (heads >= 8)
    steps = prefill_term("roof", new, heads, kv_heads, sms=sms)
    table: dict[str, Any] = {
        "sms": sms,
        "head_dim": head_dim,
        "splits": splits,
        "step_ns": round(float(np.median(ns[long] / steps[long])), 1),
        "knots": [float(x) for x in knots],
        "coefficients": coefficients,
        "domain": domain,
    }
    PrefillTimes.read(table)
    table["residuals"] = {"in_sample": spread(full, ns), "held_out": spread(blind[held], ns[held])}
    return table


def prefill_design(new: Floats, heads: Floats, kv_heads: Floats, knots: list[float], *, sms: int) -> Floats:
    """Columns [n, terms x knots] of prompts without context."""
    climbing = hinges(new, knots, beyond=False)
    return np.concatenate(
        [climbing * prefill_term(name, new, heads, kv_heads, sms=sms)[:, None] for name in PREFILL_TERMS], axis=1
    )


def prefill_coefficients(found: Floats) -> dict[str, list[float]]:
    """Weights of a design as they stand in a file: each term's values at the knots; what vanishes is left out."""
    values = np.cumsum(found.reshape(len(PREFILL_TERMS), -1), axis=1)
    table = {name: [float(f"{x:.6g}") for x in row] for name, row in zip(PREFILL_TERMS, values)}
    return {name: row for name, row in table.items() if row[-1] > 0}


def fit_decode(rows: pl.DataFrame, *, kv_bytes: int, l2_bytes: float, seed: int = 0) -> dict[str, Any]:
    """The table of one KV dtype and head width for `DecodeTimes.read`.

    A cell is the median over head counts with the same rows x kv_heads and context. The benchmark replays one
    cache, so what fits into L2 was read warm; a model's layers evict each other, so these cells are lifted to the
    line of the colder ones (same launch, bytes at the rate found beyond L2). Corners that were too large to measure
    go on at each row's last rate. Held-out residuals leave out a random fifth of the (heads, kv_heads) pairs, over
    cells that were not lifted.
    """
    count, kv_heads, context, heads, ns = _columns(rows, ("rows", "kv_heads", "context", "heads", "ns"))
    pairs = count * kv_heads
    head_dim = int(rows["head_dim"][0])
    per_pair = 2.0 * kv_bytes * head_dim
    held = _held_out(heads * 1e4 + kv_heads, seed)
    xs, ys, grid, reach, rate = _grid(pairs, context, ns, per_pair, l2_bytes)
    blind = _grid(pairs[~held], context[~held], ns[~held], per_pair, l2_bytes)
    moved = pairs * context * per_pair
    cold = moved > 1.5 * l2_bytes
    fair = cold | (moved < 0.05 * l2_bytes)
    measured = (("rows", count), ("context", context), ("heads", heads), ("kv_heads", kv_heads))
    domain = {name: [float(x.min()), float(x.max())] for name, x in measured}
    table: dict[str, Any] = {
        "head_dim": head_dim,
        "grouped": bool((heads > kv_heads).any()),
        "pairs": [float(x) for x in xs],
        "context": [float(x) for x in ys],
        "grid": [[float(f"{x:.5g}") for x in row] for row in grid],
        "reach": [float(x) for x in reach],
        "domain": domain,
        "cold_bytes_per_ns": round(rate, 1),
    }
    DecodeTimes.read(table)
    at, blind_at = (bilinear(*one, pairs, context) for one in ((xs, ys, grid), blind[:3]))
    table["residuals"] = {
        "in_sample": spread(at[fair], ns[fair]),
        "held_out": spread(blind_at[fair & held], ns[fair & held]),
        "held_out_cold": spread(blind_at[cold & held], ns[cold & held]),
        "warm_in_l2": spread(at[~fair], ns[~fair]),
    }
    return table


def _grid(
    pairs: Floats, context: Floats, ns: Floats, per_pair: float, l2_bytes: float
) -> tuple[Floats, Floats, Floats, Floats, float]:
    """Axes, monotone grid, longest measured context of each row, and the rate beyond L2 in bytes per ns."""
    xs, ys = np.unique(pairs), np.unique(context)
    grid = np.full((xs.size, ys.size), np.nan)
    for i, x in enumerate(xs):
        for j, y in enumerate(ys):
            cell = ns[(pairs == x) & (context == y)]
            if cell.size:
                grid[i, j] = np.median(cell)
    moved = np.outer(xs, ys) * per_pair
    reach = np.array([ys[~np.isnan(row)].max() for row in grid])
    rate = _rate_beyond(grid, moved, l2_bytes)
    lifted = np.fmax(grid, grid[:, :1] + moved / rate)
    grid = np.where(moved <= 1.5 * l2_bytes, lifted, grid)
    for i, row in enumerate(grid):
        known = int(np.flatnonzero(~np.isnan(row)).max())
        row[known + 1 :] = row[known] + (moved[i, known + 1 :] - moved[i, known]) / rate
    grid = never_falling(np.where(np.isnan(grid), np.fmax.accumulate(grid, axis=1), grid))
    return *extended(xs, ys, grid, reach), rate


def _rate_beyond(grid: Floats, moved: Floats, l2_bytes: float) -> float:
    """Median bytes per ns between neighbours in context whose caches are 1.5 to 12 times L2."""
    gained = np.diff(grid, axis=1)
    fetched = np.diff(moved, axis=1)
    fair = (moved[:, :-1] > 1.5 * l2_bytes) & (moved[:, 1:] < 12 * l2_bytes) & (gained > 0)
    return float(np.median(fetched[fair] / gained[fair]))


def extended(xs: Floats, ys: Floats, grid: Floats, reach: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """One more row and column, so that extrapolation from the last cell falls along no axis."""
    ratio = (xs[-1]) / (xs[-1] - xs[-2])
    climb = np.maximum.accumulate(grid[-1] - grid[-2])
    grid = np.vstack([grid, grid[-1] + ratio * climb])
    ratio = ys[-1] / (ys[-1] - ys[-2])
    climb = np.maximum.accumulate(grid[:, -1] - grid[:, -2])
    grid = np.hstack([grid, (grid[:, -1] + ratio * climb)[:, None]])
    return np.append(xs, 2 * xs[-1]), np.append(ys, 2 * ys[-1]), grid, np.append(reach, 0.0)


def _columns(rows: pl.DataFrame, names: tuple[str, ...]) -> tuple[Floats, ...]:
    return tuple(rows[name].to_numpy().astype(np.float64) for name in names)


def _held_out(groups: Floats, seed: int) -> Any:
    unique = np.unique(groups)
    chosen = np.random.default_rng(seed).choice(unique, max(1, int(HELD_OUT * unique.size)), replace=False)
    return np.isin(groups, chosen)
