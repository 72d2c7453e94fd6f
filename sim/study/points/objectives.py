"""What a sweep can look for: columns of its table, and whether less or more of each is better."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from sim.errors import InputError, UnknownName

CAPACITY = ("max_qps", "max_qps_per_gpu", "gpus")  # figures that a run at a given rate has not
LOWER = (
    "gpus",
    "ttft_p50_ms",
    "ttft_p90_ms",
    "tpot_p50_ms",
    "tpot_p90_ms",
    "dollars_per_million_output_tokens",
    "kwh_per_million_output_tokens",
)
HIGHER = ("max_qps", "max_qps_per_gpu", "slo_met_share", "output_tokens_per_s_per_gpu", "quality")
DEFAULT = "dollars_per_million_output_tokens"


def objective_named(name: str) -> str:
    """The column. Raises UnknownName for one that is no aim."""
    found = name.strip().replace("-", "_").lower()
    if found not in (*LOWER, *HIGHER):
        raise UnknownName("objective", name, (*LOWER, *HIGHER))
    return found


def cost(column: str, values: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The column as costs: less is better; infinite where there is no figure."""
    figures = values.cast(pl.Float64).fill_nan(None).to_numpy()
    known = np.where(np.isnan(figures), np.inf if column in LOWER else -np.inf, figures)
    return known if column in LOWER else -known


def best_of(table: pl.DataFrame, objective: str) -> Mapping[str, object] | None:
    """The best row that is feasible, the first of several; None where there is none."""
    able = table.filter("feasible")
    costs = cost(objective, able[objective])
    if not len(able) or not np.isfinite(costs.min()):
        return None
    return able.row(int(np.argmin(costs)), named=True)


def pareto(table: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The feasible rows that no other one beats: nowhere worse, somewhere better. Sorted by the first column.

    Rows without a figure in one of the columns take no part. Raises InputError for fewer than two columns.
    """
    names = [objective_named(name) for name in columns]
    if len(set(names)) < 2:
        raise InputError("a front needs two columns or more to weigh against each other")
    known = table.filter("feasible").drop_nulls(names)
    costs = np.stack([cost(name, known[name]) for name in names], axis=1)
    kept = [not ((costs <= one).all(axis=1) & (costs < one).any(axis=1)).any() for one in costs]
    return known.filter(pl.Series(kept, dtype=pl.Boolean)).sort(names[0], maintain_order=True)
