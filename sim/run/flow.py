"""Requests that just decode, as sums and a calendar: how they go into the flow, and get their columns back.

While a request decodes, each iteration adds one token to it and nothing else happens until a known one: it ends, its
row class or its caches change, the FFN gate opens. So such requests leave the rows of the iteration and live in sums
(how many, their contexts, the blocks they will need) and in a calendar of what happens to whom after which iteration.
"""

from typing import NamedTuple

import numpy as np

from sim.cost.tables import Tables
from sim.run.replica import DELIVERED, Replica
from sim.serving.columns import N_RUNNING, N_SLOTS, NOBODY, RUNNING, Ints
from sim.serving.completion import drop_finished
from sim.serving.config import CHUNKED
from sim.serving.memory import blocks_for
from sim.serving.scheduler import is_prefill

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
