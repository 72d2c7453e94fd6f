"""Iterations in which nothing happens but tokens: the same requests decode, nobody comes, nobody goes.

Such an iteration differs from the one before by one token of context per row. It is priced from that alone, and the
whole run of them is one line of the log.
"""

from sim.cost.counters import count_grown
from sim.cost.price import grown_step_ns
from sim.cost.tables import HOST, KV_READ, LAUNCH, PARTS
from sim.run.replica import (
    BEFORE,
    DELIVERED,
    L_GAP,
    L_NS,
    L_PARTS,
    L_STEPS,
    L_USED,
    LOGGED,
    NARROW,
    NEXT,
    NOW,
    STEP_END,
    STEP_START,
    T_GAP,
    T_KV,
    T_LAUNCH,
    T_NS,
    T_USED,
    TRACED,
    Replica,
    deliver,
    log_step,
    seen_ns,
    used_units,
)
from sim.run.steady import N_READING, RING, ROWS, STEP, TRIED, Flow, pass_steps
from sim.serving.columns import FREE, N_ROWS, NOBODY, TAIL


def glide(replica: Replica, flow: Flow, until_ns: int) -> None:
    """Complete the pending iteration and those after it, up to `until_ns`, while nothing is due and nobody comes.

    The next one is pending on return, unless memory is short.
    """
    if not may_glide(replica, flow):
        return
    clock, counts, step = replica.clock, replica.state.counts, flow.scalars[STEP]
    if clock[NEXT] < replica.asked.arrival_ns.size:
        until_ns = min(until_ns, seen_ns(replica, clock[NEXT]) - 1)
    narrow_ns = NARROW - flow.scalars[ROWS] * replica.tables.stream_token_ns
    traced, rows = replica.trace.shape[0], clock[TRACED]
    steps, priced = 0, 0
    while (
        clock[STEP_END] <= until_ns
        and flow.days[(step + steps) % RING] == NOBODY
        and clock[STEP_END] - clock[STEP_START] < narrow_ns
        and (traced == 0 or clock[TRACED] < traced)
    ):
        note(replica, flow, steps)
        steps += 1
        clock[NOW] = clock[STEP_END]
        clock[STEP_END] = NOBODY
        units = flow.phase_units[(step + steps) % replica.knobs.block_tokens]
        if units > counts[FREE]:
            break
        counts[FREE] -= units
        clock[STEP_START] = clock[NOW]
        clock[STEP_END] = clock[NOW] + grown_step_ns(replica.tables, replica.scratch)
        priced += 1
    if steps == 0:
        return
    if steps == 1:
        clock[TRACED] = rows  # its line says it all
    close(replica, steps)
    count_grown(replica.tables, replica.scratch, priced)
    pass_steps(flow, steps)


def may_glide(replica: Replica, flow: Flow) -> bool:
    """Whether all that run just decode, and those who wait found no room: then they find none while it lasts."""
    counts, scalars = replica.state.counts, flow.scalars
    if counts[N_ROWS] > 0 or scalars[N_READING] > 0 or scalars[ROWS] == 0 or counts[TAIL] != scalars[TRIED]:
        return False
    return replica.knobs.total_units < NARROW and replica.clock[LOGGED] + 1 < replica.log.shape[0]


def note(replica: Replica, flow: Flow, steps: int) -> None:
    """Book the pending iteration after so many of the same line."""
    clock, parts, trace = replica.clock, replica.scratch.parts_ns, replica.trace
    deliver(replica, flow.scalars[ROWS])
    ns, gap, used = clock[STEP_END] - clock[STEP_START], clock[DELIVERED] - clock[BEFORE], used_units(replica)
    if steps == 0:
        log_step(replica, flow.scalars[ROWS])
    else:
        line = replica.log[clock[LOGGED] - 1]
        line[L_NS] += ns
        line[L_GAP] += gap
        line[L_USED] = used
        line[L_PARTS + KV_READ] += parts[KV_READ]
        line[L_PARTS + LAUNCH] += parts[LAUNCH]
        line[L_PARTS + HOST] += parts[HOST]
    if trace.shape[0] > 0:
        row = trace[clock[TRACED]]
        row[T_NS] = ns
        row[T_GAP] = gap
        row[T_KV] = parts[KV_READ]
        row[T_LAUNCH] = parts[LAUNCH]
        row[T_USED] = used
        clock[TRACED] += 1


def close(replica: Replica, steps: int) -> None:
    """Note how many iterations the line holds; parts that are the same in all of them count so many times."""
    line = replica.log[replica.clock[LOGGED] - 1]
    line[L_STEPS] = steps
    for part in range(PARTS):
        if part != KV_READ and part != LAUNCH and part != HOST:
            line[L_PARTS + part] *= steps
