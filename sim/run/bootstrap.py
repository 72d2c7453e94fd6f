"""Percentiles and means of a sample whose batches are drawn again, without writing the draws out.

A draw takes each batch a number of times. Its k-th smallest value is found in the sorted sample, where every value
counts as often as its batch was drawn: first the block that holds it, from counts per block and batch, then the place
in the block. Bit for bit the order statistics of the values written out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BLOCK = 512


def resampled(values: Floats, quantiles: Sequence[float], times: Ints) -> Floats:
    """Percentiles, linear between order statistics, and the mean of each draw, [draws, quantiles + 1].

    `times` [draws, batches] says how often a draw takes each of the contiguous batches of the values.
    """
    batches = times.shape[1]
    sizes = np.array([len(part) for part in np.array_split(values, batches)])
    order = np.argsort(values)
    batch = np.repeat(np.arange(batches), sizes)[order]
    ordered, totals = values[order], times @ sizes
    sums = np.add.reduceat(values, np.cumsum(sizes) - sizes)
    block = np.arange(values.size) // BLOCK
    held = np.bincount(block * batches + batch, minlength=(block[-1] + 1) * batches).reshape(-1, batches)
    through = np.cumsum(held, axis=0) @ times.T  # values of each draw up to the end of each block

    def smallest(rank: Ints) -> Floats:
        found = np.empty(len(times))
        for draw, k in enumerate(rank):
            at = int(np.searchsorted(through[:, draw], k, side="right"))
            before = through[at - 1, draw] if at else 0
            inside = slice(at * BLOCK, (at + 1) * BLOCK)
            counts = np.cumsum(times[draw, batch[inside]])
            found[draw] = ordered[inside][np.searchsorted(counts, k - before, side="right")]
        return found

    columns = []
    for q in quantiles:
        position = q / 100 * (totals - 1)
        low = np.floor(position).astype(np.int64)
        below, above = smallest(low), smallest(np.minimum(low + 1, totals - 1))
        columns.append(below + (above - below) * (position - low))
    return np.stack([*columns, times @ sums / totals], axis=1)
