"""The loop that runs compiled: from event to event, in sums where it can, row by row where it must."""

from sim.run.flow import ROWS, STEADY, Flow, enter, leave
from sim.run.glide import glide
from sim.run.replica import (
    FULL,
    IDLE,
    NEXT,
    NOW,
    REACHED,
    STEP_END,
    STUCK,
    Replica,
    admit_arrivals,
    book_step,
    finish_step,
    is_full,
    seen_ns,
)
from sim.run.steady import price_rows_and_sums, schedule_steady, take_in, turn
from sim.serving.columns import HEAD, N_FRONT, NOBODY, TAIL
from sim.serving.scheduler import schedule


def advance(replica: Replica, flow: Flow, until_ns: int) -> int:
    """Why it stopped: the clock reached `until_ns`, nothing is left to do, or the log must be drained first.

    Iterations that end at or before `until_ns` are complete on return; one that spans it is pending.
    """
    clock = replica.clock
    while True:
        booked = clock[STEP_END] != NOBODY and flow.scalars[STEADY] > 0 and glide(replica, flow, until_ns)
        if clock[STEP_END] > until_ns:
            return REACHED
        if clock[STEP_END] != NOBODY:
            if not booked:
                book_step(replica, flow.scalars[ROWS])
            if flow.scalars[STEADY]:
                turn(replica, flow)
            finish_step(replica)
            if flow.scalars[STEADY]:
                take_in(replica, flow)
        admit_arrivals(replica)
        if is_full(replica):
            return FULL
        if begin(replica, flow):
            continue
        if replica.state.counts[HEAD] < replica.state.counts[TAIL] or replica.state.counts[N_FRONT] > 0:
            return STUCK  # somebody waits, nobody runs, and nothing was scheduled: never by construction
        if clock[NEXT] >= replica.asked.arrival_ns.size:
            return IDLE
        next_ns = seen_ns(replica, clock[NEXT])
        if next_ns > until_ns:
            return REACHED
        clock[NOW] = next_ns


def begin(replica: Replica, flow: Flow) -> bool:
    """Whether an iteration was scheduled and priced; it is pending until it is finished."""
    steady = flow.scalars[STEADY] or enter(replica, flow)
    if not steady or not schedule_steady(replica, flow):
        if steady:
            leave(replica, flow)
        if schedule(replica.asked, replica.state, replica.knobs) == 0:
            return False
    price_rows_and_sums(replica, flow)
    return True
