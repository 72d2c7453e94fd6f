"""From whole numbers of rows, reads and pairs to FLOPs and bytes: realised savings are ratios of these."""

from sim.cost.tables import (
    ATTN_READS,
    ATTN_ROWS,
    CACHED,
    CACHED_DENSE,
    FFN_READS,
    FFN_ROWS,
    GATED,
    HEAD_READS,
    HEAD_ROWS,
    KV_READS,
    KV_ROWS,
    OUTSIDE_KV_NS,
    OUTSIDE_NS,
    PAIRS,
    PAIRS_DENSE,
    ROWS_DENSE,
    STEPS,
    UNREAD,
    WHOLE,
    Scratch,
    Tables,
)


def work_done(tables: Tables, scratch: Scratch) -> dict[str, float]:
    """Work of all steps that were priced, and what the dense model would have done for the same rows, by name.

    FLOPs; bytes of weights and of keys and values read; rows times layers (half for attention, half for the FFN); and
    nanoseconds priced outside the measured domain.
    """
    t, n = tables, scratch.totals.astype(float)
    gates = scratch.gate_totals * t.layers[:, None]
    ran = n[FFN_ROWS] - float(gates[:, GATED] @ t.gate_skip)
    read = n[FFN_READS] - float((gates[:, UNREAD] / WHOLE).sum())
    layer, layers = t.attn_params + t.kv_params + t.ffn_params, t.total_layers
    head_flops, head_bytes = 2.0 * t.head_params * n[HEAD_ROWS], 2.0 * t.head_params * n[HEAD_READS]
    matrices = 2.0 * (t.attn_params * n[ATTN_ROWS] + t.kv_params * n[KV_ROWS] + t.ffn_params * ran)
    weights = t.attn_params * n[ATTN_READS] + t.kv_params * n[KV_READS] + t.ffn_params * read
    figures = {
        "flops": matrices + 4.0 * t.d_q * n[PAIRS] + head_flops,
        "flops_dense": layers * (2.0 * layer * n[ROWS_DENSE] + 4.0 * t.d_q * n[PAIRS_DENSE]) + head_flops,
        "weight_bytes": weights * t.weight_bytes + head_bytes,
        "weight_bytes_dense": layers * layer * t.weight_bytes * n[STEPS] + head_bytes,
        "kv_read_bytes": n[CACHED] * t.kv_token_bytes,
        "kv_read_bytes_dense": layers * n[CACHED_DENSE] * t.kv_token_bytes,
        "outside_ns": n[OUTSIDE_NS] + n[OUTSIDE_KV_NS],
        "row_layers": 0.5 * (n[ATTN_ROWS] + ran),
        "row_layers_dense": layers * n[ROWS_DENSE],
    }
    return {name: float(value) for name, value in figures.items()}
