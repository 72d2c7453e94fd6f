"""What the replica wrote down of its iterations: drained from its buffers, spread out again where it is looked at."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.cost.tables import HOST, KV_READ, LAUNCH, PARTS
from sim.run.replica import (
    GAPS,
    L_GAP,
    L_NS,
    L_PARTS,
    L_REGULAR,
    L_START,
    L_STEPS,
    L_USED,
    LOGGED,
    T_GAP,
    T_KV,
    T_LAUNCH,
    T_NS,
    T_USED,
    TRACED,
    Replica,
)
from sim.serving.columns import Ints


class Logged(NamedTuple):
    """Some stretch of a replica's log, or all of it."""

    lines: Ints  # [lines, LOG_COLUMNS]
    trace: NDArray[np.int32]  # [iterations in lines of several, TRACE_COLUMNS]
    gaps_ns: Ints  # gaps between tokens that are not their iteration's


def held(replica: Replica) -> Logged:
    """What the replica's buffers hold, as views."""
    clock = replica.clock
    return Logged(replica.log[: clock[LOGGED]], replica.trace[: clock[TRACED]], replica.gaps[: clock[GAPS]])


def drained(replica: Replica) -> Logged:
    """Copies of what the replica's buffers hold; they are empty afterwards."""
    lines, trace, gaps_ns = held(replica)
    part = Logged(lines.copy(), trace.copy(), gaps_ns.copy())
    replica.clock[[LOGGED, TRACED, GAPS]] = 0
    return part


def joined(parts: Sequence[Logged]) -> Logged:
    """The stretches as one."""
    return parts[0] if len(parts) == 1 else Logged(*map(np.concatenate, zip(*parts)))


def iterations_of(log: Logged) -> Ints:
    """A line for every iteration, [iterations, LOG_COLUMNS]."""
    steps = log.lines[:, L_STEPS]
    if (steps == 1).all():
        return log.lines
    rows = log.lines.repeat(steps, axis=0)
    several = rows[:, L_STEPS] > 1
    part = rows[several]
    for constant in set(range(PARTS)) - {KV_READ, LAUNCH, HOST}:
        part[:, L_PARTS + constant] //= part[:, L_STEPS]
    for column, traced in ((L_NS, T_NS), (L_GAP, T_GAP), (L_USED, T_USED), (L_PARTS + KV_READ, T_KV)):
        part[:, column] = log.trace[:, traced]
    part[:, L_PARTS + LAUNCH] = log.trace[:, T_LAUNCH]
    part[:, L_PARTS + HOST] = 0
    part[:, L_PARTS + HOST] = part[:, L_NS] - part[:, L_PARTS:].sum(axis=1)
    rows[several] = part
    before = np.cumsum(rows[:, L_NS]) - rows[:, L_NS]
    first = (np.cumsum(steps) - steps).repeat(steps)
    rows[:, L_START] += before - before[first]
    rows[:, L_STEPS] = 1
    return rows


def regular_gaps(log: Logged) -> tuple[Ints, Ints]:
    """Each iteration's gap in ns, and how many tokens came after it."""
    steps = log.lines[:, L_STEPS]
    gaps = log.lines[:, L_GAP].repeat(steps)
    gaps[(steps > 1).repeat(steps)] = log.trace[:, T_GAP]
    return gaps, log.lines[:, L_REGULAR].repeat(steps)
