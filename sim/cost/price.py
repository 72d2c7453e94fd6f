"""The price of one iteration: rows that really run each layer, times what that costs.

Weights are shared traffic and KV is private traffic: a layer's weights are read once if any row runs it, its cache
once per row that attends. Each group of layers is priced at its own number of rows, so a skipped token saves exactly
what can be saved and no more. Written for columns, like the scheduler: interpreted it is the oracle, compiled the loop.
"""

from sim.cost.counters import count_dense, count_group, gated_rows
from sim.cost.grid import decode_attention_ns
from sim.cost.tables import (
    ATTN_POINTWISE,
    CHUNK_NS,
    COMMUNICATION,
    COMPUTE,
    DRAFT_PASSES,
    DRAFTS,
    EMBED,
    FFN_GEMMS,
    FFN_POINTWISE,
    HEAD,
    HOST,
    KV_READ,
    LAUNCH,
    OUTSIDE_NS,
    PARTS,
    POINTWISE,
    PROMPT,
    QKVO,
    QO,
    REDUCE,
    SAMPLED,
    SAMPLED_CONTEXT,
    SAMPLING,
    SEQUENCES,
    SINGLE,
    WEIGHTS,
    Scratch,
    Tables,
)

HAS_ATTN, HAS_FFN, HAS_KV = 1, 2, 4


def price_step(tables: Tables, scratch: Scratch) -> int:
    """Nanoseconds of the step that was tallied into `scratch`; its parts and the running counters are booked."""
    scratch.parts_ns[:] = 0
    rows = scratch.rows
    total = rows[PROMPT] + rows[SAMPLED] + rows[DRAFTS]
    for u in range(scratch.class_rows.size):
        total += scratch.class_rows[u]
    kernels = tables.kernels_step
    for g in range(tables.layers.size):
        kernels += price_group(tables, scratch, g)
    book(tables, scratch, EMBED, total, 1, POINTWISE)
    book(tables, scratch, HEAD, rows[SAMPLING] + rows[DRAFTS], 1, COMPUTE)
    if rows[DRAFT_PASSES] > 0:
        book(tables, scratch, HEAD, rows[SINGLE], rows[DRAFT_PASSES], COMPUTE)
    count_dense(tables, scratch, total)
    return step_ns(tables, scratch, kernels, total)


def step_ns(tables: Tables, scratch: Scratch, kernels: int, total: int) -> int:
    """Device time plus what launching and the host add to it."""
    device = 0
    for part in range(PARTS):
        device += scratch.parts_ns[part]
    launch = kernels * tables.graph_gap_ns
    prompts = scratch.rows[PROMPT] + scratch.rows[SAMPLED]
    if total > tables.graph_rows or (prompts > 0 and not tables.graph_prompts):
        # launched one by one: the device waits where it is faster than the host
        launch = max(launch, kernels * tables.eager_launch_ns - device)
    host = tables.host_step_ns + tables.host_row_ns * scratch.rows[SEQUENCES]
    if tables.host_overlap:
        host = max(0, host - device - launch)
    scratch.parts_ns[LAUNCH] = launch
    scratch.parts_ns[HOST] = host
    return device + launch + host


def price_group(tables: Tables, scratch: Scratch, g: int) -> int:
    """Kernels launched for the group's layers; their time is booked."""
    attn = rows_with(tables, scratch, g, HAS_ATTN)
    kv = rows_with(tables, scratch, g, HAS_KV)
    ffn = rows_with(tables, scratch, g, HAS_FFN)
    layers = tables.layers[g]
    fused = fuses(tables, g, attn, kv)
    kernels = 0
    if attn > 0:
        together = max(attn, kv) if fused else attn
        book(tables, scratch, QKVO if fused else QO, together, layers, COMPUTE)
        book(tables, scratch, ATTN_POINTWISE, together, layers, POINTWISE)
        book(tables, scratch, REDUCE, attn, layers, COMMUNICATION)
        book_attention(tables, scratch, g)
        kernels += layers * tables.kernels_attn
    if kv > 0 and not fused:
        book_kv(tables, scratch, g, kv)
        kernels += tables.kernels_kv if not tables.fused[g] else layers * tables.kernels_kv
    share = 0.0
    if ffn > 0:
        share = book_ffn(tables, scratch, g, ffn)
        kernels += layers * tables.kernels_ffn
    if tables.drafted[g] > 0 and scratch.rows[DRAFT_PASSES] > 0:
        kernels += scratch.rows[DRAFT_PASSES] * book_draft(tables, scratch, g)
    count_group(tables, scratch, g, attn, kv, ffn, share)
    return kernels


def fuses(tables: Tables, g: int, attn: int, kv: int) -> bool:
    """Whether Q, K and V come out of one GEMM: where they have the same rows, or padding costs less than a second one.

    Without the choice a row that attends no more and only leaves its keys would make the step slower.
    """
    if tables.fused[g] == 0 or attn == 0 or kv == 0:
        return False
    if attn == kv:
        return True
    together = tables.ns[QKVO, max(attn, kv)] + tables.ns[ATTN_POINTWISE, max(attn, kv)]
    apart = tables.ns[QO, attn] + tables.ns[ATTN_POINTWISE, attn] + tables.kernels_kv * tables.graph_gap_ns
    return together * tables.layers[g] <= apart * tables.layers[g] + tables.kv_ns[g, kv]


def rows_with(tables: Tables, scratch: Scratch, g: int, flag: int) -> int:
    """Tokens of the step that have the flag in the group's layers; drafts are verified where they were not drafted."""
    rows = 0
    if tables.prompt[g] & flag:
        rows += scratch.rows[PROMPT]
    if tables.sampled[g] & flag:
        rows += scratch.rows[SAMPLED]
    for u in range(scratch.class_rows.size):
        if tables.decode[u, g] & flag:
            rows += scratch.class_rows[u]
            if not tables.drafted[g]:
                rows += scratch.class_drafts[u]
    return rows


def book_attention(tables: Tables, scratch: Scratch, g: int) -> None:
    """Book the group's attention: prompt chunks, recomputed chunks, and single-token rows."""
    layers = tables.layers[g]
    rows, context, chunks = 0, 0, 0.0
    if tables.prompt[g] & HAS_ATTN:
        chunks += scratch.chunk[CHUNK_NS]
    elif tables.sampled[g] & HAS_ATTN:
        rows += scratch.rows[SAMPLED]
        context += scratch.rows[SAMPLED_CONTEXT]
    for u in range(scratch.class_rows.size):
        if tables.decode[u, g] & HAS_ATTN:
            rows += scratch.class_single[u]
            context += scratch.class_context[u]
            chunks += scratch.class_chunk[u, CHUNK_NS]
    if rows > 0:
        ns = decode_attention_ns(tables, scratch, rows, context, layers)
        scratch.parts_ns[KV_READ] += int(ns + 0.5) * layers  # rounded per layer: groups may be cut at will
    scratch.parts_ns[COMPUTE] += int(chunks + 0.5) * layers


def book_ffn(tables: Tables, scratch: Scratch, g: int, rows: int) -> float:
    """Share of the group's FFN weights that is read; the time of the FFN is booked.

    Behind a gate the weights are read unless all rows skip; rows that skip leave the GEMM only where the batch is
    large enough for compaction to pay.
    """
    layers, share = tables.layers[g], 1.0
    if tables.gate_skip[g] > 0:
        gated = gated_rows(tables, scratch, g)
        if gated == rows:
            share = 1.0 - tables.gate_all[g, gated]
        if rows >= tables.compact_rows:
            rows -= int(gated * tables.gate_skip[g] + 0.5)
    for kind, part in ((FFN_GEMMS, COMPUTE), (FFN_POINTWISE, POINTWISE)):
        whole = tables.ns[kind, rows]
        ns = layers * (whole if share == 1.0 else int(whole * share + 0.5))
        floor = 0
        if part == COMPUTE:
            floor = min(ns, tables.ns[kind, 1] * layers)
            scratch.parts_ns[WEIGHTS] += floor
        scratch.parts_ns[part] += ns - floor
        if tables.outside[kind, rows]:
            scratch.counters[OUTSIDE_NS] += ns
    book(tables, scratch, REDUCE, rows, layers, COMMUNICATION)
    return share


def book_draft(tables: Tables, scratch: Scratch, g: int) -> int:
    """Kernels of one draft pass through the group; the time of all passes is booked."""
    single, layers = scratch.rows[SINGLE], tables.layers[g]
    passes = scratch.rows[DRAFT_PASSES]
    times = layers * passes
    book(tables, scratch, QKVO, single, times, COMPUTE)
    book(tables, scratch, FFN_GEMMS, single, times, COMPUTE)
    book(tables, scratch, ATTN_POINTWISE, single, times, POINTWISE)
    book(tables, scratch, FFN_POINTWISE, single, times, POINTWISE)
    book(tables, scratch, REDUCE, single, 2 * times, COMMUNICATION)
    context = 0
    for u in range(scratch.class_rows.size):
        context += scratch.class_context[u]
    scratch.parts_ns[KV_READ] += int(decode_attention_ns(tables, scratch, single, context, times) + 0.5) * times
    return layers * (tables.kernels_attn + tables.kernels_ffn)


def book(tables: Tables, scratch: Scratch, kind: int, rows: int, times: int, part: int) -> None:
    """Book `times` repetitions of one kind of work at so many rows; of a GEMM, one row's price is its weights'."""
    total = tables.ns[kind, rows] * times
    if part == COMPUTE and rows > 0:
        floor = tables.ns[kind, 1] * times
        scratch.parts_ns[WEIGHTS] += floor
        scratch.parts_ns[COMPUTE] += total - floor
    else:
        scratch.parts_ns[part] += total
    if tables.outside[kind, rows]:
        scratch.counters[OUTSIDE_NS] += total


def book_kv(tables: Tables, scratch: Scratch, g: int, rows: int) -> None:
    """Book the group's separate K and V projections, all its layers at once."""
    floor = tables.kv_ns[g, 1]
    scratch.parts_ns[WEIGHTS] += floor
    scratch.parts_ns[COMPUTE] += tables.kv_ns[g, rows] - floor
    if tables.kv_outside[g, rows]:
        scratch.counters[OUTSIDE_NS] += tables.kv_ns[g, rows]
