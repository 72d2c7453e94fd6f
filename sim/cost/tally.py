"""What kinds of tokens an iteration holds: the plan sees positions, so a row splits into prompt and generated parts."""

from sim.cost.counters import HAS_ATTN, HAS_FFN, HAS_KV
from sim.cost.grid import add_chunk
from sim.cost.tables import (
    ALL,
    ALONE,
    CACHED_AGAIN,
    CHUNK_CACHED,
    CHUNK_PAIRS,
    CLASSES,
    CONTEXT,
    DRAFT_PASSES,
    DRAFTED,
    DRAFTS,
    IN_ATTN,
    IN_FFN,
    IN_GATE,
    IN_KV,
    OPEN,
    PAIRS_AGAIN,
    PROMPT,
    RECOMPUTED,
    SAMPLED,
    SAMPLED_CONTEXT,
    SAMPLING,
    SEQUENCES,
    SINGLE,
    SOLO,
    SOLO_CONTEXT,
    Scratch,
    Tables,
)
from sim.serving.columns import N_ROWS, Asked, State
from sim.serving.completion import samples


def tally(asked: Asked, state: State, tables: Tables, scratch: Scratch) -> None:
    """Count the rows of the iteration that `schedule` built, by what their tokens do."""
    scratch.rows[:] = 0
    scratch.chunk_ns[:] = 0.0
    scratch.classes[:] = 0
    scratch.class_ns[:] = 0.0
    rows = state.counts[N_ROWS]
    scratch.rows[SEQUENCES] = rows
    for row in range(rows):
        request = state.row_request[row]
        first = state.row_start[row]
        after = first + state.row_tokens[row]
        prompt = asked.prompt_tokens[request]
        last_known = prompt + state.generated[request] - 1
        if samples(asked, state, row):
            scratch.rows[SAMPLING] += 1
        if first == last_known and first >= prompt:
            tally_decode(tables, scratch, first, after - first - 1, prompt)
            continue
        if first < prompt:
            tally_prompt(tables, scratch, first, min(after, prompt), prompt)
        if after > prompt:
            tally_recomputed(tables, scratch, max(first, prompt), after, prompt)


def tally_prompt(tables: Tables, scratch: Scratch, first: int, after: int, prompt: int) -> None:
    """Count a chunk [first, after) of a prompt."""
    new = after - first
    if after == prompt:
        scratch.rows[SAMPLED] += 1
        scratch.rows[SAMPLED_CONTEXT] += prompt
        scratch.rows[PROMPT] += new - 1
    else:
        scratch.rows[PROMPT] += new
    scratch.rows[CHUNK_PAIRS] += pairs_of(new, first)
    scratch.rows[CHUNK_CACHED] += after
    add_chunk(tables, scratch.chunk_ns, new, first)


def tally_decode(tables: Tables, scratch: Scratch, first: int, drafts: int, prompt: int) -> None:
    """Count the newest generated token, at position `first`, and the drafts that follow it."""
    fed = first - prompt
    one = scratch.classes[class_at(tables, fed)]
    scratch.rows[SINGLE] += 1
    scratch.rows[DRAFTS] += drafts
    scratch.rows[DRAFT_PASSES] = max(scratch.rows[DRAFT_PASSES], drafts)
    one[ALL] += 1
    one[ALONE] += 1
    one[CONTEXT] += first + 1
    one[DRAFTED] += drafts
    if fed >= tables.gate_warmup:
        one[OPEN] += 1


def tally_recomputed(tables: Tables, scratch: Scratch, first: int, after: int, prompt: int) -> None:
    """Count generated tokens [first, after) whose keys a preemption cost: one chunk, of its first token's class."""
    for token in range(first - prompt, after - prompt):
        scratch.classes[class_at(tables, token), ALL] += 1
    u = class_at(tables, first - prompt)
    scratch.rows[RECOMPUTED] += 1
    scratch.classes[u, PAIRS_AGAIN] += pairs_of(after - first, first)
    scratch.classes[u, CACHED_AGAIN] += after
    add_chunk(tables, scratch.class_ns[u], after - first, first)


def class_at(tables: Tables, fed: int) -> int:
    """The row class of generated token number `fed`."""
    return tables.class_of[min(fed, tables.class_of.size - 1)]


def pairs_of(new: int, context: int) -> int:
    """Query-key pairs of `new` queries after `context` cached tokens, each against all up to itself."""
    return new * context + new * (new + 1) // 2


def tally_group(tables: Tables, scratch: Scratch, g: int) -> None:
    """Count the step's tokens by what they do in the group's layers; drafts are verified where nobody drafted them."""
    group, rows = scratch.groups[g], scratch.rows
    prompt, sampled = tables.prompt[g], tables.sampled[g]
    group[IN_ATTN] = rows[PROMPT] * (prompt & HAS_ATTN) + rows[SAMPLED] * (sampled & HAS_ATTN)
    group[IN_KV] = (rows[PROMPT] * (prompt & HAS_KV) + rows[SAMPLED] * (sampled & HAS_KV)) // HAS_KV
    group[IN_FFN] = (rows[PROMPT] * (prompt & HAS_FFN) + rows[SAMPLED] * (sampled & HAS_FFN)) // HAS_FFN
    group[IN_GATE] = group[SOLO] = group[SOLO_CONTEXT] = 0
    if sampled & HAS_ATTN and not prompt & HAS_ATTN:
        group[SOLO] = rows[SAMPLED]
        group[SOLO_CONTEXT] = rows[SAMPLED_CONTEXT]
    for u in scratch.there[: rows[CLASSES]]:
        flags, one = tables.decode[u, g], scratch.classes[u]
        tokens = one[ALL] if tables.drafted[g] else one[ALL] + one[DRAFTED]
        if flags & HAS_ATTN:
            group[IN_ATTN] += tokens
            group[SOLO] += one[ALONE]
            group[SOLO_CONTEXT] += one[CONTEXT]
        if flags & HAS_KV:
            group[IN_KV] += tokens
        if flags & HAS_FFN:
            group[IN_FFN] += tokens
            group[IN_GATE] += one[OPEN]
