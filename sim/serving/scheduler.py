"""Which tokens go into the next iteration: one pure policy for the simulator and the engine.

`schedule` fills the rows of the next iteration; `complete` (sim/serving/completion.py) books what it produced. Both
work on columns in place and know neither costs nor clocks, so the simulator's loop can run them compiled and the engine
as they are.
"""

from sim.serving.columns import (
    ABORTED,
    EVICTABLE,
    FREE,
    HEAD,
    N_ADMITTED,
    N_FRONT,
    N_PREEMPTED,
    N_ROWS,
    N_RUNNING,
    N_SLOTS,
    NOBODY,
    REFUSED,
    RUNNING,
    TAIL,
    WAITING,
    Asked,
    State,
)
from sim.serving.config import PREFILL_FIRST, STATIC, Knobs
from sim.serving.memory import (
    most_units,
    prefix_hits,
    private_need,
    release,
    reserve,
    take_hits,
    unheld_hits,
)

ANY, ONLY_PREFILL, ONLY_DECODE = range(3)


def arrive(asked: Asked, state: State, knobs: Knobs, request: int) -> bool:
    """Whether the request joins the queue; refuses one that could never run to its end on an empty replica."""
    total = asked.prompt_tokens[request] + asked.output_tokens[request]
    fits = most_units(asked.prompt_tokens[request], asked.output_tokens[request], knobs) <= knobs.total_units
    if not fits or total > knobs.max_context:
        state.status[request] = REFUSED
        return False
    state.status[request] = WAITING
    state.queue[state.counts[TAIL]] = request
    state.counts[TAIL] += 1
    return True


def schedule(asked: Asked, state: State, knobs: Knobs) -> int:
    """Rows of the next iteration; 0 when there is nothing to run. Row columns hold request, first position, tokens."""
    state.counts[N_ROWS] = 0
    if knobs.policy == STATIC:
        return schedule_static(asked, state, knobs)
    if knobs.policy == PREFILL_FIRST:
        budget = continue_running(asked, state, knobs, knobs.max_num_batched_tokens, ONLY_PREFILL)
        admit(asked, state, knobs, budget)
        if state.counts[N_ROWS] == 0:
            continue_running(asked, state, knobs, knobs.max_num_batched_tokens, ONLY_DECODE)
        return state.counts[N_ROWS]
    before = state.counts[N_PREEMPTED]
    budget = continue_running(asked, state, knobs, knobs.max_num_batched_tokens, ANY)
    if state.counts[N_PREEMPTED] == before:
        admit(asked, state, knobs, budget)
    return state.counts[N_ROWS]


def schedule_static(asked: Asked, state: State, knobs: Knobs) -> int:
    """Rows of the next iteration of a batch of equal age: all prompts first, then all decodes in step."""
    forming = state.counts[N_RUNNING] == 0
    budget = continue_running(asked, state, knobs, knobs.max_num_batched_tokens, ONLY_PREFILL)
    if forming:
        admit(asked, state, knobs, budget)
    if state.counts[N_ROWS] == 0:
        continue_running(asked, state, knobs, knobs.max_num_batched_tokens, ONLY_DECODE)
    return state.counts[N_ROWS]


def tokens_wanted(asked: Asked, state: State, knobs: Knobs, request: int) -> int:
    """Known tokens that are not computed yet, plus the drafts of a decoding request."""
    known = asked.prompt_tokens[request] + state.generated[request]
    wanted = known - state.computed[request]
    if wanted == 1 and state.generated[request] > 0 and knobs.draft_tokens > 0:
        left = asked.output_tokens[request] - state.generated[request]
        wanted += min(knobs.draft_tokens, left - 1)
    return wanted


def is_prefill(asked: Asked, state: State, request: int) -> bool:
    """Whether the request still has to read its prompt, or to recompute what a preemption cost it."""
    known = asked.prompt_tokens[request] + state.generated[request]
    return state.generated[request] == 0 or known - state.computed[request] > 1


def add_row(state: State, request: int, tokens: int) -> None:
    """Append a row to the iteration."""
    row = state.counts[N_ROWS]
    state.row_request[row] = request
    state.row_start[row] = state.computed[request]
    state.row_tokens[row] = tokens
    state.counts[N_ROWS] = row + 1


def continue_running(asked: Asked, state: State, knobs: Knobs, budget: int, which: int) -> int:
    """Tokens left of the budget after every running request of that kind got its share, oldest first.

    Who finds no memory preempts the youngest, itself at last.
    """
    i = 0
    while i < state.counts[N_RUNNING] and budget > 0:
        request = state.running[i]
        if which != ANY and is_prefill(asked, state, request) != (which == ONLY_PREFILL):
            i += 1
            continue
        tokens = min(tokens_wanted(asked, state, knobs, request), budget)
        if knobs.long_prefill > 0:
            tokens = min(tokens, knobs.long_prefill)
        if not reserve_or_preempt(asked, state, knobs, request, state.computed[request] + tokens):
            break
        add_row(state, request, tokens)
        budget -= tokens
        i += 1
    return budget


def reserve_or_preempt(asked: Asked, state: State, knobs: Knobs, request: int, tokens: int) -> bool:
    """Whether the request got its blocks; younger ones are preempted for it, and at last it is itself."""
    while not reserve(state, knobs, request, tokens):
        victim = state.running[state.counts[N_RUNNING] - 1]
        preempt(asked, state, knobs, victim)
        if victim == request:
            return False
    return True


def preempt(asked: Asked, state: State, knobs: Knobs, request: int) -> None:
    """Take the youngest running request's memory; it waits before all others and recomputes from its first token.

    It has no row yet: rows are filled oldest first.
    """
    state.counts[N_RUNNING] -= 1
    state.counts[N_SLOTS] -= 1
    release(asked, state, knobs, request)
    state.computed[request] = 0
    state.status[request] = WAITING
    state.preempted[request] += 1
    state.front[state.counts[N_FRONT]] = request
    state.counts[N_FRONT] += 1
    state.counts[N_PREEMPTED] += 1


def next_waiting(state: State) -> int:
    """The request that is admitted next, or NOBODY; aborted ones are passed over."""
    while state.counts[N_FRONT] > 0:
        request = state.front[state.counts[N_FRONT] - 1]
        if state.status[request] != ABORTED:
            return request
        state.counts[N_FRONT] -= 1
    while state.counts[HEAD] < state.counts[TAIL]:
        request = state.queue[state.counts[HEAD]]
        if state.status[request] != ABORTED:
            return request
        state.counts[HEAD] += 1
    return NOBODY


def admit(asked: Asked, state: State, knobs: Knobs, budget: int) -> int:
    """Tokens left of the budget after waiting requests were admitted in order, as far as rows, tokens and memory go."""
    while state.counts[N_RUNNING] < knobs.max_num_seqs and (budget > 0 or knobs.policy == STATIC):
        request = next_waiting(state)
        if request == NOBODY:
            break
        hits = prefix_hits(asked, state, knobs, request)
        start = max(hits * knobs.hash_tokens, state.computed[request])
        wanted = asked.prompt_tokens[request] + state.generated[request] - start
        if knobs.long_prefill > 0:
            wanted = min(wanted, knobs.long_prefill)
        if knobs.policy == PREFILL_FIRST and wanted > budget and state.counts[N_ROWS] > 0:
            break  # whole prompts only; one longer than the budget runs alone, in pieces
        tokens = min(wanted, budget)
        room = room_for(asked, state, knobs, request, start + tokens)
        if not has_room(asked, state, knobs, request, hits, room):
            break
        begin(asked, state, knobs, request, hits)
        reserve(state, knobs, request, room)
        if tokens > 0:
            add_row(state, request, tokens)
            budget -= tokens
    return budget


def room_for(asked: Asked, state: State, knobs: Knobs, request: int, first_chunk: int) -> int:
    """Tokens that must have room before the request is admitted.

    Its first chunk, where prompts are read in chunks; all it knows, where prompts come first: a prompt longer than a
    step would else starve the decodes that hold its memory; all it will ever store, in a static batch: a member that
    was preempted would come back at another age; and the same where outputs are reserved.
    """
    if knobs.policy == STATIC or knobs.reserve_output:
        return asked.prompt_tokens[request] + asked.output_tokens[request] - 1
    if knobs.policy == PREFILL_FIRST:
        return asked.prompt_tokens[request] + state.generated[request]
    return first_chunk


def has_room(asked: Asked, state: State, knobs: Knobs, request: int, hits: int, tokens: int) -> bool:
    """Whether blocks for so many tokens can be had beside the prefix entries that the request will hold."""
    available = state.counts[FREE] + state.counts[EVICTABLE] * knobs.hash_units
    need = private_need(state, knobs, request, tokens) * knobs.full_units
    if hits > 0:
        need -= hits * knobs.hash_units
        need += unheld_hits(asked, state, request, hits) * knobs.hash_units
    spare = knobs.watermark_units if state.counts[N_RUNNING] > 0 else 0
    return need + spare <= available


def begin(asked: Asked, state: State, knobs: Knobs, request: int, hits: int) -> None:
    """Move the request from the head of those who wait to the end of those who run.

    Its keys are those of the prefix cache, or what it brought along: prefill elsewhere leaves them before it arrives.
    """
    if state.counts[N_FRONT] > 0:
        state.counts[N_FRONT] -= 1
    else:
        state.counts[HEAD] += 1
    if knobs.hash_tokens > 0:
        take_hits(asked, state, request, hits)
        if state.preempted[request] == 0:
            state.cached[request] = hits * knobs.hash_tokens
        state.computed[request] = max(hits * knobs.hash_tokens, state.computed[request])
    state.status[request] = RUNNING
    state.running[state.counts[N_SLOTS]] = request
    state.counts[N_SLOTS] += 1
    state.counts[N_RUNNING] += 1
    state.admitted[request] = state.counts[N_ADMITTED]
    state.counts[N_ADMITTED] += 1
