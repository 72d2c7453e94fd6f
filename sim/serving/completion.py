"""What an iteration did to its requests: tokens, times, the end; and what an abort undoes.

As the scheduler's functions, these work on columns in place: the simulator runs them compiled, the engine as they are.
"""

from sim.serving.columns import (
    ABORTED,
    DONE,
    N_DONE,
    N_ROWS,
    N_RUNNING,
    N_SLOTS,
    NOBODY,
    RUNNING,
    WAITING,
    Asked,
    Ints,
    State,
)
from sim.serving.config import Knobs
from sim.serving.memory import register, release, shrink, units_now


def samples(asked: Asked, state: State, row: int) -> bool:
    """Whether the row reaches the end of what is known of its request, and so yields a token."""
    request = state.row_request[row]
    known = asked.prompt_tokens[request] + state.generated[request]
    return state.row_start[row] + state.row_tokens[row] >= known


def complete(
    asked: Asked, state: State, knobs: Knobs, live_units: Ints, emitted: Ints, start_ns: int, end_ns: int
) -> int:
    """Requests that the iteration finished.

    `emitted[row]` is the number of tokens a sampling row yields (1, or 1 + accepted drafts); rows that do not sample
    ignore it. Times go to the first-scheduled, first-token and last-token columns.
    """
    finished = 0
    for row in range(state.counts[N_ROWS]):
        request = state.row_request[row]
        if state.scheduled_ns[request] == NOBODY:
            state.scheduled_ns[request] = start_ns
        if samples(asked, state, row):
            known = asked.prompt_tokens[request] + state.generated[request]
            tokens = min(emitted[row], asked.output_tokens[request] - state.generated[request])
            if state.generated[request] == 0:
                state.first_token_ns[request] = end_ns
            state.last_token_ns[request] = end_ns
            state.generated[request] += tokens
            state.computed[request] = known + tokens - 1
        else:
            state.computed[request] += state.row_tokens[row]
        if knobs.hash_tokens > 0:
            register(asked, state, knobs, request)
        if state.generated[request] >= asked.output_tokens[request]:
            release(asked, state, knobs, request)
            state.status[request] = DONE
            state.counts[N_DONE] += 1
            finished += 1
        else:
            fed = state.computed[request] - asked.prompt_tokens[request]
            shrink(state, request, units_now(fed, live_units))
    if finished > 0:
        drop_finished(state)
    return finished


def drop_finished(state: State) -> None:
    """Close the gaps that finished requests left among the running ones; order is kept."""
    keep = 0
    for i in range(state.counts[N_SLOTS]):
        request = state.running[i]
        if state.status[request] == RUNNING:
            state.running[keep] = request
            keep += 1
    state.counts[N_RUNNING] = state.counts[N_SLOTS] = keep


def abort(asked: Asked, state: State, knobs: Knobs, request: int) -> bool:
    """Whether the request was waiting or running and is now gone; between iterations only."""
    status = state.status[request]
    if status != WAITING and status != RUNNING:
        return False
    state.status[request] = ABORTED
    if status == RUNNING:
        release(asked, state, knobs, request)
        drop_finished(state)
    return True
