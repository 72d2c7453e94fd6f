"""What kinds of tokens an iteration holds: the plan sees positions, so a row splits into prompt and generated parts."""

from sim.cost.grid import prefill_attention_ns
from sim.cost.tables import (
    CHUNK_KV,
    CHUNK_NS,
    CHUNK_PAIRS,
    DRAFT_PASSES,
    DRAFTS,
    PROMPT,
    SAMPLED,
    SAMPLED_CONTEXT,
    SAMPLING,
    SEQUENCES,
    SINGLE,
    Floats,
    Scratch,
    Tables,
)
from sim.serving.columns import N_ROWS, Asked, State
from sim.serving.scheduler import samples


def tally(asked: Asked, state: State, tables: Tables, scratch: Scratch) -> None:
    """Count the rows of the iteration that `schedule` built, by what their tokens do."""
    scratch.rows[:] = 0
    scratch.chunk[:] = 0.0
    scratch.class_rows[:] = 0
    scratch.class_single[:] = 0
    scratch.class_context[:] = 0
    scratch.class_drafts[:] = 0
    scratch.class_gated[:] = 0
    scratch.class_chunk[:] = 0.0
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
    add_chunk(tables, scratch, scratch.chunk, new, first, tables.prompt_layers)


def tally_decode(tables: Tables, scratch: Scratch, first: int, drafts: int, prompt: int) -> None:
    """Count the newest generated token, at position `first`, and the drafts that follow it."""
    fed = first - prompt
    u = class_at(tables, fed)
    scratch.rows[SINGLE] += 1
    scratch.rows[DRAFTS] += drafts
    scratch.rows[DRAFT_PASSES] = max(scratch.rows[DRAFT_PASSES], drafts)
    scratch.class_rows[u] += 1
    scratch.class_single[u] += 1
    scratch.class_context[u] += first + 1
    scratch.class_drafts[u] += drafts
    if fed >= tables.gate_warmup:
        scratch.class_gated[u] += 1


def tally_recomputed(tables: Tables, scratch: Scratch, first: int, after: int, prompt: int) -> None:
    """Count generated tokens [first, after) whose keys a preemption cost: one chunk, of its first token's class."""
    for token in range(first - prompt, after - prompt):
        scratch.class_rows[class_at(tables, token)] += 1
    u = class_at(tables, first - prompt)
    add_chunk(tables, scratch, scratch.class_chunk[u], after - first, first, tables.class_layers[u])


def class_at(tables: Tables, fed: int) -> int:
    """The row class of generated token number `fed`."""
    return tables.class_of[min(fed, tables.class_of.size - 1)]


def add_chunk(tables: Tables, scratch: Scratch, chunk: Floats, new: int, context: int, layers: int) -> None:
    """Add the attention of `new` queries after `context` cached tokens; a step's chunks share one kernel's floor."""
    floor = tables.prefill_ns[0, 0] if chunk[CHUNK_NS] > 0.0 else 0.0
    chunk[CHUNK_NS] += prefill_attention_ns(tables, scratch, new, context, layers, floor)
    chunk[CHUNK_PAIRS] += float(new) * context + 0.5 * new * (new + 1)
    chunk[CHUNK_KV] += new + context
