"""Fits of what `measure` wrote, in the tables that `sim.cost.measured` reads.

Each of the model's own matrices has a curve over rows; a sum of physical terms stands in for every other. Attention is
linear between the cells of its grids. Elementwise kernels share a floor and a rate, fitted to what a layer's take
together: two norms, the keys, the activation.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from calibration.fit_attention import extended, prefill_coefficients, prefill_design
from calibration.fit_gemm import kernel_table, tile_design
from calibration.monotone import Floats, never_falling, relative_nnls
from sim.cost.arrays import Times
from sim.cost.attention_times import DecodeTimes, PrefillTimes, context_steps
from sim.cost.gemm_times import GemmTimes, Tile, within
from sim.errors import InputError

TILE: Tile = (128, 128, 1)
KNOTS = (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
LAYER = {"norm": 2, "keys": 1, "activation": 1}  # elementwise kernels of a layer
Rows = Sequence[Mapping[str, Any]]


def of_kind(rows: Iterable[Mapping[str, Any]], *ops: str) -> list[Mapping[str, Any]]:
    """The rows of these kinds that hold a time."""
    return [row for row in rows if row["op"] in ops and "error" not in row]


def column(rows: Rows, *names: str) -> tuple[Floats, ...]:
    """Columns of rows as floats. Raises InputError naming the row that lacks one."""
    for row in rows:
        for name in names:
            if not isinstance(row.get(name), (int, float)):
                raise InputError(f"row {row['key']!r}: {name} is {row.get(name)!r}, not a number")
    return tuple(np.array([row[name] for row in rows], dtype=np.float64) for name in names)


def gemm_table(rows: Rows) -> dict[str, Any]:
    """The table of `GemmTimes`: curves of the measured matrices, and one kernel of terms for the rest."""
    m, n, k, ns = column(rows, "m", "n", "k", "p50_ns")
    sms = int(rows[0]["processors"])
    curves = []
    for shape in dict.fromkeys(zip(n.tolist(), k.tolist())):
        mine = np.flatnonzero((n == shape[0]) & (k == shape[1]))
        order = mine[np.argsort(m[mine], kind="stable")]
        curve = never_falling(ns[order])
        curves.append({"n": int(shape[0]), "k": int(shape[1]), "m": m[order].tolist(), "ns": _short(curve)})
    knots = [float(x) for x in KNOTS if m.min() <= x <= m.max()]
    if len(knots) < 2:
        knots = [float(m.min()), float(m.max() + 1)]
    weights = relative_nnls(tile_design(m, n, k, knots, TILE, sms), ns, np.ones(ns.shape))
    return {
        "sms": sms,
        "kernels": [kernel_table(TILE, knots, weights)],
        "curves": curves,
        "domain": _domain(m=m, n=n, k=k),
    }


def prefill_table(rows: Rows) -> dict[str, Any]:
    """The table of `PrefillTimes`, with what chunks after cached context add."""
    new, context, heads, kv_heads, ns = column(rows, "new", "context", "model_heads", "model_kv_heads", "p50_ns")
    sms, knots = int(rows[0]["processors"]), [float(x) for x in np.unique(new[context == 0])]
    if len(knots) < 2:
        raise InputError("prefill attention was measured at fewer than two lengths without context; measure more")
    steps = np.concatenate(
        [context_steps(a, c, int(h[0]), int(g[0]), sms=sms, splits=False)
         for a, c, h, g in _cells(rows, "new", "context", "model_heads", "model_kv_heads")]
    )  # fmt: skip
    design = np.concatenate([prefill_design(new, heads, kv_heads, knots, sms=sms), steps[:, None]], axis=1)
    found = relative_nnls(design, ns, np.ones(ns.shape))
    return {
        "sms": sms,
        "head_dim": int(rows[0]["model_head_dim"]),
        "splits": False,
        "step_ns": float(f"{found[-1]:.6g}"),
        "knots": knots,
        "coefficients": prefill_coefficients(found[:-1]),
        "domain": _domain(new=new, context=context, heads=heads, kv_heads=kv_heads),
    }


def decode_table(rows: Rows) -> dict[str, Any]:
    """The table of `DecodeTimes`: cells that were not measured lie on the line between their neighbours in context."""
    count, context, heads, kv_heads, ns = column(rows, "rows", "context", "model_heads", "model_kv_heads", "p50_ns")
    pairs = count * kv_heads
    xs, ys = np.unique(pairs), np.unique(context)
    if xs.size < 2 or ys.size < 2:
        raise InputError("decode attention was measured at fewer than two batches or contexts; measure more")
    grid = np.full((xs.size, ys.size), np.nan)
    for x, y in set(zip(pairs.tolist(), context.tolist())):
        grid[np.searchsorted(xs, x), np.searchsorted(ys, y)] = np.median(ns[(pairs == x) & (context == y)])
    reach = np.array([ys[~np.isnan(row)].max() for row in grid])
    full = never_falling(_filled(xs, ys, grid))
    xs, ys, full, reach = extended(xs, ys, full, reach)
    return {
        "head_dim": int(rows[0]["model_head_dim"]),
        "grouped": bool((heads > kv_heads).any()),
        "pairs": xs.tolist(),
        "context": ys.tolist(),
        "grid": [_short(row) for row in full],
        "reach": reach.tolist(),
        "domain": _domain(rows=count, context=context, heads=heads, kv_heads=kv_heads),
    }


def _filled(xs: Floats, ys: Floats, grid: Floats) -> Floats:
    """The grid without holes: linear along context, beyond a row's last cell at the rate of its last two.

    A row with a single cell rises like the nearest row with two, in proportion to what it reads.
    """
    known = ~np.isnan(grid)
    rich = np.flatnonzero(known.sum(axis=1) > 1)
    if not rich.size:
        raise InputError("decode attention was measured at one context per batch; measure more")
    out = grid.copy()
    for i in rich:
        at = np.flatnonzero(known[i])
        low, last = at[-2:]
        rate = max(0.0, (grid[i, last] - grid[i, low]) / (ys[last] - ys[low]))
        out[i] = np.interp(ys, ys[at], grid[i, at]) + rate * np.maximum(ys - ys[last], 0.0)
    for i in np.flatnonzero(known.sum(axis=1) == 1):
        near, at = rich[np.argmin(np.abs(rich - i))], np.flatnonzero(known[i])
        out[i] = grid[i, at] + (out[near] - out[near, at]) * xs[i] / xs[near]
    return out


def layer_sums(rows: Rows) -> list[Mapping[str, Any]]:
    """What a layer's elementwise kernels take together at each number of rows, as rows of their own."""
    found: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((str(row["model"]), row["rows"]), {})[str(row["op"])] = row
    return [
        {
            "key": f"layer rows={at}", "op": "layer", "rows": at, "kernels": sum(LAYER.values()),
            **{name: sum(times * float(ops[op][name]) for op, times in LAYER.items())
               for name in ("bytes_moved", "p50_ns")},
        }
        for (_, at), ops in found.items()
        if set(ops) == set(LAYER)
    ]  # fmt: skip


def elementwise_table(rows: Rows) -> dict[str, Any]:
    """Floor and rate of one kernel, fitted to the sums over a layer's."""
    if len(rows) < 2:
        raise InputError("norm, keys and activation were measured together at fewer than two numbers of rows")
    kernels, moved, ns = column(rows, "kernels", "bytes_moved", "p50_ns")
    found = relative_nnls(np.stack([kernels, moved], axis=1), ns, np.ones(ns.shape))
    return {
        "floor_ns": float(f"{found[0]:.6g}"),
        "ns_per_byte": float(f"{found[1]:.6g}"),
        "domain": {"bytes_moved": [0.0, float((moved / kernels).max())]},
    }


def gemm_times(table: Mapping[str, Any], rows: Rows) -> Times:
    """What a table says of measured rows, and whether each lies inside."""
    read = GemmTimes.read(table)
    return _stacked(read(m, int(n[0]), int(k[0])) for m, n, k in _cells(rows, "m", "n", "k"))


def prefill_times(table: Mapping[str, Any], rows: Rows) -> Times:
    """What a table says of measured rows, and whether each lies inside."""
    read, names = PrefillTimes.read(table), ("new", "context", "model_heads", "model_kv_heads")
    return _stacked(read(a, c, int(h[0]), int(g[0]), read.head_dim) for a, c, h, g in _cells(rows, *names))


def decode_times(table: Mapping[str, Any], rows: Rows) -> Times:
    """What a table says of measured rows, and whether each lies inside."""
    read, names = DecodeTimes.read(table), ("rows", "context", "model_heads", "model_kv_heads")
    return _stacked(read(a, c, int(h[0]), int(g[0]), read.head_dim) for a, c, h, g in _cells(rows, *names))


def elementwise_times(table: Mapping[str, Any], rows: Rows) -> Times:
    """What a table says of a layer's kernels together, and whether each lies inside."""
    kernels, moved = column(rows, "kernels", "bytes_moved")
    ns = table["floor_ns"] * kernels + table["ns_per_byte"] * moved
    return ns, within(table["domain"], bytes_moved=moved / kernels)


def _cells(rows: Rows, *names: str) -> Iterator[tuple[Any, ...]]:
    """Sizes of each row as arrays of one."""
    return zip(*(x[:, None] for x in column(rows, *names)))


def _stacked(answers: Iterable[Times]) -> Times:
    ns, inside = zip(*answers)
    return np.concatenate(ns), np.concatenate(inside)


def _domain(**columns: Floats) -> dict[str, list[float]]:
    return {name: [float(x.min()), float(x.max())] for name, x in columns.items()}


def _short(values: Floats) -> list[float]:
    return [float(f"{x:.6g}") for x in values]
