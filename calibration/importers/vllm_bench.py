"""Results of `vllm bench serve --save-result`, `--append-result` (JSON lines) and `--save-detailed`.

Fields as written by vllm/benchmarks/serve.py: run (`date, backend, model_id, num_prompts, request_rate, burstiness,
max_concurrency`), counts (`duration` s, `completed, failed, total_input_tokens, total_output_tokens`), rates
(`request_throughput, output_throughput, total_token_throughput`), latencies
(`{mean,median,std,pNN}_{ttft,tpot,itl,e2el} _ms`; `e2el` and percentiles other than p99 only if asked for). `backend`
is the protocol of the client, used against any server, so it does not tell the engine. Hardware, TP, engine and its
flags are nowhere in the file. The client measures from the moment a request leaves the `--max-concurrency` semaphore.
"""

import math
from pathlib import Path

from calibration.importers.client_lists import detail_of, merged
from calibration.importers.names import model_or_none
from calibration.importers.reading import PERCENTILES, Record, read_records
from calibration.points import Load, Point, offline
from calibration.units import check_plausible
from sim.errors import InputError

_KINDS = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e"}
_RATES = {
    "request_throughput": "requests_per_s",
    "output_throughput": "output_tokens_per_s",
    "total_token_throughput": "total_tokens_per_s",
}
_TOLERANCE = 0.02


def read_vllm_bench(path: Path) -> list[Point]:
    """One Point per run in the file. Raises InputError for a run without completed requests or without TTFT."""
    return [_point(record) for record in read_records(path)]


def _point(record: Record) -> Point:
    completed = completed_requests(record)
    aggregate = latencies(record, _KINDS) | {
        name: value for key, name in _RATES.items() if (value := record.optional(key)) is not None
    }
    if "ttft_mean_ms" not in aggregate and "ttft_p50_ms" not in aggregate:
        raise InputError(f"{record.where}: field 'mean_ttft_ms' is missing; is this a run of an embedding endpoint?")
    check_rate(record, "request_throughput", completed)
    detail = detail_of(record)
    measured = merged(record, aggregate, detail)
    osl = record.number("total_output_tokens") / completed
    check_plausible(measured, osl, where=record.where, requests=completed)
    failed = record.optional("failed") or 0
    label = str(record.get("model_id", ""))
    return Point(
        source=record.where,
        measured=measured,
        load=_load(record),
        model=model_or_none(label),
        model_label=label,
        isl=record.number("total_input_tokens") / completed,
        osl=osl,
        isl_range=detail.isl_range if detail else None,
        osl_range=detail.osl_range if detail else None,
        requests=completed,
        notes=(f"{failed:.0f} requests failed",) if failed else (),
    )


def completed_requests(record: Record) -> int:
    """How many requests completed; raises InputError for none."""
    completed = int(record.number("completed"))
    if completed < 1:
        raise InputError(f"{record.where}: field 'completed' is {completed}; a run without results cannot be used")
    return completed


def latencies(record: Record, kinds: dict[str, str]) -> dict[str, float]:
    """`{mean,median,pNN}_<kind>_ms` under canonical names; `kinds` maps the tool's kind to ours."""
    found = {}
    for theirs, ours in kinds.items():
        keys = {"mean": f"mean_{theirs}_ms", "p50": f"median_{theirs}_ms"}
        keys |= {f"p{p}": f"p{p}_{theirs}_ms" for p in PERCENTILES if p != 50}
        for statistic, key in keys.items():
            value = record.optional(key)
            if value is not None:
                found[f"{ours}_{statistic}_ms"] = value
    return found


def check_rate(record: Record, key: str, completed: int) -> None:
    """Raises InputError where requests / duration is not the stated rate: durations are in seconds in these files."""
    duration, rate = record.optional("duration"), record.optional(key)
    if duration and rate and not math.isclose(completed / duration, rate, rel_tol=_TOLERANCE):
        raise InputError(
            f"{record.where}: {key} = {rate:g}, but {completed} requests in duration = {duration:g} s "
            f"are {completed / duration:g} per second; is the duration in seconds?"
        )


def sending(record: Record) -> tuple[float, int | None]:
    """Requests per second (infinite for "inf") and the cap on requests in flight."""
    rate, cap = record.get("request_rate", math.inf), record.optional("max_concurrency")
    if isinstance(rate, str):
        if rate.strip().lower() not in ("inf", "infinity"):
            raise InputError(f"{record.where}: field 'request_rate' = {rate!r} is neither a number nor 'inf'")
        rate = math.inf
    return (math.inf if rate == math.inf else record.number("request_rate")), None if cap is None else int(cap)


def _load(record: Record) -> Load:
    if record.get("ramp_up_strategy") is not None:
        raise InputError(f"{record.where}: field 'ramp_up_strategy' is set; a ramp has no single rate to compare with")
    rate, cap = sending(record)
    if math.isinf(rate):
        return Load("concurrency", cap) if cap else offline()
    burstiness = record.optional("burstiness") or 1.0
    return Load("qps", rate, cap, "poisson" if burstiness == 1 else "gamma", burstiness)
