"""Attention times by linear interpolation in the lowered grids, the only lookups with two coordinates.

Linear in tokens, not in their logarithm: interpolating attention in log space is several times worse.
"""

from sim.cost.tables import OUTSIDE_NS, Bytes, Floats, Ints, Scratch, Tables


def cell(axis: Ints, value: float) -> int:
    """Index of the grid interval that holds the value; the axis starts at or below every value asked for."""
    low, high = 0, axis.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= value:
            low = middle
        else:
            high = middle
    return low


def bilinear(x_axis: Ints, y_axis: Ints, grid: Floats, i: int, j: int, x: float, y: float) -> float:
    """Linear interpolation in cell (i, j) of a grid of times."""
    u = (x - x_axis[i]) / (x_axis[i + 1] - x_axis[i])
    v = (y - y_axis[j]) / (y_axis[j + 1] - y_axis[j])
    low = grid[i, j] + v * (grid[i, j + 1] - grid[i, j])
    high = grid[i + 1, j] + v * (grid[i + 1, j + 1] - grid[i + 1, j])
    return low + u * (high - low)


def leans_outside(x_axis: Ints, y_axis: Ints, outside: Bytes, i: int, j: int, x: float, y: float) -> bool:
    """Whether a corner that the interpolated value leans on lies outside the measured domain."""
    right = i + 1 if x > x_axis[i] else i
    upper = j + 1 if y > y_axis[j] else j
    return outside[i, j] > 0 or outside[right, upper] > 0


def prefill_attention_ns(
    tables: Tables, scratch: Scratch, new: int, context: int, layers: int, shared_ns: float
) -> float:
    """Attention time per layer of one chunk of `new` tokens after `context`, less what another chunk already paid.

    Extrapolated time is counted.
    """
    xs, ys = tables.prefill_new, tables.prefill_context
    i, j = cell(xs, new), cell(ys, context)
    ns = bilinear(xs, ys, tables.prefill_ns, i, j, new, context) - shared_ns
    if leans_outside(xs, ys, tables.prefill_outside, i, j, new, context):
        scratch.counters[OUTSIDE_NS] += ns * layers
    return ns


def decode_attention_ns(tables: Tables, scratch: Scratch, rows: int, context: int, layers: int) -> float:
    """Attention time per layer of `rows` single-token rows whose contexts sum to `context`."""
    xs, ys = tables.decode_rows, tables.decode_context
    mean = context / rows
    i, j = cell(xs, rows), cell(ys, mean)
    ns = bilinear(xs, ys, tables.decode_ns, i, j, rows, mean)
    if leans_outside(xs, ys, tables.decode_outside, i, j, rows, mean):
        scratch.counters[OUTSIDE_NS] += ns * layers
    return ns
