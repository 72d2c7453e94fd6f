"""The price of one iteration: rows that really run each layer, times what that costs.

Weights are shared traffic and KV is private traffic: a layer's weights are read once if any row runs it, its cache
once per row that attends. Each group of layers is priced at its own number of rows, so a skipped token saves exactly
what can be saved and no more. Written for columns, like the scheduler: interpreted it is the oracle, compiled the loop.
"""

from sim.cost.counters import HAS_ATTN, add_up, count_dense, count_group
from sim.cost.grid import bilinear, cell, leans_outside
from sim.cost.tables import (
    ALL,
    ATTN_POINTWISE,
    CELL_CONTEXT,
    CELL_ROWS,
    CHUNK_NS,
    CHUNK_OUTSIDE_NS,
    CLASSES,
    COMMUNICATION,
    COMPUTE,
    CONTEXT,
    DRAFT_PASSES,
    DRAFTS,
    EMBED,
    FFN_GEMMS,
    FFN_POINTWISE,
    HEAD,
    HOST,
    IN_ATTN,
    IN_FFN,
    IN_GATE,
    IN_KV,
    KERNELS,
    KV_READ,
    LAUNCH,
    OUTSIDE_KV_NS,
    OUTSIDE_NS,
    POINTWISE,
    PROMPT,
    QKVO,
    QO,
    RECOMPUTED,
    REDUCE,
    SAMPLED,
    SAMPLING,
    SEQUENCES,
    SINGLE,
    SOLO,
    SOLO_CONTEXT,
    TOTAL,
    WEIGHTS,
    Scratch,
    Tables,
)
from sim.cost.tally import tally_group


def price_step(tables: Tables, scratch: Scratch) -> int:
    """Nanoseconds of the step that was tallied into `scratch`; its parts and the running counters are booked."""
    scratch.parts_ns[:] = 0
    scratch.counters[:] = 0
    rows = scratch.rows
    rows[KERNELS] = tables.kernels_step
    rows[TOTAL] = rows[PROMPT] + rows[SAMPLED] + rows[DRAFTS]
    for u in range(scratch.classes.shape[0]):
        if scratch.classes[u, ALL] > 0:
            rows[TOTAL] += scratch.classes[u, ALL]
            scratch.there[rows[CLASSES]] = u
            rows[CLASSES] += 1
    for g in range(tables.layers.size):
        rows[KERNELS] += price_group(tables, scratch, g)
    book(tables, scratch, EMBED, rows[TOTAL], 1, POINTWISE)
    book(tables, scratch, HEAD, rows[SAMPLING] + rows[DRAFTS], 1, COMPUTE)
    if rows[DRAFT_PASSES] > 0:
        book(tables, scratch, HEAD, rows[SINGLE], rows[DRAFT_PASSES], COMPUTE)
    count_dense(scratch)
    add_up(tables, scratch, 1)
    return step_ns(tables, scratch)


def step_ns(tables: Tables, scratch: Scratch) -> int:
    """Device time plus what launching and the host add to it."""
    parts, device = scratch.parts_ns, device_ns(scratch)
    parts[LAUNCH] = launch_ns(tables, scratch, device)
    parts[HOST] = host_ns(tables, scratch, device + parts[LAUNCH])
    return device + parts[LAUNCH] + parts[HOST]


def device_ns(scratch: Scratch) -> int:
    """What the step's kernels take."""
    parts = scratch.parts_ns
    return parts[WEIGHTS] + parts[KV_READ] + parts[COMPUTE] + parts[POINTWISE] + parts[COMMUNICATION]


def launch_ns(tables: Tables, scratch: Scratch, kernels_ns: int) -> int:
    """What launching the step's kernels adds to their time."""
    rows = scratch.rows
    launch = rows[KERNELS] * tables.graph_gap_ns
    prompts = rows[PROMPT] + rows[SAMPLED]
    if rows[TOTAL] > tables.graph_rows or (prompts > 0 and not tables.graph_prompts):
        # launched one by one: the device waits where it is faster than the host
        launch = max(launch, rows[KERNELS] * tables.eager_launch_ns - kernels_ns)
    return launch


def host_ns(tables: Tables, scratch: Scratch, launched_ns: int) -> int:
    """What the host adds to the step, the kernels and their launches having taken so long."""
    host = tables.host_step_ns + tables.host_row_ns * scratch.rows[SEQUENCES]
    return max(0, host - launched_ns) if tables.host_overlap else host


def price_group(tables: Tables, scratch: Scratch, g: int) -> int:
    """Kernels launched for the group's layers; their time is booked and their work counted."""
    tally_group(tables, scratch, g)
    group = scratch.groups[g]
    attn, kv, ffn = group[IN_ATTN], group[IN_KV], group[IN_FFN]
    layers = tables.layers[g]
    fused = fuses(tables, g, attn, kv)
    kernels = 0
    if attn > 0:
        together = max(attn, kv) if fused else attn
        book(tables, scratch, QKVO if fused else QO, together, layers, COMPUTE)
        book(tables, scratch, ATTN_POINTWISE, together, layers, POINTWISE)
        book(tables, scratch, REDUCE, attn, layers, COMMUNICATION)
        book_chunks(tables, scratch, g)
        book_solos(tables, scratch, g)
        kernels += layers * tables.kernels_attn
    if kv > 0 and not fused:
        book_kv(tables, scratch, g, kv)
        kernels += tables.kernels_kv if not tables.fused[g] else layers * tables.kernels_kv
    unread = 0.0
    if ffn > 0:
        unread = book_ffn(tables, scratch, g, ffn)
        kernels += layers * tables.kernels_ffn
    if tables.drafted[g] > 0 and scratch.rows[DRAFT_PASSES] > 0:
        kernels += scratch.rows[DRAFT_PASSES] * book_draft(tables, scratch, g)
    count_group(tables, scratch, g, unread)
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


def book_chunks(tables: Tables, scratch: Scratch, g: int) -> None:
    """Book the attention of prompt chunks and recomputed chunks in the group's layers, rounded per layer."""
    ns, outside_ns, layers = 0.0, 0.0, tables.layers[g]
    if tables.prompt[g] & HAS_ATTN:
        ns += scratch.chunk_ns[CHUNK_NS]
        outside_ns += scratch.chunk_ns[CHUNK_OUTSIDE_NS]
    if scratch.rows[RECOMPUTED] > 0:
        for u in scratch.there[: scratch.rows[CLASSES]]:
            if tables.decode[u, g] & HAS_ATTN:
                ns += scratch.class_ns[u, CHUNK_NS]
                outside_ns += scratch.class_ns[u, CHUNK_OUTSIDE_NS]
    scratch.parts_ns[COMPUTE] += int(ns + 0.5) * layers
    scratch.counters[OUTSIDE_NS] += int(outside_ns + 0.5) * layers


def book_solos(tables: Tables, scratch: Scratch, g: int) -> None:
    """Book the attention of single-token rows in the group's layers."""
    group = scratch.groups[g]
    if group[SOLO] > 0:
        book_decoding(tables, scratch, g, group[SOLO], group[SOLO_CONTEXT], tables.layers[g])


def book_decoding(tables: Tables, scratch: Scratch, g: int, rows: int, context: int, times: int) -> None:
    """Book attention of `rows` single-token rows whose contexts sum to `context`, so many times; rounded each time:
    groups may be cut at will."""
    group, xs, ys = scratch.groups[g], tables.decode_rows, tables.decode_context
    mean = context / rows
    i, j = cell(xs, rows, group[CELL_ROWS]), cell(ys, mean, group[CELL_CONTEXT])
    group[CELL_ROWS], group[CELL_CONTEXT] = i, j
    ns = int(bilinear(xs, ys, tables.decode_ns, i, j, rows, mean) + 0.5) * times
    scratch.parts_ns[KV_READ] += ns
    if leans_outside(xs, ys, tables.decode_outside, i, j, rows, mean):
        scratch.counters[OUTSIDE_KV_NS] += ns


def book_ffn(tables: Tables, scratch: Scratch, g: int, rows: int) -> float:
    """Share of the group's FFN weights that nobody reads; the time of the FFN is booked.

    Behind a gate the weights are read unless all rows skip; rows that skip leave the GEMM only where the batch is
    large enough for compaction to pay.
    """
    layers, unread = tables.layers[g], 0.0
    if tables.gate_skip[g] > 0:
        gated = scratch.groups[g, IN_GATE]
        if gated == rows:
            unread = tables.gate_all[g, gated]
        if rows >= tables.gathered_rows:
            rows -= int(gated * tables.gate_skip[g] + 0.5)
    share = 1.0 - unread
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
    return unread


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
    for u in scratch.there[: scratch.rows[CLASSES]]:
        context += scratch.classes[u, CONTEXT]
    book_decoding(tables, scratch, g, single, context, times)
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
