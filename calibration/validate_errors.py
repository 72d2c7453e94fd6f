"""Errors of predictions against measurements: one row per point and metric, and the summaries everybody quotes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from calibration.points import Point
from calibration.validate_run import wanted

CLASSES = ((0.5, "below 50 %"), (0.8, "50-80 %"), (1.0, "80-100 %"), (float("inf"), "beyond"))
FAMILIES = ("ttft", "tpot", "itl", "e2e", "prefill", "decode_step")
THROUGHPUT = ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s")


@dataclass(frozen=True)
class Compared:
    """A point with its prediction; `low` and `high` are the ends of the 90 % interval where there is one."""

    point: Point
    predicted: Mapping[str, float]
    load_share: float  # of the capacity that the simulator finds for the setting
    outside: float
    low: Mapping[str, float]
    high: Mapping[str, float]


def family(metric: str) -> str:
    """"ttft", "tpot" (with itl), "e2e", "throughput", "prefill" or "decode_step"."""
    if metric in THROUGHPUT:
        return "throughput"
    name = next(one for one in FAMILIES if metric.startswith(one))
    return "tpot" if name == "itl" else name


def load_class(share: float) -> str:
    """The class of a share of capacity; a static batch has none."""
    return next((name for most, name in CLASSES if share <= most), "") if np.isfinite(share) else "static"


def error_table(compared: Sequence[Compared]) -> pl.DataFrame:
    """One row per point and metric: measured, predicted, error as a share, interval, load class, whether derived."""
    rows = []
    for number, one in enumerate(compared):
        p = one.point
        for metric, measured in wanted(p).items():
            predicted = one.predicted[metric]
            low, high = one.low.get(metric), one.high.get(metric)
            rows.append(
                {
                    "point": number,
                    "source": p.source,
                    "engine": f"{p.engine} {p.engine_version or ''}".strip(),
                    "gpu": p.gpu,
                    "model": p.model,
                    "weights": p.weights_dtype,
                    "tp": p.tp,
                    "isl": p.isl,
                    "osl": p.osl,
                    "load": f"{p.load.kind} {p.load.value:g}" if p.load else "",
                    "load_share": one.load_share,
                    "load_class": load_class(one.load_share),
                    "metric": metric,
                    "family": family(metric),
                    "derived": metric not in p.measured,
                    "measured": measured,
                    "predicted": predicted,
                    "error": predicted / measured - 1.0 if measured else None,
                    "low": low,
                    "high": high,
                    "covered": None if low is None or high is None else low <= measured <= high,
                    "outside": one.outside,
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def summary(table: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Rows, median, mean and p90 of the absolute error, the median error (bias) and coverage, by the given columns."""
    error = pl.col("error").abs() * 100
    return (
        table.drop_nulls("error")
        .group_by(*by)
        .agg(
            pl.len().alias("rows"),
            error.median().alias("median_ape"),
            error.mean().alias("mean_ape"),
            error.quantile(0.9, "linear").alias("p90_ape"),
            (pl.col("error").median() * 100).alias("bias"),
            (pl.col("covered").mean() * 100).alias("coverage_90"),
        )
        .sort(*by)
    )


def median_ape(table: pl.DataFrame, name: str) -> float | None:
    """Median absolute percentage error of one family; None where nothing was compared."""
    values = table.filter(pl.col("family") == name)["error"].drop_nulls().abs()
    return round(float(np.median(values.to_numpy())) * 100, 2) if len(values) else None
