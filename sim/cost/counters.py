"""Work done, and what the dense model would have done for the same rows: realised savings are the ratio of the two."""

from sim.cost.tables import (
    CHUNK_KV,
    CHUNK_PAIRS,
    DRAFT_PASSES,
    DRAFTS,
    FLOPS,
    FLOPS_DENSE,
    KV_BYTES,
    KV_BYTES_DENSE,
    ROW_LAYERS,
    ROW_LAYERS_DENSE,
    SAMPLED_CONTEXT,
    SAMPLING,
    SINGLE,
    WEIGHT_BYTES,
    WEIGHT_BYTES_DENSE,
    Scratch,
    Tables,
)

HAS_ATTN, HAS_FFN = 1, 2


def count_group(tables: Tables, scratch: Scratch, g: int, attn: int, kv: int, ffn: int, ffn_share: float) -> None:
    """Add a group's FLOPs, weight bytes, KV bytes and row-layers, given its rows; `ffn_share` of its FFN is read."""
    pairs, cached = attention_work(tables, scratch, g)
    reads = 1
    if tables.drafted[g]:
        reads += scratch.rows[DRAFT_PASSES]
        passes = scratch.rows[SINGLE] * scratch.rows[DRAFT_PASSES]
        attn, kv, ffn = attn + passes, kv + passes, ffn + passes
    ran = ffn - gated_rows(tables, scratch, g) * tables.gate_skip[g]
    layers = tables.layers[g]
    flops = 2.0 * (tables.attn_params * attn + tables.kv_params * kv + tables.ffn_params * ran)
    scratch.counters[FLOPS] += layers * (flops + 4.0 * tables.d_q * pairs)
    weights = tables.attn_params * (attn > 0) + tables.kv_params * (kv > 0) + tables.ffn_params * ffn_share
    scratch.counters[WEIGHT_BYTES] += layers * weights * tables.weight_bytes * reads
    scratch.counters[KV_BYTES] += layers * cached * tables.kv_token_bytes * reads
    scratch.counters[ROW_LAYERS] += layers * (attn + ran) * 0.5


def gated_rows(tables: Tables, scratch: Scratch, g: int) -> int:
    """Rows that may skip the FFN of the group's layers: past the warm-up, and of a class that has one there."""
    rows = 0
    for u in range(scratch.class_rows.size):
        if tables.decode[u, g] & HAS_FFN:
            rows += scratch.class_gated[u]
    return rows


def attention_work(tables: Tables, scratch: Scratch, g: int) -> tuple[float, float]:
    """Query-key pairs, and cached tokens read, in one layer of the group."""
    pairs, cached = 0.0, 0.0
    if tables.prompt[g] & HAS_ATTN:
        pairs += scratch.chunk[CHUNK_PAIRS] - scratch.rows[SAMPLED_CONTEXT]
        cached += scratch.chunk[CHUNK_KV]
    elif tables.sampled[g] & HAS_ATTN:
        cached += scratch.rows[SAMPLED_CONTEXT]
    if tables.sampled[g] & HAS_ATTN:
        pairs += scratch.rows[SAMPLED_CONTEXT]
    for u in range(scratch.class_rows.size):
        if tables.decode[u, g] & HAS_ATTN:
            pairs += scratch.class_context[u] + scratch.class_chunk[u, CHUNK_PAIRS]
            cached += scratch.class_context[u] + scratch.class_chunk[u, CHUNK_KV]
    return pairs, cached


def count_dense(tables: Tables, scratch: Scratch, total: int) -> None:
    """Add the head's work to both sides, and the dense model's layers to the reference."""
    singles = total - scratch.rows[DRAFTS]
    pairs, cached = scratch.chunk[CHUNK_PAIRS], scratch.chunk[CHUNK_KV]
    for u in range(scratch.class_rows.size):
        pairs += scratch.class_context[u] + scratch.class_chunk[u, CHUNK_PAIRS]
        cached += scratch.class_context[u] + scratch.class_chunk[u, CHUNK_KV]
    layer = tables.attn_params + tables.kv_params + tables.ffn_params
    head_flops = 2.0 * tables.head_params * scratch.rows[SAMPLING]
    head_bytes = 2.0 * tables.head_params if scratch.rows[SAMPLING] > 0 else 0.0
    scratch.counters[FLOPS] += head_flops
    layer_flops = 2.0 * layer * singles + 4.0 * tables.d_q * pairs
    scratch.counters[FLOPS_DENSE] += tables.total_layers * layer_flops + head_flops
    scratch.counters[WEIGHT_BYTES] += head_bytes
    scratch.counters[WEIGHT_BYTES_DENSE] += tables.total_layers * layer * tables.weight_bytes + head_bytes
    scratch.counters[KV_BYTES_DENSE] += tables.total_layers * cached * tables.kv_token_bytes
    scratch.counters[ROW_LAYERS_DENSE] += tables.total_layers * singles
