"""aiperf exports: `profile_export.jsonl` (one request a line) and `profile_export_aiperf.json` (statistics).

Every value carries its unit. `inter_token_latency` = (request_latency − ttft) / (output_sequence_length − 1) per
request is TPOT; `inter_chunk_latency` holds the gaps between chunks. The request file does not say how requests were
sent: its points have no load until the user gives one. Requests of the warm-up phase are left out; failed and
cancelled ones are counted in a note.
"""

from pathlib import Path

from calibration.importers.names import model_or_none
from calibration.importers.reading import PERCENTILES, Record, read_records, summary
from calibration.points import Load, Point
from calibration.units import check_plausible, to_ms
from sim.errors import InputError

KINDS = {"time_to_first_token": "ttft", "inter_token_latency": "tpot", "request_latency": "e2e"}
_RATES = {"request_throughput": "requests_per_s", "output_token_throughput": "output_tokens_per_s"}


def read_aiperf(path: Path) -> list[Point]:
    """The one Point of `profile_export_aiperf.json`."""
    (record,) = read_records(path)
    models = record.get("input_config.endpoint.model_names") or [""]
    rate = record.optional("input_config.loadgen.request_rate")
    concurrency = record.optional("input_config.loadgen.concurrency")
    load = None
    if rate:
        mode = record.get("input_config.loadgen.request_rate_mode")
        cap = int(concurrency) if concurrency else None
        load = Load("qps", rate, cap, mode if mode in ("poisson", "constant") else "unknown")
    elif concurrency:
        load = Load("concurrency", concurrency)
    return [aggregate_point(record, str(models[0]), load)]


def aggregate_point(record: Record, model_label: str, load: Load | None) -> Point:
    """A Point from `{metric: {unit, avg, p50, ...}}`, the layout that genai-perf and aiperf share."""
    measured: dict[str, float] = {}
    for field, kind in KINDS.items():
        if record.get(field) is not None:
            measured |= _statistics(record.part(field), kind)
    for field, name in _RATES.items():
        if record.get(field) is not None:
            measured[name] = record.number(f"{field}.avg")
    if not measured:
        raise InputError(f"{record.where}: none of the fields {', '.join((*KINDS, *_RATES))} is present")
    osl = record.optional("output_sequence_length.avg")
    isl = record.optional("input_sequence_length.avg")
    if isl and osl and "output_tokens_per_s" in measured:
        measured["total_tokens_per_s"] = measured["output_tokens_per_s"] * (isl + osl) / osl
    count = record.optional("request_count.avg")
    check_plausible(measured, osl, where=record.where, requests=int(count) if count else None)
    return Point(
        source=record.where,
        measured=measured,
        load=load,
        model=model_or_none(model_label),
        model_label=model_label,
        isl=isl,
        osl=osl,
        requests=int(count) if count else None,
    )


def read_aiperf_requests(path: Path) -> list[Point]:
    """The one Point of `profile_export.jsonl`. Raises InputError where no request succeeded."""
    records = [r for r in read_records(path) if r.get("metadata.benchmark_phase", "profiling") == "profiling"]
    good = [r for r in records if r.get("error") is None and r.get("metrics.request_latency") is not None]
    if not good:
        raise InputError(f"{path}: none of {len(records)} requests succeeded")
    measured: dict[str, float] = {}
    for field, kind in KINDS.items():
        measured |= summary(kind, [_ms(r, field) for r in good if r.get(f"metrics.{field}") is not None])
    measured |= summary("itl", [gap for r in good for gap in _gaps_ms(r)])
    isl = _mean(good, "metrics.input_sequence_length.value")
    osl = _mean(good, "metrics.output_sequence_length.value")
    starts, ends = ([r.integer(f"metadata.request_{edge}_ns") for r in good] for edge in ("start", "end"))
    seconds = (max(ends) - min(starts)) / 1e9
    if len(good) > 1 and seconds > 0:
        measured["requests_per_s"] = len(good) / seconds
        measured["output_tokens_per_s"] = osl * len(good) / seconds
        measured["total_tokens_per_s"] = (isl + osl) * len(good) / seconds
    check_plausible(measured, osl, where=path, requests=len(good))
    lost = len(records) - len(good)
    notes = (f"{lost} requests failed or were cancelled",) if lost else ()
    return [Point(str(path), measured, isl=isl, osl=osl, requests=len(good), notes=notes)]


def _statistics(metric: Record, kind: str) -> dict[str, float]:
    unit = str(metric.get("unit", ""))
    keys = {"mean": "avg"} | {f"p{p}": f"p{p}" for p in PERCENTILES}
    return {
        f"{kind}_{statistic}_ms": to_ms(value, unit, where=metric.where)
        for statistic, key in keys.items()
        if (value := metric.optional(key)) is not None
    }


def _ms(record: Record, field: str) -> float:
    metric = record.part(f"metrics.{field}")
    return to_ms(metric.number("value"), str(metric.get("unit", "")), where=metric.where)


def _gaps_ms(record: Record) -> list[float]:
    unit = record.get("metrics.inter_chunk_latency.unit", "ms")
    return [to_ms(gap, unit, where=record.where) for gap in record.get("metrics.inter_chunk_latency.value", [])]


def _mean(records: list[Record], key: str) -> float:
    return sum(record.number(key) for record in records) / len(records)
