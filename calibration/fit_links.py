"""Fits of what moves bytes and computes nothing: all-reduce over NVLink, and elementwise passes over memory."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calibration.monotone import hinges, relative_nnls, spread
from sim.errors import InputError

GRAPH_GAP_NS = 1000.0  # between kernels of a CUDA graph: the shortest GEMM replays at 2.45 us, half of it running
KNOTS_BYTES = tuple(float(2**x) for x in (8, 14, 16, 18, 19, 20, 21, 22, 23, 24, 25, 27, 30))


def fit_all_reduce(rows: pl.DataFrame) -> dict[str, Any]:
    """Tables by tp for `Measured.all_reduce`: ns at a few message sizes, linear between them, never falling."""
    tables: dict[str, Any] = {}
    for tp in sorted(rows["tp"].unique()):
        some = rows.filter(pl.col("tp") == tp)
        size = some["message_bytes"].to_numpy().astype(np.float64)
        ns = some["ns"].to_numpy()
        knots = [x for x in KNOTS_BYTES if size.min() <= x <= size.max()]
        design = hinges(size, knots)
        found = relative_nnls(design, ns, np.ones(ns.shape))
        tables[str(tp)] = {
            "knots": knots,
            "ns": [float(f"{x:.5g}") for x in np.cumsum(found)],
            "domain": {"message_bytes": [float(size.min()), float(size.max())]},
            "residuals": {"in_sample": spread(design @ found, ns)},
        }
    return tables


def fit_elementwise(path: Path) -> dict[str, Any]:
    """Floor and rate of one pass over memory, from the residual additions of a Vidur `mlp.csv`.

    Two bf16 rows of the hidden width are read and one is written. Their norms and activations are unfused and slower
    than an engine's; the addition is the one kernel there that every engine shares. Vidur times kernels without
    their gaps; one is added to the floor, as the replayed graphs of the other ops contain it.
    """
    frame = pl.read_csv(path, infer_schema_length=10_000)
    column = "time_stats.add.median"
    for name in (column, "num_tokens", "n_embd"):
        if name not in frame.columns:
            raise InputError(f"{path}: lacks column {name}")
    frame = frame.filter(pl.col(column) > 0).select("num_tokens", "n_embd", column).drop_nulls()
    if frame.is_empty():
        raise InputError(f"{path}: holds no additions")
    moved = (frame["num_tokens"] * frame["n_embd"] * 6).to_numpy().astype(np.float64)
    ns = frame[column].to_numpy() * 1e6
    design = np.stack([np.ones(moved.shape), moved], axis=1)
    found = relative_nnls(design, ns, np.ones(ns.shape))
    return {
        "floor_ns": round(float(found[0]) + GRAPH_GAP_NS, 1),
        "ns_per_byte": float(f"{found[1]:.5g}"),
        "domain": {"bytes_moved": [float(moved.min()), float(moved.max())]},
        "residuals": {"in_sample": spread(design @ found, ns)},
    }
