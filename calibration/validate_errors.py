"""Errors of predictions against measurements: one row per point and metric, and the summaries everybody quotes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from calibration.points import Point
from calibration.validate_run import wanted
from sim.run.uncertainty import Z90

CLASSES = ((0.5, "below 50 %"), (0.8, "50-80 %"), (1.0, "80-100 %"), (math.inf, "beyond"))
FAMILIES = ("ttft", "tpot", "itl", "e2e", "prefill", "decode_step")
THROUGHPUT = ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s")


@dataclass(frozen=True)
class Compared:
    """A point with its prediction.

    `load_share` is of the capacity that the simulator finds for the setting; `held_out` by metric the log error under
    the fit that never saw the configuration; `sd` by metric the standard deviation of the prediction's logarithm.
    """

    point: Point
    predicted: Mapping[str, float]
    load_share: float
    outside: float
    held_out: Mapping[str, float]
    sd: Mapping[str, float]


def family(metric: str) -> str:
    """ "ttft", "tpot" (with itl), "e2e", "throughput", "prefill" or "decode_step"."""
    if metric in THROUGHPUT:
        return "throughput"
    name = next(one for one in FAMILIES if metric.startswith(one))
    return "tpot" if name == "itl" else name


def load_class(share: float) -> str:
    """The class of a share of capacity; a static batch has none."""
    return next((name for most, name in CLASSES if share <= most), "beyond") if not np.isnan(share) else "static"


def error_table(compared: Sequence[Compared]) -> pl.DataFrame:
    """One row per point and metric: setting, measured, predicted, errors as shares, interval, whether it covers.

    `error` is in sample, `held_out` under the fit without the configuration (for what no fit used, the two agree).
    Coverage is judged by the held-out error.
    """
    rows = [
        {**_setting(number, one), **_figures(one, metric, measured)}
        for number, one in enumerate(compared)
        for metric, measured in wanted(one.point).items()
        if not incomparable(one, metric)
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def incomparable(one: Compared, metric: str) -> str:
    """Why an error of the figure is undefined; empty where it is not."""
    if not wanted(one.point)[metric] > 0:
        return "measured as zero"
    predicted = one.predicted[metric]
    if not (math.isfinite(predicted) and predicted > 0):
        return "undefined in the simulation: no request has a second token"
    return ""


def _setting(number: int, one: Compared) -> dict[str, object]:
    p = one.point
    return {
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
        "outside": one.outside,
    }


def _figures(one: Compared, metric: str, measured: float) -> dict[str, object]:
    predicted, sd = one.predicted[metric], one.sd.get(metric)
    error = math.log(predicted / measured)
    held = one.held_out.get(metric, error)
    return {
        "metric": metric,
        "family": family(metric),
        "derived": metric not in one.point.measured,
        "measured": measured,
        "predicted": predicted,
        "error": math.expm1(error),
        "held_out": math.expm1(held),
        "low": None if sd is None else predicted * math.exp(-Z90 * sd),
        "high": None if sd is None else predicted * math.exp(Z90 * sd),
        "covered": None if sd is None else abs(held) <= Z90 * sd,
    }


def summary(table: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Rows; median, mean and p90 of the absolute error, its held-out median, bias and coverage in percent."""
    error = pl.col("error").abs() * 100
    return (
        table.drop_nulls("error")
        .group_by(*by)
        .agg(
            pl.len().alias("rows"),
            error.median().alias("median_ape"),
            error.mean().alias("mean_ape"),
            error.quantile(0.9, "linear").alias("p90_ape"),
            (pl.col("held_out").abs().median() * 100).alias("held_out_ape"),
            (pl.col("error").median() * 100).alias("bias"),
            (pl.col("covered").mean() * 100).alias("coverage_90"),
        )
        .sort(*by)
    )


def median_ape(table: pl.DataFrame, name: str, *, column: str = "error") -> float | None:
    """Median absolute percentage error of one family; None where nothing was compared."""
    values = table.filter(pl.col("family") == name)[column].drop_nulls().abs()
    return round(float(np.median(values.to_numpy())) * 100, 2) if len(values) else None
