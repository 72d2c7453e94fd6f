"""What every metric means, how each tool defines it, and the conversions between their definitions.

Canonical metrics, per request unless said otherwise, client clock, streaming:

- ttft: request sent → first token received. Contains network, tokenisation and queueing in the server; not the time a
  closed-loop client held the request back.
- tpot: (last token − first token) / (output tokens − 1); requests with one token have none. Mean over requests.
- itl: one gap between two successive tokens, pooled over all requests. Its mean is the token-weighted mean of tpot.
- e2e: request sent → last token received = ttft + tpot · (output tokens − 1).
- prefill, decode_step: one whole step of a static batch.
- output_tokens_per_s, total_tokens_per_s (prompt + output), requests_per_s: completed work / duration of the run, all
  GPUs together.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sim.errors import InputError

_MS_PER = {"s": 1e3, "sec": 1e3, "seconds": 1e3, "ms": 1.0, "us": 1e-3, "µs": 1e-3, "ns": 1e-6}

DEFINITIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "vllm bench serve": {
            "ttft": "as canonical; the clock starts after the --max-concurrency semaphore",
            "tpot": "(latency − ttft) / (output_len − 1), requests with more than one token",
            "itl": "gaps between streamed chunks, pooled; a chunk of several tokens is one gap",
            "e2e": "e2el; saved only with --percentile-metrics e2el, else ttft + Σ itl of the detailed lists",
            "total_tokens_per_s": "total_token_throughput; prompts of completed requests only",
        },
        "sglang bench_serving": {
            "ttft": "as canonical",
            "tpot": "as vllm bench serve; output_len is what was asked for, *_retokenized what the text counts",
            "itl": "gap of a chunk divided by its tokens, pooled",
            "e2e": "e2e_latency",
            "output_tokens_per_s": "output_throughput, not output_throughput_retokenized",
        },
        "guidellm": {
            "ttft": "time_to_first_token_ms",
            "tpot": "inter_token_latency_ms = (last − first) / (tokens − 1), distribution weighted by tokens; its own "
            "time_per_output_token_ms = (last − start) / tokens contains TTFT and is converted, never copied",
            "e2e": "request_latency, in seconds",
        },
        "aiperf": {
            "ttft": "time_to_first_token",
            "tpot": "inter_token_latency = (request_latency − ttft) / (output_sequence_length − 1), per request",
            "itl": "inter_chunk_latency, per-request records only: gaps between chunks, pooled",
            "e2e": "request_latency",
        },
        "genai-perf": {
            "ttft": "time_to_first_token; from raw timestamps: first response − request",
            "tpot": "inter_token_latency, per request as in aiperf; raw timestamps carry no token counts: none",
            "itl": "raw timestamps: gaps between responses, pooled",
            "e2e": "request_latency; raw: last response − request",
        },
        "inference-perf": {
            "ttft": "time_to_first_token, in seconds",
            "tpot": "mean E2E and TTFT over mean output length: (e2e − ttft) / (osl − 1). Its time_per_output_token "
            "counts SSE chunks, two per token for some servers (0.475 of the truth), and is not read",
            "itl": "not read: gaps between SSE chunks",
            "e2e": "request_latency, in seconds",
            "output_tokens_per_s": "output_tokens_per_sec counts re-tokenised text; scaled to generated tokens where "
            "the configuration says how many were forced",
        },
        "InferenceX": {
            "ttft": "*_ttft, in seconds; vllm bench serve underneath, closed loop",
            "tpot": "*_tpot, in seconds; *_intvty is 1 / tpot and is not read",
            "itl": "*_itl, in seconds",
            "e2e": "*_e2el, in seconds",
            "total_tokens_per_s": "tput_per_gpu times the number of GPUs",
        },
        "LLMServingSim bench": {
            "ttft": "first_token_ts − queued_ts, on the engine's own clock: no network, no tokenisation",
            "tpot": "(last_token_ts − first_token_ts) / (output_toks − 1)",
            "e2e": "last_token_ts − queued_ts",
        },
        "DistServe profile": {
            "prefill": "a + b·Σ tokens + c·Σ tokens², ms: a published fit, not a measurement",
            "decode_step": "a + b·Σ context + c·batch, ms: a published fit",
        },
        "splitwise perf model": {
            "prefill": "prompt_time of the whole static batch",
            "decode_step": "token_time; e2e_time contradicts it in a quarter of the rows and is not read",
        },
    }
)


def to_ms(value: float, unit: str, *, where: str) -> float:
    """`value` in milliseconds; raises InputError for a unit that is not a time."""
    if unit not in _MS_PER:
        raise InputError(f"{where}: unit {unit!r} is not one of {', '.join(_MS_PER)}")
    return value * _MS_PER[unit]


def tpot_from_e2e(e2e: float, ttft: float, osl: float) -> float:
    """TPOT in the unit of `e2e`: (e2e − ttft) / (osl − 1). Raises InputError where osl ≤ 1 or e2e < ttft."""
    if not osl > 1:
        raise InputError(f"TPOT needs more than one output token, got {osl:g}")
    if e2e < ttft:
        raise InputError(f"E2E {e2e:g} is shorter than TTFT {ttft:g}; are both in the same unit?")
    return (e2e - ttft) / (osl - 1)


def e2e_from_tpot(tpot: float, ttft: float, osl: float) -> float:
    """E2E = ttft + tpot · (osl − 1): the inverse of `tpot_from_e2e`."""
    return ttft + tpot * (osl - 1)


def tpot_without_ttft(time_per_token: float, ttft: float, osl: float) -> float:
    """Canonical TPOT from guidellm's (last − start) / tokens: (time_per_token · osl − ttft) / (osl − 1)."""
    return tpot_from_e2e(time_per_token * osl, ttft, osl)


def time_per_token_with_ttft(tpot: float, ttft: float, osl: float) -> float:
    """guidellm's time per output token: the inverse of `tpot_without_ttft`."""
    return e2e_from_tpot(tpot, ttft, osl) / osl


# Below: no GPU server answers so fast, so the number is in seconds. Above: eleven days, so it is in µs or ns.
_FLOOR_MS = {"ttft": 1.0, "tpot": 0.2, "e2e": 1.0, "prefill": 1.0, "decode_step": 0.2}
_CEILING_MS = 1e9
_STATISTICS = ("mean", "p50")


def check_plausible(
    measured: Mapping[str, float], osl: float | None, *, where: Path | str, requests: int | None = None
) -> None:
    """Raises InputError, naming the metric, where a latency cannot be in milliseconds or the means contradict.

    The identity e2e = ttft + tpot · (osl − 1) holds for every request; over means it is off by the correlation of tpot
    with length, which stays far below the factor of two that is refused here. By Little's law rate · e2e requests are
    in flight, never more than the run's `requests`.
    """
    for name, value in measured.items():
        kind, _, statistic = name.removesuffix("_ms").rpartition("_")
        if not name.endswith("_ms") or statistic not in _STATISTICS or kind not in _FLOOR_MS:
            continue
        if not _FLOOR_MS[kind] <= value <= _CEILING_MS:
            unit = "seconds" if value < _FLOOR_MS[kind] else "nanoseconds"
            raise InputError(f"{where}: {name} = {value:g} ms is not plausible; the file looks to be in {unit}")
    in_flight = measured.get("requests_per_s", 0.0) * measured.get("e2e_mean_ms", 0.0) / 1e3
    if requests and in_flight > 1.5 * requests:
        raise InputError(
            f"{where}: requests_per_s · e2e_mean_ms makes {in_flight:.0f} requests in flight, but there were {requests}"
            "; is the latency in another unit?"
        )
    if osl and osl > 1 and all(f"{kind}_mean_ms" in measured for kind in ("ttft", "tpot", "e2e")):
        ttft, tpot, e2e = (measured[f"{kind}_mean_ms"] for kind in ("ttft", "tpot", "e2e"))
        expected = e2e_from_tpot(tpot, ttft, osl)
        if not math.isclose(expected, e2e, rel_tol=0.5):
            raise InputError(
                f"{where}: e2e_mean_ms = {e2e:g}, but ttft + tpot · (osl − 1) = {expected:g} with osl {osl:g}; "
                "are all latencies in the same unit?"
            )
