"""The sweep's table: a row per point, with what follows from its answer: money, GPUs, quality, whether it will do."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from sim.errors import InputError
from sim.study.capacity import replicas_for
from sim.study.points.axes import Axis, Choices
from sim.study.points.options import is_option
from sim.study.points.point import ANSWER, Answer, Point
from sim.study.prices import dollars_per_million, kwh_per_million, price_of
from sim.study.rows import quality_cells

SCHEMA = {
    "plan": pl.String,
    "plan_digest": pl.String,
    **ANSWER,
    "max_qps_per_gpu": pl.Float64,
    "gpus": pl.Int64,
    "output_tokens_per_s_per_gpu": pl.Float64,
    "dollars_per_million_output_tokens": pl.Float64,
    "kwh_per_million_output_tokens": pl.Float64,
    "quality": pl.Float64,
    "quality_how": pl.String,
    "keeps_quality": pl.Boolean,
    "feasible": pl.Boolean,
    "key": pl.String,
}
SCHEMA["note"] = SCHEMA.pop("note")  # the last one, since it is long


def table_of(
    axes: Mapping[str, Axis],
    points: Sequence[Point],
    answers: Sequence[Answer | None],
    *,
    prices: Mapping[str, float],
) -> pl.DataFrame:
    """A column for each axis, then those of SCHEMA; figures that a point has not are null."""
    schema = {name: _dtype(axis) for name, axis in axes.items()} | SCHEMA
    rows = []
    for point, answer in zip(points, answers):
        row: dict[str, object] = {**point.settings, "note": point.why_not, "feasible": False}
        if point.question and answer:
            figures = answer | _derived(point, answer, prices)
            row |= {name: value for name, value in figures.items() if value is not None}  # --qps may be an axis
            row["feasible"] = bool(figures["within_slo"]) and figures["keeps_quality"] is not False
        rows.append({name: row.get(name) for name in schema})
    return pl.DataFrame(rows, schema=schema)


def check_axes(axes: Mapping[str, Axis]) -> None:
    """Raises InputError for an axis that is named like one of the table's columns."""
    for name in axes:
        if name in SCHEMA and not is_option(name):
            raise InputError(f"a parameter cannot be called {name}: the table has a column of that name")


def keeps_quality(point: Point) -> bool:
    """Whether the point can be, and keeps the quality that it is to keep."""
    if point.question is None:
        return False
    service = point.question.service
    return quality_cells(service.plan, service.deployment.model.name, point.quality_floor)["keeps_quality"] is not False


def _derived(point: Point, answer: Answer, prices: Mapping[str, float]) -> dict[str, object]:
    assert point.question
    service = point.question.service
    on, plan = service.deployment, service.plan
    row: dict[str, object] = {"plan": plan.name, "plan_digest": plan.digest, "key": point.key}
    row |= quality_cells(plan, on.model.name, point.quality_floor)
    qps, tokens, busy = (answer[name] for name in ("max_qps", "output_tokens_per_s", "busy_share"))
    if isinstance(qps, float):
        row |= {"max_qps_per_gpu": qps / on.tp, "gpus": on.tp * replicas_for(point.demand_qps, qps)}
    if isinstance(tokens, float) and isinstance(busy, float) and math.isfinite(tokens) and tokens > 0:
        row["output_tokens_per_s_per_gpu"] = tokens / on.tp
        price = price_of(on.gpu.name, prices.get(on.gpu.name))
        row["dollars_per_million_output_tokens"] = dollars_per_million(on, tokens, price)
        row["kwh_per_million_output_tokens"] = kwh_per_million(on, tokens, busy)
    return row


def _dtype(axis: Axis) -> type[pl.DataType]:
    if not isinstance(axis, Choices):
        return pl.Int64 if axis.whole else pl.Float64
    kinds = {type(value) for value in axis.values}
    for kind, dtype in ((bool, pl.Boolean), (int, pl.Int64)):
        if kinds == {kind}:
            return dtype
    return pl.String if kinds == {str} else pl.Float64
