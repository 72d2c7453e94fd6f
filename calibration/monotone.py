"""Least squares whose answer cannot fall: non-negative hinges, and the nearest monotone grid."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]


def hinges(x: Floats, knots: Sequence[float], *, beyond: bool = True) -> Floats:
    """Columns [n, knots]: 1, then for each interval how far x has climbed it (0 to 1).

    A non-negative combination is a piecewise linear function that never falls; its values at the knots are the
    cumulative sums of the weights. With beyond=True the last interval's slope goes on above the last knot.
    """
    columns = [np.ones(x.shape)]
    for low, high in itertools.pairwise(knots):
        top = np.inf if beyond and high == knots[-1] else 1.0
        columns.append(np.clip((x - low) / (high - low), 0.0, top))
    return np.stack(columns, axis=1)


def relative_nnls(design: Floats, target: Floats, weight: Floats) -> Floats:
    """Non-negative coefficients that minimise the weighted sum of squared *relative* errors.

    Solved on the normal equations, scaled to a unit diagonal: designs here are tall (tens of thousands by a hundred).
    """
    rows = design * (np.sqrt(weight) / target)[:, None]
    gram = rows.T @ rows
    scale = np.sqrt(np.diag(gram))
    scale[scale == 0] = 1.0
    gram = gram / np.outer(scale, scale) + 1e-9 * np.eye(scale.size)
    right = (rows.T @ np.sqrt(weight)) / scale
    lower = np.linalg.cholesky(gram)
    solution, _ = nnls(lower.T, np.linalg.solve(lower, right), maxiter=50 * scale.size)
    coefficients: Floats = solution / scale
    return coefficients


def never_falling(grid: Floats) -> Floats:
    """A grid near `grid` that falls along no axis: the mean of the running maximum and the reversed running minimum."""
    above, below = grid.copy(), grid.copy()
    for axis in range(grid.ndim):
        above = np.maximum.accumulate(above, axis=axis)
        below = np.flip(np.minimum.accumulate(np.flip(below, axis=axis), axis=axis), axis=axis)
    middle: Floats = (above + below) / 2.0
    return middle


def spread(predicted: Floats, measured: Floats) -> dict[str, float]:
    """Median and 90th percentile of |relative error|, the median signed error, and the number of points."""
    error = predicted / measured - 1.0
    return {
        "median": round(float(np.median(np.abs(error))), 4),
        "p90": round(float(np.quantile(np.abs(error), 0.9)), 4),
        "bias": round(float(np.median(error)), 4),
        "points": int(error.size),
    }
