"""The cells of the generic table, parsed: lengths, loads and metrics as its authors spell them."""

import math
import re

from calibration.points import Load
from calibration.units import to_ms
from sim.errors import InputError

_LENGTH = re.compile(r"(?:.*\bavg |ctx )?(\d+(?:\.\d+)?)(?:/seq)?")
_LOAD = re.compile(r"(conc|concurrency|qps|static_batch)=(inf|\d+(?:\.\d+)?)(?: n=(\d+))?")
_OFFLINE = re.compile(r"offline_(?:max|(\d+)_prompts)")
_LATENCY = re.compile(r"(ttft|tpot|itl|e2e)(?:_(mean|median|p\d+))?")
_STATIC = {
    "prefill_time_fit": "prefill_mean_ms",
    "decode_step_time_fit": "decode_step_mean_ms",
    "prefill_time_p50": "prefill_p50_ms",
    "token_time_p50": "decode_step_p50_ms",
}
_RATES = {
    "output_throughput": "output_tokens_per_s",
    "total_throughput": "total_tokens_per_s",
    "total_token_throughput": "total_tokens_per_s",
    "request_throughput": "requests_per_s",
}
_DERIVED_TPOT = "tpot_derived_(e2e-ttft)/(osl-1)"
_KINDS = {"conc": "concurrency", "concurrency": "concurrency", "qps": "qps", "static_batch": "static_batch"}


def length_of(cell: str) -> float | None:
    """Tokens of "128", "avg 467", "ShareGPT avg 857", "ctx 512/seq"; None where the cell gives no length."""
    match = _LENGTH.fullmatch(cell.strip())
    return float(match[1]) if match else None


def load_of(cell: str) -> tuple[Load, int | None] | None:
    """Load and request count of "conc=8", "qps=2", "qps=inf", "qps=10.27 n=300", "offline_2000_prompts"; else None."""
    offline = _OFFLINE.fullmatch(cell.strip())
    if offline:
        return Load("offline", math.inf), int(offline[1]) if offline[1] else None
    match = _LOAD.fullmatch(cell.strip())
    if match is None:
        return None
    requests = int(match[3]) if match[3] else None
    if match[2] == "inf":
        return Load("offline", math.inf), requests
    return Load(_KINDS[match[1]], float(match[2])), requests  # type: ignore[arg-type]


def metric_of(metric: str, unit: str, value: float, *, statistic: str, n_gpus: int) -> tuple[str, float] | None:
    """Canonical name and value of a cell; None for a metric or a unit that no simulation gives.

    `statistic` is what a bare "ttft" or "tpot" means; rates per GPU are multiplied by `n_gpus`.
    """
    if metric in _STATIC:
        return _time(_STATIC[metric], value, unit)
    if metric == _DERIVED_TPOT:
        return _time("tpot_mean_ms", value, unit)
    latency = _LATENCY.fullmatch(metric)
    if latency:
        found = (latency[2] or statistic).replace("median", "p50")
        return _time(f"{latency[1]}_{found}_ms", value, unit)
    per_gpu = unit.endswith("/gpu")
    name = _RATES.get(metric.removesuffix("_per_gpu"))
    expected = "req/s" if name == "requests_per_s" else "tok/s"
    if name is None or unit.removesuffix("/gpu") != expected or per_gpu != metric.endswith("_per_gpu"):
        return None
    return name, value * (n_gpus if per_gpu else 1)


def _time(name: str, value: float, unit: str) -> tuple[str, float] | None:
    try:
        return name, to_ms(value, unit, where=name)
    except InputError:
        return None
