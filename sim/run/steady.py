"""Many iterations at the price of few: requests that just decode are moved as one.

While a request decodes, each iteration adds one token to it and nothing else happens until a known one: it ends, its
row class or its caches change, the FFN gate opens. So such requests leave the rows of the iteration and live in sums
(how many, their contexts, the blocks they will need) and in a calendar of what happens to whom after which iteration;
an iteration then costs as much as what changes in it. Rows are scheduled, priced and booked as ever, by the same
functions. Where the sums cannot say what the scheduler would do (memory or budget too short for all that run), every
request gets its columns back and the plain loop takes the step. The two agree bit for bit (INV-37).
"""

from typing import NamedTuple

import numpy as np

from sim.cost.price import price_step
from sim.cost.tables import ALL, ALONE, CONTEXT, OPEN, SAMPLING, SEQUENCES, SINGLE, Tables
from sim.cost.tally import tally
from sim.run.replica import DELIVERED, NOW, STEP_END, STEP_START, Replica, release_client
from sim.serving.columns import (
    DONE,
    EVICTABLE,
    FREE,
    N_DONE,
    N_ROWS,
    N_RUNNING,
    N_SLOTS,
    NOBODY,
    RUNNING,
    Ints,
)
from sim.serving.config import CHUNKED
from sim.serving.memory import blocks_for, evict_oldest, private_need, release, reserve, shrink, units_now
from sim.serving.scheduler import add_row, admit, drop_finished, is_prefill, tokens_wanted

RING = 1024
NEVER = 2**60

# scalars of the flow
(STEADY, STEP, ROWS, YOUNGEST, N_READING, N_DUE) = range(6)
SCALARS = 6

# sums of a row class
(F_ROWS, F_CONTEXT, F_OPEN) = range(3)
SUMS = 3


class Flow(NamedTuple):
    """The requests that just decode, as sums and a calendar; and the few that still read their prompt."""

    scalars: Ints  # [SCALARS]
    since: Ints  # [n] iteration in which it joined; NOBODY: not here
    next: Ints  # [n] the next request of the same day
    days: Ints  # [RING] first request of each day of the calendar
    due: Ints  # [2 * max_num_seqs] the day at hand
    reading: Ints  # [max_num_seqs] requests with rows, oldest first
    sums: Ints  # [U, SUMS] rows, their contexts, rows with an open FFN gate
    phase_units: Ints  # [block_tokens] units needed in iterations of that residue
    change: Ints  # [M] tokens fed after which something changes, by tokens fed; NEVER where nothing does


def flow_for(tables: Tables, live_units: Ints, requests: int, max_num_seqs: int, block_tokens: int) -> Flow:
    """An empty flow for a plan's tables."""

    def column(size: int) -> Ints:
        return np.zeros(size, dtype=np.int64)

    warmup = tables.gate_warmup if tables.gate_warmup < NEVER else 0
    size = max(tables.class_of.size, live_units.size, warmup) + 1
    fed = np.arange(size)
    kinds = np.stack(
        [
            tables.class_of[np.minimum(fed, tables.class_of.size - 1)],
            live_units[np.minimum(1 + fed, live_units.size - 1)],
            (fed >= tables.gate_warmup).astype(np.int64),
        ]
    )
    change = np.full(size, NEVER, dtype=np.int64)
    for i in range(size - 2, -1, -1):
        change[i] = change[i + 1] if (kinds[:, i] == kinds[:, i + 1]).all() else i + 1
    since, following = np.full((2, requests), NOBODY, dtype=np.int64)
    days = np.full(RING, NOBODY, dtype=np.int64)
    u = tables.decode.shape[0]
    return Flow(
        column(SCALARS),
        since,
        following,
        days,
        column(2 * max_num_seqs),
        column(max_num_seqs),
        np.zeros((u, SUMS), dtype=np.int64),
        column(block_tokens),
        change,
    )


def enter(replica: Replica, flow: Flow) -> bool:
    """Whether the running requests could be moved into the flow; if not, nothing has changed."""
    state = replica.state
    knobs = replica.knobs
    if knobs.policy != CHUNKED or knobs.draft_tokens > 0:
        return False
    flow.scalars[:] = 0
    flow.scalars[STEADY] = 1
    for i in range(state.counts[N_RUNNING]):
        request = state.running[i]
        if just_decodes(replica, request):
            join(replica, flow, request)
        else:
            flow.reading[flow.scalars[N_READING]] = request
            flow.scalars[N_READING] += 1
    return True


def just_decodes(replica: Replica, request: int) -> bool:
    """Whether the request yields a token with every iteration, the last one included.

    One that was recomputed up to its newest token, or found no budget, has a longer gap behind it: it needs a row.
    """
    if is_prefill(replica.asked, replica.state, request):
        return False
    return replica.state.last_token_ns[request] == replica.clock[DELIVERED]


def leave(replica: Replica, flow: Flow) -> None:
    """Give every request its columns back."""
    state = replica.state
    for i in range(state.counts[N_SLOTS]):
        request = state.running[i]
        if state.status[request] == RUNNING and flow.since[request] != NOBODY:
            catch_up(replica, flow, request)
            flow.since[request] = NOBODY
    drop_finished(state)
    flow.scalars[:] = 0
    flow.sums[:] = 0
    flow.phase_units[:] = 0
    flow.days[:] = NOBODY


def catch_up(replica: Replica, flow: Flow, request: int) -> None:
    """Write what the iterations since it joined did to a request."""
    state = replica.state
    tokens = flow.scalars[STEP] - flow.since[request]
    if tokens == 0:
        return
    state.generated[request] += tokens
    state.computed[request] += tokens
    state.last_token_ns[request] = replica.clock[DELIVERED]
    flow.since[request] = flow.scalars[STEP]
    if replica.knobs.reserve_output:
        return
    blocks = blocks_for(state.computed[request], replica.knobs.block_tokens)
    if replica.knobs.hash_tokens > 0:
        blocks -= state.shared[request] * (replica.knobs.hash_tokens // replica.knobs.block_tokens)
    state.blocks[request] = blocks


def join(replica: Replica, flow: Flow, request: int) -> None:
    """Add a decoding request to the sums, and the next thing that happens to it to the calendar."""
    state, step = replica.state, flow.scalars[STEP]
    flow.since[request] = step
    flow.scalars[YOUNGEST] = max(flow.scalars[YOUNGEST], state.admitted[request])
    add(replica, flow, request, 1, 0)
    fed = state.computed[request] - replica.asked.prompt_tokens[request]
    ahead = replica.asked.output_tokens[request] - state.generated[request]
    if fed < flow.change.size:
        ahead = min(ahead, flow.change[fed] - fed)
    day = (step + min(ahead, RING - 1) - 1) % RING
    flow.next[request] = flow.days[day]
    flow.days[day] = request


def add(replica: Replica, flow: Flow, request: int, sign: int, since: int) -> None:
    """Add a request to the sums, or take it out `since` tokens later: its class is that of the token it joined with."""
    tables, state = replica.tables, replica.state
    computed = state.computed[request]
    fed = computed - since - replica.asked.prompt_tokens[request]
    u = tables.class_of[min(fed, tables.class_of.size - 1)]
    flow.scalars[ROWS] += sign
    flow.sums[u, F_ROWS] += sign
    flow.sums[u, F_CONTEXT] += sign * (computed + 1)
    if fed >= tables.gate_warmup:
        flow.sums[u, F_OPEN] += sign
    block = replica.knobs.block_tokens
    if not replica.knobs.reserve_output:  # what was reserved does not grow
        flow.phase_units[(flow.scalars[STEP] - computed) % block] += sign * state.units[request]


def schedule_steady(replica: Replica, flow: Flow) -> bool:
    """Whether the next iteration was scheduled from the sums; if not, nothing has changed."""
    state, knobs, scalars = replica.state, replica.knobs, flow.scalars
    units = flow.phase_units[scalars[STEP] % knobs.block_tokens]
    budget = knobs.max_num_batched_tokens - scalars[ROWS]
    if not foreseeable(replica, flow, units, budget):
        return False
    if state.running.size - state.counts[N_SLOTS] < knobs.max_num_seqs - state.counts[N_RUNNING]:
        drop_finished(state)
    state.counts[N_ROWS] = 0
    while state.counts[FREE] < units:
        evict_oldest(state, knobs)
    state.counts[FREE] -= units
    for i in range(scalars[N_READING]):
        request = flow.reading[i]
        tokens = chunk_of(replica, request, budget)
        if tokens > 0:
            reserve(state, knobs, request, state.computed[request] + tokens)
            add_row(state, request, tokens)
            budget -= tokens
    first = state.counts[N_SLOTS]
    admit(replica.asked, state, knobs, budget)
    for i in range(first, state.counts[N_SLOTS]):
        flow.reading[scalars[N_READING]] = state.running[i]
        scalars[N_READING] += 1
    return state.counts[N_ROWS] > 0 or scalars[ROWS] > 0


def chunk_of(replica: Replica, request: int, budget: int) -> int:
    """Tokens that a request with a row gets from what is left of the budget."""
    tokens = min(tokens_wanted(replica.asked, replica.state, replica.knobs, request), budget)
    if replica.knobs.long_prefill > 0:
        tokens = min(tokens, replica.knobs.long_prefill)
    return tokens


def foreseeable(replica: Replica, flow: Flow, units: int, budget: int) -> bool:
    """Whether budget and memory suffice for all that run, so that the order among them does not matter."""
    state, knobs = replica.state, replica.knobs
    room = state.counts[FREE] + state.counts[EVICTABLE] * knobs.hash_units
    for i in range(flow.scalars[N_READING]):
        request = flow.reading[i]
        whole = chunk_of(replica, request, NEVER)
        if whole > budget and state.admitted[request] < flow.scalars[YOUNGEST]:
            return False  # somebody younger would decode from what this one takes
        if knobs.hash_tokens > 0 and replica.asked.output_tokens[request] - state.generated[request] == 1:
            return False  # ends beside others: the order in which they leave decides which prefix is evicted first
        tokens = min(whole, budget)
        if tokens > 0:
            units += private_need(state, knobs, request, state.computed[request] + tokens) * state.units[request]
            budget -= tokens
    return units <= room


def price_rows_and_sums(replica: Replica, flow: Flow) -> None:
    """Price the iteration; it is pending until it is finished. The sums are zero outside the flow."""
    scratch, rows = replica.scratch, flow.scalars[ROWS]
    tally(replica.asked, replica.state, replica.tables, scratch)
    scratch.rows[SINGLE] += rows
    scratch.rows[SAMPLING] += rows
    scratch.rows[SEQUENCES] += rows
    for u in range(flow.sums.shape[0]):
        scratch.classes[u, ALL] += flow.sums[u, F_ROWS]
        scratch.classes[u, ALONE] += flow.sums[u, F_ROWS]
        scratch.classes[u, CONTEXT] += flow.sums[u, F_CONTEXT]
        scratch.classes[u, OPEN] += flow.sums[u, F_OPEN]
    replica.clock[STEP_START] = replica.clock[NOW]
    replica.clock[STEP_END] = replica.clock[NOW] + price_step(replica.tables, scratch)


def turn(replica: Replica, flow: Flow) -> None:
    """Move the sums by the iteration's token and do what is due today.

    Who ends here was admitted before every row that ends in the same iteration, and so gives back its prefix first.
    """
    state, scalars = replica.state, flow.scalars
    collect_due(state.admitted, flow)
    pass_steps(flow, 1)
    for i in range(scalars[N_DUE]):
        settle(replica, flow, flow.due[i])


def pass_steps(flow: Flow, steps: int) -> None:
    """Move the sums by so many tokens of every row."""
    flow.scalars[STEP] += steps
    for u in range(flow.sums.shape[0]):
        flow.sums[u, F_CONTEXT] += steps * flow.sums[u, F_ROWS]


def take_in(replica: Replica, flow: Flow) -> None:
    """Move the rows that decode from now on into the sums."""
    state, scalars, keep = replica.state, flow.scalars, 0
    for i in range(scalars[N_READING]):
        request = flow.reading[i]
        if state.status[request] != RUNNING:
            continue
        if just_decodes(replica, request):
            join(replica, flow, request)
        else:
            flow.reading[keep] = request
            keep += 1
    scalars[N_READING] = keep


def collect_due(admitted: Ints, flow: Flow) -> None:
    """Today's requests, oldest first as the scheduler would meet them."""
    day = flow.scalars[STEP] % RING
    request, n = flow.days[day], 0
    flow.days[day] = NOBODY
    while request != NOBODY:
        i = n
        while i > 0 and admitted[flow.due[i - 1]] > admitted[request]:
            flow.due[i] = flow.due[i - 1]
            i -= 1
        flow.due[i] = request
        n += 1
        request = flow.next[request]
    flow.scalars[N_DUE] = n


def settle(replica: Replica, flow: Flow, request: int) -> None:
    """Let a request that is due end, or change its class, its caches or its next day."""
    state = replica.state
    since = flow.scalars[STEP] - flow.since[request]
    catch_up(replica, flow, request)
    add(replica, flow, request, -1, since)
    flow.since[request] = NOBODY
    if state.generated[request] < replica.asked.output_tokens[request]:
        fed = state.computed[request] - replica.asked.prompt_tokens[request]
        shrink(state, request, units_now(fed, replica.live_units))
        join(replica, flow, request)
        return
    release(replica.asked, state, replica.knobs, request)
    state.status[request] = DONE
    state.counts[N_DONE] += 1
    state.counts[N_RUNNING] -= 1
    release_client(replica, replica.clock[DELIVERED])
