"""Iterations in which nothing happens but tokens: the same requests decode, nobody comes, somebody goes at the end.

Such an iteration differs from the one before by one token of context per row. It is priced from that alone, and the
whole run of them is one line of the log.
"""

from sim.cost.ahead import look_ahead, look_back
from sim.cost.counters import count_grown
from sim.cost.tables import (
    AHEAD,
    AHEAD_KV,
    AHEAD_LAUNCH,
    AHEAD_NS,
    AHEAD_OUTSIDE,
    HOST,
    KV_READ,
    LAUNCH,
    OUTSIDE_KV_NS,
    PARTS,
)
from sim.run.flow import N_READING, NEVER, RING, ROWS, STEP, Flow
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
    log_step,
    seen_ns,
    sent_ns,
    used_units,
)
from sim.run.steady import pass_steps
from sim.serving.columns import FREE, N_ROWS, NOBODY

FEW = 8  # steps priced ahead at first: most runs are short


def glide(replica: Replica, flow: Flow, until_ns: int) -> bool:
    """Complete the pending iteration and those after it, up to `until_ns`, until somebody is due or may have come.

    Whether the one that is pending now was booked already, because somebody is due at its end. None is if memory is
    short. What changes with every iteration has a local name: most iterations of most simulations pass here.
    """
    until_ns, most = bounds(replica, flow, until_ns)
    if most == 0:
        return False
    log_step(replica, flow.scalars[ROWS])
    clock, counts, scratch, parts = replica.clock, replica.state.counts, replica.scratch, replica.scratch.parts_ns
    start, end, before, after = clock[STEP_START], clock[STEP_END], clock[BEFORE], clock[DELIVERED]
    kv, launch, held = parts[KV_READ], parts[LAUNCH], used_units(replica) + counts[FREE]
    rest, phase = end - start - kv - launch - parts[HOST], flow.scalars[STEP] % replica.knobs.block_tokens
    steps, known, place, kvs, launches, used, due, short = 0, 0, 0, 0, 0, 0, False, False
    while steps < most and end <= until_ns and end - start < NARROW:
        before, after, used = after, sent_ns(replica, after, end, flow.scalars[ROWS]), held - counts[FREE]
        if replica.trace.shape[0] > 0:
            trace(replica, steps, end - start, after - before, kv, launch, used)
        due = flow.days[(flow.scalars[STEP] + steps) % RING] != NOBODY
        start, steps, kvs, launches = end, steps + 1, kvs + kv, launches + launch
        phase = phase + 1 if phase + 1 < replica.knobs.block_tokens else 0
        short = not due and flow.phase_units[phase] > counts[FREE]
        if due or short:
            break
        counts[FREE] -= flow.phase_units[phase]
        if place == known:
            known, place = look_ahead(replica.tables, scratch, FEW if steps == 1 else AHEAD), 0
        kv, launch = scratch.ahead_ns[AHEAD_KV, place], scratch.ahead_ns[AHEAD_LAUNCH, place]
        scratch.totals[OUTSIDE_KV_NS] += scratch.ahead_ns[AHEAD_OUTSIDE, place]
        end, place = end + scratch.ahead_ns[AHEAD_NS, place], place + 1
    close(replica, steps, start - clock[STEP_START], after - clock[DELIVERED], kvs, launches, used)
    clock[NOW], clock[STEP_START], clock[STEP_END] = start, start, NOBODY if short else end
    clock[BEFORE], clock[DELIVERED] = before, after
    parts[KV_READ], parts[LAUNCH], parts[HOST] = kv, launch, end - start - rest - kv - launch
    look_back(replica.tables, scratch, known - place)
    count_grown(replica.tables, scratch, steps - (due or short))
    pass_steps(flow, steps - due)
    return due


def bounds(replica: Replica, flow: Flow, until_ns: int) -> tuple[int, int]:
    """The time up to which nobody comes, and the most iterations to glide: none where more may happen than tokens.

    All that run must just decode. Those who wait found no room when the pending iteration was scheduled; then they find
    none while it lasts.
    """
    counts, scalars, clock = replica.state.counts, flow.scalars, replica.clock
    if counts[N_ROWS] > 0 or scalars[N_READING] > 0 or scalars[ROWS] == 0:
        return until_ns, 0
    if flow.days[scalars[STEP] % RING] != NOBODY:
        return until_ns, 0  # a single iteration is no run
    if clock[NEXT] < replica.asked.arrival_ns.size:
        until_ns = min(until_ns, seen_ns(replica, clock[NEXT]) - 1)
    if clock[STEP_END] > until_ns or clock[LOGGED] + 1 >= replica.log.shape[0]:
        return until_ns, 0
    wide_ns = max(clock[STEP_END] - clock[STEP_START], scalars[ROWS] * replica.tables.stream_token_ns)
    if max(wide_ns, replica.knobs.total_units) >= NARROW:
        return until_ns, 0
    return until_ns, replica.trace.shape[0] - clock[TRACED] if replica.trace.shape[0] > 0 else NEVER


def trace(replica: Replica, steps: int, ns: int, gap_ns: int, kv_ns: int, launch_ns: int, used: int) -> None:
    """Write down what tells an iteration, after so many, from others of its line."""
    row = replica.trace[replica.clock[TRACED] + steps]
    row[T_NS] = ns
    row[T_GAP] = gap_ns
    row[T_KV] = kv_ns
    row[T_LAUNCH] = launch_ns
    row[T_USED] = used


def close(replica: Replica, steps: int, ns: int, gap_ns: int, kv_ns: int, launch_ns: int, used: int) -> None:
    """Complete the line: so many iterations of `ns` in all, alike in all parts but attention, launches and host."""
    if steps > 1 and replica.trace.shape[0] > 0:  # of a single one the line says it all
        replica.clock[TRACED] += steps
    line = replica.log[replica.clock[LOGGED] - 1]
    line[L_STEPS] = steps
    line[L_NS] = ns
    line[L_GAP] = gap_ns
    line[L_USED] = used
    for part in range(PARTS):
        line[L_PARTS + part] *= steps
    line[L_PARTS + KV_READ] = kv_ns
    line[L_PARTS + LAUNCH] = launch_ns
    line[L_PARTS + HOST] = ns
    for part in range(PARTS):
        if part != HOST:
            line[L_PARTS + HOST] -= line[L_PARTS + part]
