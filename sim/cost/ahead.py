"""Prices of steps to come that hold the same decoding rows: each has one token of context more than the one before.

Only attention differs then, and what launching and the host hide of it. The interpolation is that of `sim.cost.grid`,
its loop free of everything else, so that a compiler can take several steps at once.
"""

from sim.cost.grid import between, cell, leans_outside, share
from sim.cost.price import device_ns, host_ns, launch_ns
from sim.cost.tables import (
    AHEAD,
    AHEAD_KV,
    AHEAD_LAUNCH,
    AHEAD_NS,
    AHEAD_OUTSIDE,
    CELL_CONTEXT,
    CELL_ROWS,
    KV_READ,
    SOLO,
    SOLO_CONTEXT,
    Scratch,
    Tables,
)


def look_ahead(tables: Tables, scratch: Scratch, most: int) -> int:
    """How many steps to come were priced into `ahead_ns`: at least one, at most `most` and AHEAD.

    The groups' contexts are those of the last of them then.
    """
    steps = min(most, AHEAD)
    for g in range(tables.layers.size):
        steps = min(steps, steps_in_cell(tables, scratch, g))
    steps = max(steps, 1)
    ahead = scratch.ahead_ns
    ahead[AHEAD_KV] = 0
    ahead[AHEAD_OUTSIDE] = 0
    for g in range(tables.layers.size):
        if scratch.groups[g, SOLO] > 0:
            price_ahead(tables, scratch, g, steps)
    rest = device_ns(scratch) - scratch.parts_ns[KV_READ]
    for k in range(steps):
        device = rest + ahead[AHEAD_KV, k]
        launched = device + launch_ns(tables, scratch, device)
        ahead[AHEAD_LAUNCH, k] = launched - device
        ahead[AHEAD_NS, k] = launched + host_ns(tables, scratch, launched)
    return steps


def look_back(tables: Tables, scratch: Scratch, steps: int) -> None:
    """Forget the last so many steps of those that were priced ahead."""
    for g in range(tables.layers.size):
        scratch.groups[g, SOLO_CONTEXT] -= steps * scratch.groups[g, SOLO]


def steps_in_cell(tables: Tables, scratch: Scratch, g: int) -> int:
    """Steps until the group's mean context leaves its interval of the grid."""
    group, axis = scratch.groups[g], tables.decode_context
    rows, j = group[SOLO], group[CELL_CONTEXT]
    if rows == 0 or j + 2 == axis.size:
        return AHEAD
    return (axis[j + 1] * rows - group[SOLO_CONTEXT] - 1) // rows


def price_ahead(tables: Tables, scratch: Scratch, g: int, steps: int) -> None:
    """Add the group's attention in so many steps to come, all in one cell of the grid."""
    group, xs, ys, grid = scratch.groups[g], tables.decode_rows, tables.decode_context, tables.decode_ns
    rows, context, layers = group[SOLO], group[SOLO_CONTEXT], tables.layers[g]
    mean = (context + rows) / rows
    i, j = cell(xs, rows, group[CELL_ROWS]), cell(ys, mean, group[CELL_CONTEXT])
    group[CELL_ROWS], group[CELL_CONTEXT] = i, j
    group[SOLO_CONTEXT] += steps * rows
    u, begin, width = share(xs, i, rows), ys[j], ys[j + 1] - ys[j]
    low_0, low_1, high_0, high_1 = grid[i, j], grid[i, j + 1], grid[i + 1, j], grid[i + 1, j + 1]
    ahead = scratch.ahead_ns
    outside = leans_outside(xs, ys, tables.decode_outside, i, j, rows, mean)
    for k in range(steps):
        mean = (context + (k + 1) * rows) / rows
        ns = int(between(u, (mean - begin) / width, low_0, low_1, high_0, high_1) + 0.5) * layers
        ahead[AHEAD_KV, k] += ns
        if outside:
            ahead[AHEAD_OUTSIDE, k] += ns
