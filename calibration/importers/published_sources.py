"""How the sources of the generic table measured: what their rows leave out and their repositories tell.

Read in the sources' own documents and recipes; where something is inferred, the note says so.

- AIConfigurator's silicon sample is a closed loop (`silicon_concurrency`), of two origins. Rows without an engine
  version come from InferenceX (October 2025): Llama-3.3-70B-Instruct-FP8 on vLLM 0.10.2, no prefix caching, async
  scheduling, 8,192 batched tokens, max-num-seqs = concurrency, 10 prompts per slot without warm-up, lengths uniform
  in [0.8·L, L]. The statistic is not stated. TTFT = prefill · (1 + 0.05 · concurrency) at every TP and both prompt
  lengths is the mean of a run whose first wave, a tenth of all requests, arrives at once; a median would not grow.
  On H100 KV is 16-bit: at TP 2 the rows at 64 slots hold 230,000 tokens, half of what FP8 would; the recipes for H200
  and B200 ask for FP8. Their TensorRT-LLM is 1.1, KV in FP8, no block reuse, a token streamed in every tenth step.
- Other rows come from NVIDIA's own sweeps with fixed lengths; their TTFT has the same signature of a first wave.
- In the TensorRT-LLM rows of that sample TTFT also grows with the output length: prefill + E2E / concurrency for
  concurrency 8 to 32 at every TP (slope 0.8 to 1.2). One request of the loop was always waiting for a slot: the batch
  limit equals the concurrency, and one slot of it is not usable.
- TensorRT-LLM's throughput tables are offline: `trtllm-bench throughput`, fixed lengths, output tokens per second, KV
  in FP8 with FP8 weights, kv_cache_free_gpu_mem_fraction 0.95 in most cases. Online serving (0.14): 500 requests,
  BF16, lengths are averages of an unnamed data set, latencies rounded to a millisecond, request rates to an integer
  (the token rates are finer: total / (input + output) gives the rate to three digits).
- SGLang rows of the sample lie on a frontier of TPOT near 30 ms. At TP 4 and 8 with 512 in flight TTFT grows to
  seconds and the token rate stays near 20,000 per second whatever the TP: a limit of host or client, not of the GPUs.
- KubeCon NA 2025 (inference-perf): see calibration/importers/inference_perf.py; server flags from the manifests.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from calibration.points import Arrivals

# Requests per run by (input, output) length, TensorRT-LLM perf-overview of 0.17 and of 1.1.
TRTLLM_REQUESTS: Mapping[tuple[float, float], int] = {
    (128, 128): 30000, (128, 2048): 3000, (128, 4096): 1500, (2048, 128): 3000, (2048, 2048): 1500,
    (5000, 500): 1500, (1000, 1000): 3000, (500, 2000): 3000, (20000, 2000): 1000,
    (1024, 1024): 3000, (8192, 1024): 1500, (1024, 8192): 1500, (32768, 1024): 1000, (1024, 32768): 1000,
}  # fmt: skip

AVERAGES = "lengths are averages of a data set"


@dataclass(frozen=True)
class Facts:
    """What is known of a source beside its rows.

    `prefix` is how its name starts (the longest match wins, then the first), `version` narrows it to rows of that
    engine version, `engine` to that engine, `gpu` to that GPU. `statistic` is what a bare "ttft" means. `forced_osl`
    is the true output length where the row's counts re-tokenised text.
    """

    prefix: str
    version: str | None = None
    engine: str | None = None
    gpu: str | None = None
    statistic: Literal["mean", "p50"] = "mean"
    engine_version: str | None = None
    kv_dtype: Literal["bf16", "fp8", "as weights"] | None = None
    jittered: bool = False
    forced_osl: float | None = None
    requests: int | None = None
    requests_per_slot: int | None = None
    requests_by_length: bool = False
    arrivals: Arrivals = "unknown"
    max_concurrency: int | None = None
    prefix_tokens: float | None = None
    distinct_prompts: int | None = None
    slots_are_concurrency: bool = False
    flags: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _kubecon(variant: str, *notes: str, **flags: object) -> Facts:
    return Facts(
        prefix=f"inference-perf/demos/kubecon-na-2025/{variant}",
        kv_dtype="bf16",
        forced_osl=64.0,
        arrivals="poisson",
        max_concurrency=440,
        prefix_tokens=128,
        distinct_prompts=100,
        flags={"gpu_memory_utilization": 0.9, "max_model_len": 512, "max_num_seqs": 128} | flags,
        notes=("60 s per rate, at most 440 in flight at the client, 100 distinct prompts in rotation", *notes),
    )


def _inference_x(note: str, **facts: Any) -> Facts:
    """Rows of AIConfigurator's sample without an engine version."""
    return Facts("AIC/silicon_sample", version="n/a", jittered=True, requests_per_slot=10, notes=(note,), **facts)


_VLLM_RECIPE = {"prefix_caching": False, "async_scheduling": True, "max_num_batched_tokens": 8192,
                "gpu_memory_utilization": 0.9, "warmup": False}  # fmt: skip
_OFFLINE = {"kv_cache_free_gpu_mem_fraction": 0.95}
_LIMITS = {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
_BOTH_ON = {"prefix_caching": True, "chunked_prefill": True}
_BOTH_OFF = {"prefix_caching": False, "chunked_prefill": False}

FACTS: tuple[Facts, ...] = (
    _inference_x(
        "from InferenceX; mean over all requests and 16-bit KV inferred, version and flags from its recipes",
        engine="vllm", gpu="h100", engine_version="0.10.2", kv_dtype="bf16", slots_are_concurrency=True,
        flags=_VLLM_RECIPE,
    ),
    _inference_x(
        "from InferenceX; mean over all requests inferred, version, KV and flags from its recipes",
        engine="vllm", engine_version="0.10.2", kv_dtype="fp8", slots_are_concurrency=True, flags=_VLLM_RECIPE,
    ),
    _inference_x(
        "from InferenceX; mean over all requests inferred, version, KV and flags from its recipes",
        engine="trtllm", engine_version="1.1", kv_dtype="fp8", flags={"prefix_caching": False, "stream_interval": 10},
    ),
    _inference_x("from InferenceX; mean over all requests inferred"),
    Facts(
        "AIC/silicon_sample",
        engine="trtllm",
        kv_dtype="as weights",
        slots_are_concurrency=True,
        notes=(
            "average of a sweep; statistic not stated",
            "TTFT contains about E2E / concurrency: one request of the loop waits for a slot",
        ),
    ),
    Facts("AIC/silicon_sample", notes=("average of a sweep; statistic not stated",)),
    Facts(
        "TRT-LLM/perf-overview@258c7540#online-serving",
        kv_dtype="bf16",
        requests=500,
        notes=("Triton backend; latencies rounded to 1 ms, rates to 1 request/s", AVERAGES),
    ),
    Facts("TRT-LLM/perf-overview@258c7540#throughput", kv_dtype="as weights", requests_by_length=True, flags=_OFFLINE),
    Facts("TRT-LLM/developer-guide", kv_dtype="as weights", requests_by_length=True, flags=_OFFLINE),
    Facts("TRT-LLM/", kv_dtype="as weights", flags=_OFFLINE),
    _kubecon("vllm", **_BOTH_OFF),
    _kubecon("vllm+batch_size", **{**_BOTH_OFF, "max_num_seqs": 192}),
    _kubecon("vllm+chunking_and_prefix_caching", "whole prompts are found again in the prefix cache", **_BOTH_ON),
    _kubecon("vllm+quantization", "weights quantised by bitsandbytes, not FP8", **_BOTH_ON),
    _kubecon("vllm+eagle", "EAGLE speculative decoding; vLLM 0.11 defaults", **_BOTH_ON, speculative=True),
    _kubecon("vllm+v0_engine", "vLLM 0.9.0, V0 engine", **_BOTH_OFF),
    Facts("LLMServingSim/bench/examples", kv_dtype="bf16", requests=300, flags=_LIMITS,
          notes=("ShareGPT lengths; limits as in its RTX 4090 run",)),
    Facts("LLMServingSim/bench/examples/RTX4090", kv_dtype="bf16", requests=300,
          flags={"num_gpu_blocks": 2588, "block_size": 16} | _LIMITS,
          notes=("ShareGPT lengths; far beyond capacity: TTFT is queueing",)),
    Facts("splitwise-sim", kv_dtype="bf16", notes=("static batch, modified vLLM of 2023",)),
    Facts("DistServe", kv_dtype="bf16", notes=("value of a published fit, not a measurement",)),
    Facts("ArcticInference", notes=("GPU not stated; continuous-integration run",)),
    Facts("Snowflake vLLM-fork", notes=("GPU assumed by the table; benchmark_throughput.py, chunks of 2,048 tokens",)),
)  # fmt: skip


def facts_of(source: str, engine: str, version: str, gpu: str | None) -> Facts:
    """The facts of the longest prefix that fits, the more specific entry first; empty facts for an unknown source."""
    fitting = [
        facts
        for facts in FACTS
        if source.startswith(facts.prefix)
        and facts.version in (None, version)
        and facts.engine in (None, engine)
        and facts.gpu in (None, gpu)
    ]
    return max(fitting, key=lambda facts: len(facts.prefix), default=Facts(""))
