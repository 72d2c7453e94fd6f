"""One replica's life: arrivals, scheduler, price, clock, in a loop over columns.

This is the only feedback in the simulator, written once. The slow twin steps through it interpreted, one SimPy event
per arrival and per iteration; the fast path runs many iterations per call, compiled (`sim.run.loop`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.cost.price import price_step
from sim.cost.tables import PARTS, PROMPT, SAMPLED, SINGLE, Scratch, Tables
from sim.cost.tally import tally
from sim.serving.columns import (
    EVICTABLE,
    FREE,
    HEAD,
    N_FRONT,
    N_ROWS,
    N_RUNNING,
    NOBODY,
    TAIL,
    Asked,
    Ints,
    State,
)
from sim.serving.completion import complete, samples
from sim.serving.config import Knobs
from sim.serving.scheduler import arrive, schedule

# clock
(
    NOW,
    NEXT,
    STEP_START,
    STEP_END,
    CONCURRENCY,
    LOGGED,
    GAPS,
    REFUSALS,
    RELEASED,
    DELIVERED,  # when the frontend has sent all tokens so far
    SEEN,  # when the engine saw the latest request
    BEFORE,  # DELIVERED, one iteration earlier
    TRACED,  # rows of the trace in use
) = range(13)
CLOCKS = 13

# why advance returned
REACHED, IDLE, FULL, STUCK = range(4)

# columns of the log, a line for each iteration or run of iterations that only decoded the same requests
(
    L_START,
    L_STEPS,  # iterations of the line
    L_NS,  # of all its iterations together, as the gaps and parts
    L_PROMPT,
    L_DECODE,
    L_REGULAR,
    L_GAP,
    L_RUNNING,
    L_WAITING,
    L_USED,  # units in use in its last iteration
    L_PARTS,
) = range(11)
LOG_COLUMNS = L_PARTS + PARTS
LOG_ROWS = 8192

# columns of the trace, what differs between the iterations of one line
(T_NS, T_GAP, T_KV, T_LAUNCH, T_USED) = range(5)
TRACE_COLUMNS = 5
TRACE_ROWS = 1 << 20
NARROW = 2**30  # two of these make more than a column of the trace can hold
FAR = 2**62  # arrival of a closed loop's request that no client has sent yet
FOREVER = 2**63 - 1


class Replica(NamedTuple):
    """Everything one replica is and knows; every field is a column or a tuple of them."""

    asked: Asked
    state: State
    tables: Tables
    knobs: Knobs
    live_units: Ints  # [T + 1] caches that a sequence still needs
    luck: NDArray[np.float64]  # [2^k] uniforms that decide which drafts are accepted
    scratch: Scratch
    emitted: Ints  # [max_num_seqs] tokens per sampling row
    clock: Ints  # [CLOCKS]
    log: Ints  # [rows, LOG_COLUMNS] lines since the log was last drained
    trace: NDArray[np.int32]  # [rows, TRACE_COLUMNS] iterations of its lines of several; no rows: these are not kept
    gaps: Ints  # [...] inter-token gaps of requests that the iteration before left out


def seen_ns(replica: Replica, request: int) -> int:
    """When the engine sees the next request: after it passed the frontend, behind the one before it."""
    tables = replica.tables
    return max(replica.asked.arrival_ns[request] + tables.request_ns, replica.clock[SEEN] + tables.request_gap_ns)


def admit_arrivals(replica: Replica) -> None:
    """Queue the requests that have arrived by now; a refused one makes room for the next closed-loop client."""
    clock = replica.clock
    while clock[NEXT] < replica.asked.arrival_ns.size and seen_ns(replica, clock[NEXT]) <= clock[NOW]:
        clock[SEEN] = seen_ns(replica, clock[NEXT])
        if not arrive(replica.asked, replica.state, replica.knobs, clock[NEXT]):
            clock[REFUSALS] += 1
            release_client(replica, clock[NOW])
        clock[NEXT] += 1


def release_client(replica: Replica, now_ns: int) -> None:
    """Let the next request of a closed loop arrive: a client sends one when its last one is answered."""
    clock = replica.clock
    if clock[CONCURRENCY] > 0 and clock[RELEASED] < replica.asked.arrival_ns.size:
        replica.asked.arrival_ns[clock[RELEASED]] = now_ns
        clock[RELEASED] += 1


def begin_step(replica: Replica) -> bool:
    """Whether an iteration was scheduled and priced; it is pending until it is booked and finished."""
    if schedule(replica.asked, replica.state, replica.knobs) == 0:
        return False
    tally(replica.asked, replica.state, replica.tables, replica.scratch)
    ns = price_step(replica.tables, replica.scratch)
    replica.clock[STEP_START] = replica.clock[NOW]
    replica.clock[STEP_END] = replica.clock[NOW] + ns
    return True


def book_step(replica: Replica, steady: int) -> None:
    """Note what the pending iteration yields: tokens of each row, when they are delivered, gaps, its line in the log.

    `steady` more requests decoded one token each without a row of their own (`sim.run.steady`).
    """
    emit(replica)
    deliver(replica, steady)
    log_step(replica, note_gaps(replica) + steady)


def finish_step(replica: Replica) -> None:
    """Complete the booked iteration; the clock moves to its end."""
    clock = replica.clock
    finished = complete(
        replica.asked,
        replica.state,
        replica.knobs,
        replica.live_units,
        replica.emitted,
        clock[STEP_START],
        clock[DELIVERED],
    )
    clock[NOW] = clock[STEP_END]
    clock[STEP_END] = NOBODY
    for _ in range(finished):
        release_client(replica, clock[DELIVERED])


def emit(replica: Replica) -> None:
    """Decide how many tokens each row yields: one, and the drafts accepted before the first refusal."""
    state = replica.state
    for row in range(state.counts[N_ROWS]):
        replica.emitted[row] = 1
        if replica.tables.draft_tokens > 0:
            request = state.row_request[row]
            known = replica.asked.prompt_tokens[request] + state.generated[request]
            drafts = state.row_start[row] + state.row_tokens[row] - known  # none where tokens are recomputed
            first = request * 7919 + state.generated[request]
            accepted, size = 0, replica.luck.size
            while accepted < drafts and replica.luck[(first + accepted) % size] < replica.tables.acceptance:
                accepted += 1
            replica.emitted[row] = 1 + accepted


def deliver(replica: Replica, steady: int) -> None:
    """Move the clock of delivery: the iteration's tokens leave the frontend behind all earlier ones."""
    clock, tokens = replica.clock, steady
    if replica.tables.stream_token_ns > 0:
        for row in range(replica.state.counts[N_ROWS]):
            if samples(replica.asked, replica.state, row):
                tokens += replica.emitted[row]
    clock[BEFORE] = clock[DELIVERED]
    clock[DELIVERED] = sent_ns(replica, clock[DELIVERED], clock[STEP_END], tokens)


def sent_ns(replica: Replica, before_ns: int, end_ns: int, tokens: int) -> int:
    """When the frontend has sent the tokens of an iteration that ended at `end_ns`, those before at `before_ns`."""
    return max(before_ns, end_ns) + tokens * replica.tables.stream_token_ns


def note_gaps(replica: Replica) -> int:
    """Tokens whose predecessor left in the iteration before, so that one gap fits all; other gaps go to their list."""
    state, clock = replica.state, replica.clock
    regular = 0
    for row in range(state.counts[N_ROWS]):
        request = state.row_request[row]
        if state.generated[request] == 0 or not samples(replica.asked, state, row):
            continue
        if state.last_token_ns[request] == clock[BEFORE]:
            regular += 1
        else:
            replica.gaps[clock[GAPS]] = clock[DELIVERED] - state.last_token_ns[request]
            clock[GAPS] += 1
    return regular


def is_full(replica: Replica) -> bool:
    """Whether log, trace or gaps must be drained before another iteration."""
    clock = replica.clock
    if clock[LOGGED] == 0:
        clock[TRACED] = 0
    if 0 < replica.trace.shape[0] == clock[TRACED] or clock[LOGGED] + 1 >= replica.log.shape[0]:
        return True
    return clock[GAPS] + replica.knobs.max_num_seqs > replica.gaps.size


def log_step(replica: Replica, regular: int) -> None:
    """Write the iteration's line of the log."""
    clock, counts, rows = replica.clock, replica.state.counts, replica.scratch.rows
    line = replica.log[clock[LOGGED]]
    line[L_START] = clock[STEP_START]
    line[L_STEPS] = 1
    line[L_NS] = clock[STEP_END] - clock[STEP_START]
    line[L_PROMPT] = rows[PROMPT] + rows[SAMPLED]
    line[L_DECODE] = rows[SINGLE]
    line[L_REGULAR] = regular
    line[L_GAP] = clock[DELIVERED] - clock[BEFORE]
    line[L_RUNNING] = counts[N_RUNNING]
    line[L_WAITING] = counts[TAIL] - counts[HEAD] + counts[N_FRONT]
    line[L_USED] = used_units(replica)
    for part in range(PARTS):
        line[L_PARTS + part] = replica.scratch.parts_ns[part]
    clock[LOGGED] += 1


def used_units(replica: Replica) -> int:
    """KV units that somebody holds."""
    counts, knobs = replica.state.counts, replica.knobs
    return knobs.total_units - counts[FREE] - counts[EVICTABLE] * knobs.hash_units
