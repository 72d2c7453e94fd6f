"""Work done, and what the dense model would have done for the same rows, in whole numbers of rows, reads and pairs."""

from sim.cost.tables import (
    ATTN_READS,
    ATTN_ROWS,
    CACHED,
    CACHED_AGAIN,
    CACHED_DENSE,
    CHUNK_CACHED,
    CHUNK_PAIRS,
    CLASSES,
    CONTEXT,
    COUNTERS,
    DRAFT_PASSES,
    DRAFTS,
    FFN_READS,
    FFN_ROWS,
    GATED,
    HEAD_READS,
    HEAD_ROWS,
    IN_ATTN,
    IN_FFN,
    IN_GATE,
    IN_KV,
    KV_READS,
    KV_ROWS,
    OUTSIDE_KV_NS,
    PAIRS,
    PAIRS_AGAIN,
    PAIRS_DENSE,
    ROWS_DENSE,
    SAMPLED_CONTEXT,
    SAMPLING,
    SINGLE,
    SOLO,
    STEPS,
    TOTAL,
    UNREAD,
    WHOLE,
    Scratch,
    Tables,
)

HAS_ATTN, HAS_FFN, HAS_KV = 1, 2, 4


def count_group(tables: Tables, scratch: Scratch, g: int, unread: float) -> None:
    """Count a group's rows, weight reads and attention; `unread` is the share of its FFN weights that nobody reads."""
    group, layers, counters = scratch.groups[g], tables.layers[g], scratch.counters
    reads, drafted = 1, 0
    if tables.drafted[g]:
        reads += scratch.rows[DRAFT_PASSES]
        drafted = scratch.rows[SINGLE] * scratch.rows[DRAFT_PASSES]
    counters[ATTN_ROWS] += layers * (group[IN_ATTN] + drafted)
    counters[KV_ROWS] += layers * (group[IN_KV] + drafted)
    counters[FFN_ROWS] += layers * (group[IN_FFN] + drafted)
    counters[ATTN_READS] += layers * reads * (group[IN_ATTN] + drafted > 0)
    counters[KV_READS] += layers * reads * (group[IN_KV] + drafted > 0)
    if group[IN_FFN] > 0:
        counters[FFN_READS] += layers * reads
    if tables.gate_skip[g] > 0:
        scratch.gates[g, GATED] = group[IN_GATE]
        scratch.gates[g, UNREAD] = reads * int(unread * WHOLE + 0.5)
    count_attention(tables, scratch, g, reads)


def count_attention(tables: Tables, scratch: Scratch, g: int, reads: int) -> None:
    """Count query-key pairs, and cached tokens read, in the group's layers."""
    rows, pairs, cached = scratch.rows, 0, 0
    if tables.prompt[g] & HAS_ATTN:
        pairs += rows[CHUNK_PAIRS] - rows[SAMPLED_CONTEXT]
        cached += rows[CHUNK_CACHED]
    elif tables.sampled[g] & HAS_ATTN:
        cached += rows[SAMPLED_CONTEXT]
    if tables.sampled[g] & HAS_ATTN:
        pairs += rows[SAMPLED_CONTEXT]
    for u in scratch.there[: rows[CLASSES]]:
        one = scratch.classes[u]
        if tables.decode[u, g] & HAS_ATTN:
            pairs += one[CONTEXT] + one[PAIRS_AGAIN]
            cached += one[CONTEXT] + one[CACHED_AGAIN]
    scratch.counters[PAIRS] += tables.layers[g] * pairs
    scratch.counters[CACHED] += tables.layers[g] * reads * cached


def count_dense(scratch: Scratch) -> None:
    """Count the step itself, its head, and a layer of the dense model under the same rows."""
    rows, counters = scratch.rows, scratch.counters
    pairs, cached = rows[CHUNK_PAIRS], rows[CHUNK_CACHED]
    for u in scratch.there[: rows[CLASSES]]:
        one = scratch.classes[u]
        pairs += one[CONTEXT] + one[PAIRS_AGAIN]
        cached += one[CONTEXT] + one[CACHED_AGAIN]
    counters[PAIRS_DENSE] += pairs
    counters[CACHED_DENSE] += cached
    counters[ROWS_DENSE] += rows[TOTAL] - rows[DRAFTS]
    counters[STEPS] += 1
    counters[HEAD_ROWS] += rows[SAMPLING]
    counters[HEAD_READS] += rows[SAMPLING] > 0


def add_up(tables: Tables, scratch: Scratch, steps: int) -> None:
    """Add the step's counters to the totals, so many times."""
    for i in range(COUNTERS):
        scratch.totals[i] += steps * scratch.counters[i]
    for g in range(tables.layers.size):
        if tables.gate_skip[g] > 0:
            scratch.gate_totals[g, GATED] += steps * scratch.gates[g, GATED]
            scratch.gate_totals[g, UNREAD] += steps * scratch.gates[g, UNREAD]


def count_grown(tables: Tables, scratch: Scratch, steps: int) -> None:
    """Add the work of so many steps after the counted one, each with one token more behind every row.

    The counters are those of the last step then. Time outside the measured domain was booked as steps were priced.
    """
    counters, totals, rows = scratch.counters, scratch.totals, scratch.rows[SINGLE]
    counters[OUTSIDE_KV_NS] = 0
    add_up(tables, scratch, steps)
    reads = 0
    for g in range(tables.layers.size):
        reads += tables.layers[g] * scratch.groups[g, SOLO]
    for i, more in ((PAIRS, reads), (CACHED, reads), (PAIRS_DENSE, rows), (CACHED_DENSE, rows)):
        totals[i] += steps * (steps + 1) // 2 * more
        counters[i] += steps * more
