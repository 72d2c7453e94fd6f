"""Slots whose requests are finished are cleared away, so that a day of traffic takes the memory of some minutes.

Only the oldest slots go, up to the first request that is still there: whoever is left keeps his order, and everything
that names a request by its slot moves by one number.
"""

import numpy as np

from sim.run.flow import STEADY, flow_for, leave
from sim.run.replica import FAR, NEXT, STEP_END
from sim.run.seat import GONE, HASHES, TAGS, TAKEN, Seat
from sim.serving.columns import DONE, HEAD, N_FRONT, N_SLOTS, NOBODY, REFUSED, TAIL, asked_of, state_of

# columns of State: one place per request, lists of requests; all others name prefix entries, rows or totals
BY_REQUEST = (
    "status", "computed", "generated", "blocks", "units", "hashed", "shared", "cached", "preempted", "scheduled_ns",
    "first_token_ns", "last_token_ns", "admitted",
)  # fmt: skip
LISTS = ("queue", "front", "running")
LUCK_STEP = 7919  # places of the luck table from one request to the next (`sim.run.replica.emit`)


def finished(seat: Seat) -> int:
    """Leading slots whose requests are done or refused."""
    status = seat.replica.state.status[: seat.totals[TAKEN]]
    there = np.flatnonzero((status != DONE) & (status != REFUSED))
    return int(there[0]) if there.size else int(status.size)


def clear(seat: Seat, slots: int) -> None:
    """Drop the oldest slots, all of them finished. The replica must be between two iterations."""
    replica, totals = seat.replica, seat.totals
    assert replica.clock[STEP_END] == NOBODY
    if seat.flow.scalars[STEADY]:
        leave(replica, seat.flow)
    _clear_hashes(seat, slots)
    _clear_requests(seat, slots)
    _clear_lists(seat, slots)
    knobs = replica.knobs
    fresh = flow_for(replica.tables, replica.live_units, seat.number.size, knobs.max_num_seqs, knobs.block_tokens)
    for old, new in zip(seat.flow, fresh):
        old[...] = new
    if knobs.draft_tokens:
        replica.luck[:] = np.roll(replica.luck, -slots * LUCK_STEP % replica.luck.size)
    replica.clock[NEXT] -= slots
    totals[TAKEN] -= slots
    totals[GONE] += slots


def _clear_hashes(seat: Seat, slots: int) -> None:
    asked, taken = seat.replica.asked, int(seat.totals[TAKEN])
    first, used = int(asked.hash_offsets[slots]), int(seat.totals[HASHES])
    for column in (asked.hash_ids, seat.replica.state.held):
        column[: used - first] = column[first:used]
        column[used - first : used] = 0
    asked.hash_offsets[: taken - slots + 1] = asked.hash_offsets[slots : taken + 1] - first
    seat.totals[HASHES] = used - first


def _clear_requests(seat: Seat, slots: int) -> None:
    asked, state, knobs = seat.replica.asked, seat.replica.state, seat.replica.knobs
    taken = int(seat.totals[TAKEN])
    one = asked_of(*(np.zeros(1, dtype=np.int64) for _ in range(3)))
    idle = state_of(one, max_num_seqs=1, total_units=0, full_units=knobs.full_units)
    columns = [(getattr(state, name), getattr(idle, name)[0]) for name in BY_REQUEST]
    columns += [(getattr(seat, name), 0) for name in TAGS]
    columns += [(asked.arrival_ns, FAR), (asked.prompt_tokens, 0), (asked.output_tokens, 0)]
    for column, empty in columns:
        column[: taken - slots] = column[slots:taken]
        column[taken - slots : taken] = empty


def _clear_lists(seat: Seat, slots: int) -> None:
    state = seat.replica.state
    head, tail = state.counts[HEAD], state.counts[TAIL]
    state.queue[: tail - head] = state.queue[head:tail] - slots
    state.counts[HEAD], state.counts[TAIL] = 0, tail - head
    state.front[: state.counts[N_FRONT]] -= slots
    state.running[: state.counts[N_SLOTS]] -= slots
