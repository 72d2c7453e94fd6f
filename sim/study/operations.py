"""Every operation of a step on its own: what it computes, what it moves, how long it is priced to take.

Counted for one GPU of the deployment, at sizes from one row to a full prompt chunk. Products count two FLOPs per weight
and row, attention four per query, key and dimension of a head, and passes over memory one per element of two bytes.
Bytes are what must move at least: weights once, rows in and out, the cache once.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from sim.cost.deployment import BYTES, Deployment
from sim.cost.times import KernelTimes

ROWS = (1, 4, 16, 64, 256, 1024, 4096)
CONTEXT = 1024  # tokens in the cache of each decoding sequence
SCHEMA = {
    "operation": pl.String,
    "kind": pl.String,
    "rows": pl.Int64,
    "flops": pl.Float64,
    "bytes": pl.Float64,
    "ns": pl.Float64,
    "measured": pl.Boolean,
}
GEMM, ATTENTION, POINTWISE = "matrix product", "attention", "pass over memory"
Counted = tuple[str, str, int, float, float, float, bool]


def operations(on: Deployment, times: KernelTimes, rows: Sequence[int] = ROWS) -> pl.DataFrame:
    """One row per operation and size: operation, kind, rows, flops, bytes, ns, measured (inside the fits' domain)."""
    counted = [*_products(on, times, rows), *_attention(on, times, rows), *_passes(on, times, rows)]
    return pl.DataFrame(counted, schema=SCHEMA, orient="row")


def _products(on: Deployment, times: KernelTimes, rows: Sequence[int]) -> Iterator[Counted]:
    m, tp = on.model, on.tp
    q, kv, f = m.d_q // tp, on.kv_heads_per_gpu * m.head_dim, m.ffn // tp
    up = (2 if m.gated_ffn else 1) * f
    shapes = {
        "QKV": (q + 2 * kv, m.hidden, on.weights),
        "attention output": (m.hidden, q, on.weights),
        "FFN up": (up, m.hidden, on.weights),
        "FFN down": (m.hidden, f, on.weights),
        "LM head": (m.vocab // tp, m.hidden, "bf16"),
    }
    for name, (n, k, dtype) in shapes.items():
        ns, inside = times.gemm(np.array(rows), n, k, dtype)
        for r, t, known in zip(rows, ns, inside):
            yield name, GEMM, r, 2.0 * r * n * k, BYTES[dtype] * n * k + 2.0 * r * (n + k), float(t), bool(known)


def _attention(on: Deployment, times: KernelTimes, rows: Sequence[int]) -> Iterator[Counted]:
    heads, kv_heads, dim = on.heads_per_gpu, on.kv_heads_per_gpu, on.model.head_dim
    cached = 2 * kv_heads * dim * BYTES[on.kv]  # bytes of a token
    outer = 4.0 * heads * dim  # bytes of a row's query and answer
    ns, inside = times.decode_attention(np.array(rows), CONTEXT, heads, kv_heads, dim, on.kv)
    for r, t, known in zip(rows, ns, inside):
        flops = 4.0 * r * CONTEXT * heads * dim
        yield f"decode attention, {CONTEXT} cached", ATTENTION, r, flops, r * (CONTEXT * cached + outer), t, bool(known)
    ns, inside = times.prefill_attention(np.array(rows), 0, heads, kv_heads, dim, on.kv)
    for r, t, known in zip(rows, ns, inside):
        flops = 2.0 * r * (r + 1) * heads * dim
        yield "prompt attention", ATTENTION, r, flops, r * (cached + outer), t, bool(known)


def _passes(on: Deployment, times: KernelTimes, rows: Sequence[int]) -> Iterator[Counted]:
    m, tp = on.model, on.tp
    q, kv, f = m.d_q // tp, on.kv_heads_per_gpu * m.head_dim, m.ffn // tp
    moved = {
        "norm and residual": 8.0 * m.hidden,
        "rotary and cache write": 4.0 * (q + kv) + 2 * kv + 2 * kv * BYTES[on.kv],
        "activation": 2.0 * ((2 if m.gated_ffn else 1) * f + f),
        "sampling": 4.0 * m.vocab,
    }
    for name, row_bytes in moved.items():
        ns, inside = times.elementwise(np.array(rows) * row_bytes)
        for r, t, known in zip(rows, ns, inside):
            yield name, POINTWISE, r, r * row_bytes / 2, r * row_bytes, float(t), bool(known)
