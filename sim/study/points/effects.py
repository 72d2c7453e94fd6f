"""How much each axis moves the objective with everything else equal: main effects on a logarithmic scale."""

from itertools import pairwise

import numpy as np
import polars as pl

from sim.study.points.objectives import objective_named

MOST_LEVELS = 8  # values of a numeric axis from which on they are taken together
BINS = 4

SCHEMA = {"axis": pl.String, "value": pl.String, "factor": pl.Float64, "points": pl.UInt32}


def effects(table: pl.DataFrame, axes: list[str], objective: str) -> pl.DataFrame:
    """One row per axis and value: by what factor the objective differs from its mean there, and over how many points.

    Least squares of the objective's logarithm on one term per value, over feasible points: where the grid is full,
    that is the mean over everything else; where points are missing, it allows for which. Axes that vary with others
    (a parameter that one strategy has) share what they cause. Frame of SCHEMA, axes by the range of their factors.
    """
    objective = objective_named(objective)
    known = table.filter(pl.col("feasible") & pl.col(objective).is_not_null() & (pl.col(objective) > 0))
    levels = {axis: _levels(known[axis]) for axis in axes}
    if not len(known):
        return pl.DataFrame(schema=SCHEMA)
    logs = np.log(known[objective].cast(pl.Float64).to_numpy())
    columns = [
        (axis, value, levels[axis] == value) for axis in axes for value in levels[axis].unique(maintain_order=True)
    ]
    design = np.stack([member.to_numpy().astype(np.float64) for _, _, member in columns], axis=1)
    fitted = np.linalg.lstsq(design - design.mean(axis=0), logs, rcond=1e-9)[0]
    rows = []
    for axis in axes:
        mine = [(value, member, effect) for (name, value, member), effect in zip(columns, fitted) if name == axis]
        mean = sum(effect * float(member.mean() or 0) for _, member, effect in mine)
        rows += [(axis, value, float(np.exp(effect - mean)), member.sum()) for value, member, effect in mine]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    spread = pl.col("factor").max().over("axis") - pl.col("factor").min().over("axis")
    return frame.sort(spread, descending=True, maintain_order=True)


def _levels(values: pl.Series) -> pl.Series:
    """The values as text; many numbers by quarters of the points."""
    if values.dtype.is_numeric() and values.n_unique() > MOST_LEVELS:
        numbers = values.cast(pl.Float64).to_numpy()
        edges = np.unique(np.nanquantile(numbers, np.linspace(0, 1, BINS + 1)))
        place = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
        names = [f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges)]
        return pl.Series([None if np.isnan(n) else names[i] for n, i in zip(numbers, place)]).fill_null("—")
    return values.cast(pl.String).fill_null("—")
