"""Results of SGLang's `bench_serving`: one JSON line per run, appended; `--output-details` adds per-request lists.

Field names follow vllm bench serve with these differences: `e2e_latency` for E2E, `input_throughput`,
`total_output_tokens_retokenized`, `concurrency` (the mean number in flight, measured), `request_rate` as Infinity, the
dataset's arguments (`random_input_len, random_range_ratio`), and in newer versions `server_info` with the server's own
arguments (`tp_size, model_path, kv_cache_dtype, max_running_requests`), which then say what is else missing.
Arrivals are Poisson.
"""

import math
from pathlib import Path

from calibration.importers.client_lists import detail_of, merged
from calibration.importers.names import dtype_or_none, model_or_none
from calibration.importers.reading import Record, read_records
from calibration.importers.vllm_bench import check_rate, completed_requests, latencies, sending
from calibration.points import Load, Point, offline
from calibration.units import check_plausible
from sim.errors import InputError

_KINDS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e_latency": "e2e"}
_SERVER_FLAGS = ("max_running_requests", "chunked_prefill_size", "mem_fraction_static", "disable_radix_cache")


def read_sglang_bench(path: Path) -> list[Point]:
    """One Point per line. Raises InputError for a run without completed requests or without TTFT."""
    return [_point(record) for record in read_records(path)]


def _point(record: Record) -> Point:
    completed = completed_requests(record)
    prompt_tokens, output_tokens = record.number("total_input_tokens"), record.number("total_output_tokens")
    aggregate = latencies(record, _KINDS)
    if "ttft_mean_ms" not in aggregate and "ttft_p50_ms" not in aggregate:
        raise InputError(f"{record.where}: field 'mean_ttft_ms' is missing")
    check_rate(record, "request_throughput", completed)
    aggregate["requests_per_s"] = record.number("request_throughput")
    aggregate["output_tokens_per_s"] = record.number("output_throughput")
    duration = record.optional("duration")
    if duration:
        aggregate["total_tokens_per_s"] = (prompt_tokens + output_tokens) / duration
    detail = detail_of(record)
    measured = merged(record, aggregate, detail)
    check_plausible(measured, output_tokens / completed, where=record.where, requests=completed)
    label = str(record.get("server_info.model_path", record.get("model_id", "")))
    tp = record.optional("server_info.tp_size")
    return Point(
        source=record.where,
        measured=measured,
        load=_load(record),
        n_gpus=int(tp) if tp else None,
        tp=int(tp) if tp else None,
        model=model_or_none(label),
        model_label=label,
        kv_dtype=dtype_or_none(str(record.get("server_info.kv_cache_dtype", ""))),
        isl=prompt_tokens / completed,
        osl=output_tokens / completed,
        isl_range=detail.isl_range if detail else None,
        osl_range=detail.osl_range if detail else None,
        requests=completed,
        flags={key: value for key in _SERVER_FLAGS if (value := record.get(f"server_info.{key}")) is not None},
        notes=_notes(record),
    )


def _load(record: Record) -> Load:
    rate, cap = sending(record)
    if math.isinf(rate):
        return Load("concurrency", cap) if cap else offline()
    return Load("qps", rate, cap, "poisson")


def _notes(record: Record) -> tuple[str, ...]:
    accepted = record.optional("accept_length")
    return (f"speculative decoding, {accepted:g} tokens accepted per step",) if accepted and accepted > 1 else ()
