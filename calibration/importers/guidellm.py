"""guidellm reports, version 2: one benchmark per rate or concurrency of the sweep.

`benchmarks[].metrics.<metric>.successful` is a distribution (`mean, median, percentiles.p90, ...`). `request_latency`
is in seconds, `*_ms` in milliseconds. `time_per_output_token_ms` = (last token − request start) / tokens contains
TTFT; `inter_token_latency_ms` = (last − first) / (tokens − 1) is what everybody else calls TPOT. Both distributions
are weighted by tokens. `config.strategy.type_`: synchronous, concurrent (`streams`), throughput, constant and poisson
(`rate`), trace.
"""

import math
from pathlib import Path

from calibration.importers.names import model_or_none
from calibration.importers.reading import PERCENTILES, Record, read_records
from calibration.points import Load, Point, offline
from calibration.units import check_plausible, tpot_without_ttft
from sim.errors import InputError

_LATENCIES = {
    "ttft": ("time_to_first_token_ms", 1.0),
    "tpot": ("inter_token_latency_ms", 1.0),
    "e2e": ("request_latency", 1e3),
}
_RATES = {
    "requests_per_second": "requests_per_s",
    "output_tokens_per_second": "output_tokens_per_s",
    "tokens_per_second": "total_tokens_per_s",
}


def read_guidellm(path: Path) -> list[Point]:
    """One Point per benchmark of the report. Raises InputError for a benchmark in which no request succeeded."""
    (report,) = read_records(path)
    version = report.get("metadata.version")
    if version != 2:
        raise InputError(f"{path}: field 'metadata.version' is {version!r}; reports of version 2 are read")
    return [_point(benchmark) for benchmark in report.parts("benchmarks")]


def _point(benchmark: Record) -> Point:
    requests = int(benchmark.number("metrics.request_totals.successful"))
    if requests < 1:
        raise InputError(f"{benchmark.where}: field 'metrics.request_totals.successful' is 0; nothing was measured")
    metrics = benchmark.part("metrics")
    measured: dict[str, float] = {}
    for kind, (field, factor) in _LATENCIES.items():
        measured |= _statistics(metrics.part(f"{field}.successful"), kind, factor)
    measured |= {name: metrics.number(f"{field}.successful.mean") for field, name in _RATES.items()}
    osl = metrics.number("output_token_count.successful.mean")
    _check_tpot(benchmark, measured, osl)
    check_plausible(measured, osl, where=benchmark.where, requests=requests)
    errored = int(benchmark.optional("metrics.request_totals.errored") or 0)
    label = str(benchmark.get("config.backend.model", ""))
    return Point(
        source=benchmark.where,
        measured=measured,
        load=_load(benchmark),
        model=model_or_none(label),
        model_label=label,
        isl=metrics.number("prompt_token_count.successful.mean"),
        osl=osl,
        requests=requests,
        notes=("tpot is weighted by output tokens", *((f"{errored} requests failed",) if errored else ())),
    )


def _statistics(distribution: Record, kind: str, factor: float) -> dict[str, float]:
    found = {f"{kind}_mean_ms": distribution.number("mean") * factor}
    for p in PERCENTILES:
        found[f"{kind}_p{p}_ms"] = distribution.number(f"percentiles.p{p}") * factor
    return found


def _check_tpot(benchmark: Record, measured: dict[str, float], osl: float) -> None:
    """guidellm's own time per token, converted, is the TPOT we read; else the file is of another definition."""
    theirs = benchmark.optional("metrics.time_per_output_token_ms.successful.mean")
    if theirs is None or osl <= 1:
        return
    converted = tpot_without_ttft(theirs, measured["ttft_mean_ms"], osl)
    if not math.isclose(converted, measured["tpot_mean_ms"], rel_tol=0.25):
        raise InputError(
            f"{benchmark.where}: inter_token_latency_ms = {measured['tpot_mean_ms']:g}, but time_per_output_token_ms "
            f"without its TTFT is {converted:g}; the two cannot come from one run"
        )


def _load(benchmark: Record) -> Load:
    strategy = benchmark.part("config.strategy")
    kind, cap = strategy.get("type_"), strategy.optional("max_concurrency")
    if kind in ("constant", "poisson"):
        return Load("qps", strategy.number("rate"), int(cap) if cap else None, kind)
    if kind == "concurrent":
        return Load("concurrency", strategy.number("streams"))
    if kind == "synchronous":
        return Load("concurrency", 1)
    if kind == "throughput":
        return Load("concurrency", cap) if cap else offline()
    raise InputError(f"{benchmark.where}: strategy {kind!r} has no single rate or concurrency to compare with")
