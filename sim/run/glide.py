"""Iterations in which nothing happens but tokens: the same requests decode, nobody comes, somebody goes at the end.

Such an iteration differs from the one before by one token of context per row. It is priced from that alone, and the
whole run of them is one line of the log.
"""

from sim.cost.ahead import look_ahead
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
    SOLO,
    SOLO_CONTEXT,
)
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
from sim.run.steady import N_READING, NEVER, RING, ROWS, STEP, TRIED, Flow, pass_steps
from sim.serving.columns import FREE, N_ROWS, NOBODY, TAIL

FEW = 8  # steps priced ahead at first: most runs are short


def glide(replica: Replica, flow: Flow, until_ns: int) -> bool:
    """Complete the pending iteration and those after it, up to `until_ns`, until somebody is due or may have come.

    Whether the one that is pending now was booked already, because somebody is due at its end. None is if memory is
    short.
    """
    clock, scalars, scratch = replica.clock, flow.scalars, replica.scratch
    until_ns, most = bounds(replica, flow, until_ns)
    steps, priced, known, place, due = 0, 0, 0, 0, False
    while steps < most and clock[STEP_END] <= until_ns and clock[STEP_END] - clock[STEP_START] < NARROW:
        note(replica, scalars[ROWS], steps)
        due = flow.days[(scalars[STEP] + steps) % RING] != NOBODY
        steps += 1
        if due:
            break
        clock[NOW], clock[STEP_END] = clock[STEP_END], NOBODY
        if not take_blocks(replica, flow, steps):
            break
        if place == known:
            known, place = look_ahead(replica.tables, scratch, AHEAD if priced > 0 else FEW), 0
        begin_priced(replica, place)
        place, priced = place + 1, priced + 1
    if steps > 0:
        close(replica, steps)
        for g in range(replica.tables.layers.size):  # prices ahead that nobody used
            scratch.groups[g, SOLO_CONTEXT] -= (known - place) * scratch.groups[g, SOLO]
        count_grown(replica.tables, scratch, priced)
        pass_steps(flow, steps - due)
    return due


def bounds(replica: Replica, flow: Flow, until_ns: int) -> tuple[int, int]:
    """The time up to which nobody comes, and the most iterations to glide: none where more may happen than tokens.

    All that run must just decode. Those who wait found no room when it was last tried; then they find none while it
    lasts.
    """
    counts, scalars, clock = replica.state.counts, flow.scalars, replica.clock
    if counts[N_ROWS] > 0 or scalars[N_READING] > 0 or scalars[ROWS] == 0 or counts[TAIL] != scalars[TRIED]:
        return until_ns, 0
    if flow.days[scalars[STEP] % RING] != NOBODY:
        return until_ns, 0  # a single iteration is no run
    if clock[NEXT] < replica.asked.arrival_ns.size:
        until_ns = min(until_ns, seen_ns(replica, clock[NEXT]) - 1)
    wide = replica.knobs.total_units >= NARROW or scalars[ROWS] * replica.tables.stream_token_ns >= NARROW
    if wide or clock[LOGGED] + 1 >= replica.log.shape[0]:
        return until_ns, 0
    return until_ns, replica.trace.shape[0] - clock[TRACED] if replica.trace.shape[0] > 0 else NEVER


def take_blocks(replica: Replica, flow: Flow, steps: int) -> bool:
    """Whether there are free blocks for another iteration after so many; they are taken."""
    counts = replica.state.counts
    units = flow.phase_units[(flow.scalars[STEP] + steps) % replica.knobs.block_tokens]
    if units > counts[FREE]:
        return False
    counts[FREE] -= units
    return True


def begin_priced(replica: Replica, place: int) -> None:
    """Let an iteration that was priced ahead be the pending one."""
    clock, parts, ahead = replica.clock, replica.scratch.parts_ns, replica.scratch.ahead_ns
    kv, launch, ns = ahead[AHEAD_KV, place], ahead[AHEAD_LAUNCH, place], ahead[AHEAD_NS, place]
    replica.scratch.totals[OUTSIDE_KV_NS] += ahead[AHEAD_OUTSIDE, place]
    parts[HOST] += ns - (clock[NOW] - clock[STEP_START]) - (kv - parts[KV_READ]) - (launch - parts[LAUNCH])
    parts[KV_READ], parts[LAUNCH] = kv, launch
    clock[STEP_START] = clock[NOW]
    clock[STEP_END] = clock[NOW] + ns


def note(replica: Replica, rows: int, steps: int) -> None:
    """Book the pending iteration after so many of the same line."""
    clock, parts = replica.clock, replica.scratch.parts_ns
    deliver(replica, rows)
    ns, gap, used = clock[STEP_END] - clock[STEP_START], clock[DELIVERED] - clock[BEFORE], used_units(replica)
    if steps == 0:
        log_step(replica, rows)
    else:
        line = replica.log[clock[LOGGED] - 1]
        line[L_NS] += ns
        line[L_GAP] += gap
        line[L_USED] = used
        line[L_PARTS + KV_READ] += parts[KV_READ]
        line[L_PARTS + LAUNCH] += parts[LAUNCH]
        line[L_PARTS + HOST] += parts[HOST]
    if replica.trace.shape[0] > 0:
        row = replica.trace[clock[TRACED]]
        row[T_NS] = ns
        row[T_GAP] = gap
        row[T_KV] = parts[KV_READ]
        row[T_LAUNCH] = parts[LAUNCH]
        row[T_USED] = used
        clock[TRACED] += 1


def close(replica: Replica, steps: int) -> None:
    """Note how many iterations the line holds; parts that are the same in all of them count so many times."""
    if steps == 1 and replica.trace.shape[0] > 0:
        replica.clock[TRACED] -= 1  # its line says it all
    line = replica.log[replica.clock[LOGGED] - 1]
    line[L_STEPS] = steps
    for part in range(PARTS):
        if part != KV_READ and part != LAUNCH and part != HOST:
            line[L_PARTS + part] *= steps
