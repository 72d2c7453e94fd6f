"""The study's table: one row per strategy."""

import math
from collections.abc import Mapping, Sequence

import polars as pl

from sim.cost.deployment import Deployment
from sim.plans.plan import SkipPlan
from sim.run.uncertainty import SOURCES
from sim.study.assess import Assessment
from sim.study.capacity import Capacity, replicas_for
from sim.study.floor import keeps
from sim.study.intervals import columns
from sim.study.prices import dollars_per_million, kwh_per_million
from sim.study.quality import quality_of

SHARES = pl.Struct(dict.fromkeys(SOURCES, pl.Float64))
Columns = dict[str, pl.DataType | type[pl.DataType]]
ENDS: Columns = {"": pl.Float64, "_low": pl.Float64, "_high": pl.Float64, "_shares": SHARES}
LATENCIES = ("ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms")
COSTS = ("dollars_per_million_output_tokens", "kwh_per_million_output_tokens")
SCHEMA: Columns = {
    "strategy": pl.String,
    "plan_digest": pl.String,
    "max_qps_per_gpu": pl.Float64,
    "max_qps_low": pl.Float64,
    "max_qps_high": pl.Float64,
    "max_qps_shares": SHARES,
    "limited_by": pl.String,
    "gpus": pl.Int64,
    "gpus_low": pl.Int64,
    "gpus_high": pl.Int64,
    "gain": pl.Float64,
    "gain_low": pl.Float64,
    "gain_high": pl.Float64,
    "gain_shares": SHARES,
    "compared_at_qps": pl.Float64,
    **{f"{name}{end}": kind for name in LATENCIES for end, kind in ENDS.items()},
    **{f"output_tokens_per_s_per_gpu{end}": kind for end, kind in ENDS.items() if kind != SHARES},
    "kv_capacity_tokens": pl.Int64,
    "kv_peak_share": pl.Float64,
    "prompt_skip": pl.Float64,
    "decode_skip": pl.Float64,
    "flops_saved": pl.Float64,
    "weight_bytes_saved": pl.Float64,
    "kv_read_bytes_saved": pl.Float64,
    "kv_capacity_saved": pl.Float64,
    **{f"{name}{end}": kind for name in COSTS for end, kind in ENDS.items() if kind != SHARES},
    "quality": pl.Float64,
    "quality_low": pl.Float64,
    "quality_high": pl.Float64,
    "quality_how": pl.String,
    "keeps_quality": pl.Boolean,
    "extrapolated_share": pl.Float64,
    "note": pl.String,
}


def study_rows(
    on: Deployment,
    found: Sequence[Assessment],
    at_common: pl.DataFrame,
    *,
    demand_qps: float,
    dollars_per_gpu_hour: float,
    quality_floor: float | None = None,
) -> pl.DataFrame:
    """The table, in the order of the strategies; figures that a strategy without a capacity lacks are null."""
    latency = {str(row["strategy"]): row for row in at_common.iter_rows(named=True)}
    rows = []
    for a in found:
        row: dict[str, object] = {"strategy": a.plan.name, "plan_digest": a.plan.digest, "note": a.why_not}
        row |= {"prompt_skip": a.plan.prompt_skip, "decode_skip": a.plan.nominal_skip}
        row |= {name: a.row[name] for name in a.row if name in SCHEMA}
        row |= _latency(latency.get(a.plan.name))
        row["kv_capacity_tokens"] = int(a.row["kv_capacity_tokens"])
        row |= quality_cells(a.plan, on.model.name, quality_floor)
        if a.capacity:
            row |= _capacity(on, a.capacity, found[0].capacity, demand_qps)
            row |= _cost(on, a, dollars_per_gpu_hour)
        rows.append({name: row.get(name) for name in SCHEMA})
    return pl.DataFrame(rows, schema=SCHEMA)


def quality_cells(plan: SkipPlan, model: str, floor: float | None) -> dict[str, object]:
    """The row's columns on quality; null where nobody measured it."""
    known = quality_of(plan, model)
    names = ("quality", "quality_low", "quality_high", "quality_how")
    values = (known.score, known.low, known.high, known.how) if known else (None,) * 4
    return {**dict(zip(names, values)), "keeps_quality": keeps(values[0], floor)}


def _latency(row: Mapping[str, object] | None) -> dict[str, object]:
    if row is None:
        return {}
    names = [f"{name}{end}" for name in LATENCIES for end in ENDS]
    return {"compared_at_qps": row["qps"]} | {name: row[name] for name in names}


def _capacity(on: Deployment, own: Capacity, dense: Capacity | None, demand_qps: float) -> dict[str, object]:
    """Rates per GPU; GPUs in whole replicas."""
    qps, low, high = own.qps, own.low, own.high
    row: dict[str, object] = {
        "max_qps_per_gpu": qps / on.tp,
        "max_qps_low": low / on.tp,
        "max_qps_high": high / on.tp,
        "max_qps_shares": own.interval.shares,
        "limited_by": own.limited_by,
        "note": own.note,
        "gpus": on.tp * replicas_for(demand_qps, qps),
        "gpus_low": on.tp * replicas_for(demand_qps, high),
        "gpus_high": on.tp * replicas_for(demand_qps, low) if low > 0 else None,
    }
    if dense:
        gain = own.ratio_to(dense)
        row |= {"gain": gain.value} | columns("gain", gain)
    return row


def _cost(on: Deployment, a: Assessment, dollars_per_gpu_hour: float) -> dict[str, object]:
    """What a replica at its capacity yields and costs: known as well as the capacity is."""
    rate, capacity = a.row["output_tokens_per_s"], a.capacity
    if capacity is None or not (math.isfinite(rate) and rate > 0):
        return {}
    row: dict[str, object] = {}
    for end, qps in (("", capacity.qps), ("_low", capacity.low), ("_high", capacity.high)):
        row[f"output_tokens_per_s_per_gpu{end}"] = rate / on.tp * qps / capacity.qps
    for end, qps in (("", capacity.qps), ("_low", capacity.high), ("_high", capacity.low)):
        yielded = rate * qps / capacity.qps
        if yielded > 0:
            row[f"dollars_per_million_output_tokens{end}"] = dollars_per_million(on, yielded, dollars_per_gpu_hour)
            row[f"kwh_per_million_output_tokens{end}"] = kwh_per_million(on, yielded, a.row["busy_share"])
    return row
