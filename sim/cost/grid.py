"""Attention times by linear interpolation in the lowered grids, the only lookups with two coordinates.

Linear in tokens, not in their logarithm: interpolating attention in log space is several times worse.
"""

from sim.cost.tables import Bytes, Floats, Ints, Tables


def cell(axis: Ints, value: float, near: int) -> int:
    """Index of the grid interval that holds the value; the axis starts at or below every value asked for.

    `near` is where the search looks first: the next step's value is seldom far.
    """
    low, high = 0, axis.size - 1
    if axis[near] <= value and (near + 1 == high or value < axis[near + 1]):
        return near
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= value:
            low = middle
        else:
            high = middle
    return low


def bilinear(x_axis: Ints, y_axis: Ints, grid: Floats, i: int, j: int, x: float, y: float) -> float:
    """Linear interpolation in cell (i, j) of a grid of times."""
    u = share(x_axis, i, x)
    return between(u, share(y_axis, j, y), grid[i, j], grid[i, j + 1], grid[i + 1, j], grid[i + 1, j + 1])


def share(axis: Ints, i: int, value: float) -> float:
    """How far in interval i the value lies."""
    return (value - axis[i]) / (axis[i + 1] - axis[i])


def between(u: float, v: float, low_0: float, low_1: float, high_0: float, high_1: float) -> float:
    """Linear interpolation between the four corners of a cell."""
    low = low_0 + v * (low_1 - low_0)
    high = high_0 + v * (high_1 - high_0)
    return low + u * (high - low)


def leans_outside(x_axis: Ints, y_axis: Ints, outside: Bytes, i: int, j: int, x: float, y: float) -> bool:
    """Whether a corner that the interpolated value leans on lies outside the measured domain."""
    right = i + 1 if x > x_axis[i] else i
    upper = j + 1 if y > y_axis[j] else j
    return outside[i, j] > 0 or outside[right, upper] > 0


def add_chunk(tables: Tables, chunk_ns: Floats, new: int, context: int) -> None:
    """Add the attention time per layer of `new` queries after `context` cached tokens; a step's chunks share one floor.

    Extrapolated time is counted beside it.
    """
    xs, ys = tables.prefill_new, tables.prefill_context
    i, j = cell(xs, new, 0), cell(ys, context, 0)
    shared_ns = tables.prefill_ns[0, 0] if chunk_ns[0] > 0.0 else 0.0
    ns = bilinear(xs, ys, tables.prefill_ns, i, j, new, context) - shared_ns
    chunk_ns[0] += ns
    if leans_outside(xs, ys, tables.prefill_outside, i, j, new, context):
        chunk_ns[1] += ns
