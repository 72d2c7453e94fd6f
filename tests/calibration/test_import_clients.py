"""vllm bench serve, SGLang bench_serving, InferenceX: fixtures in the fields those tools document."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.importers.detect import detect, read_result
from calibration.importers.inferencex import read_inferencex
from calibration.importers.reading import Record
from calibration.importers.sglang_bench import read_sglang_bench
from calibration.importers.vllm_bench import _point as vllm_point
from calibration.importers.vllm_bench import read_vllm_bench
from sim.errors import InputError

Run = dict[str, Any]


def vllm_run(**changes: Any) -> Run:
    run = {
        "date": "20251101-101112", "endpoint_type": "vllm", "backend": "vllm", "label": None,
        "model_id": "meta-llama/Llama-3.1-8B-Instruct", "tokenizer_id": "meta-llama/Llama-3.1-8B-Instruct",
        "num_prompts": 200, "request_rate": 1.0, "burstiness": 1.0, "max_concurrency": None,
        "duration": 204.45, "completed": 199, "failed": 1, "total_input_tokens": 203_776, "total_output_tokens": 25_472,
        "request_throughput": 199 / 204.45, "request_goodput": None, "output_throughput": 25_472 / 204.45,
        "total_token_throughput": 229_248 / 204.45, "max_output_tokens_per_s": 300.0, "max_concurrent_requests": 9,
        "mean_ttft_ms": 97.51, "median_ttft_ms": 95.0, "std_ttft_ms": 9.0, "p99_ttft_ms": 130.2,
        "mean_tpot_ms": 34.43, "median_tpot_ms": 34.2, "std_tpot_ms": 1.0, "p99_tpot_ms": 37.0,
        "mean_itl_ms": 34.40, "median_itl_ms": 34.0, "std_itl_ms": 2.0, "p99_itl_ms": 38.25,
    }  # fmt: skip
    return run | changes


def detailed(ttfts: list[float], itls: list[list[float]], prompts: list[int]) -> Run:
    """A run whose aggregates are computed from its lists the way the tool does."""
    outputs = [len(gaps) + 1 for gaps in itls]
    latencies = [t + sum(gaps) for t, gaps in zip(ttfts, itls)]
    tpots = [(e - t) / (o - 1) * 1e3 for e, t, o in zip(latencies, ttfts, outputs)]
    duration = max(latencies)
    n = len(ttfts)
    return vllm_run(
        completed=n, failed=0, duration=duration, request_throughput=n / duration, request_rate="inf",
        total_input_tokens=sum(prompts), total_output_tokens=sum(outputs), output_throughput=sum(outputs) / duration,
        total_token_throughput=(sum(prompts) + sum(outputs)) / duration,
        mean_ttft_ms=float(np.mean(ttfts)) * 1e3, median_ttft_ms=float(np.median(ttfts)) * 1e3,
        mean_tpot_ms=float(np.mean(tpots)), median_tpot_ms=float(np.median(tpots)),
        input_lens=prompts, output_lens=outputs, ttfts=ttfts, itls=itls, errors=[""] * n, generated_texts=["x"] * n,
    )  # fmt: skip


def written(folder: Path, run: Any, name: str = "run.json") -> Path:
    path = folder / name
    path.write_text(run if isinstance(run, str) else json.dumps(run), encoding="utf-8")
    return path


def test_a_vllm_run(tmp_path: Path) -> None:
    path = written(tmp_path, vllm_run())
    assert detect(path) == "vllm_bench"
    (point,) = read_result(path, gpu="NVIDIA H100 80GB HBM3", tp=1, engine="vllm-0.11", weights_dtype="bf16")
    assert (point.gpu, point.model, point.n_gpus, point.requests) == ("h100", "llama-3.1-8b", 1, 199)
    assert (point.engine, point.engine_version) == ("vllm", "0.11")
    assert (point.isl, point.osl) == (1024.0, 128.0)
    assert point.load is not None
    assert (point.load.kind, point.load.value, point.load.arrivals) == ("qps", 1.0, "poisson")
    ttft = [point.measured[f"ttft_{statistic}_ms"] for statistic in ("mean", "p50", "p99")]
    assert ttft == [97.51, 95.0, 130.2]
    assert point.measured["total_tokens_per_s"] == pytest.approx((203_776 + 25_472) / 204.45)
    assert point.notes == ("1 requests failed",)
    assert point.missing == ("kv_dtype", "flags")


@pytest.mark.parametrize(
    ("rate", "cap", "load"),
    [("inf", 16, ("concurrency", 16)), ("inf", None, ("offline", float("inf"))), (8.0, 32, ("qps", 8.0))],
)
def test_how_a_vllm_run_was_loaded(tmp_path: Path, rate: Any, cap: Any, load: tuple[str, float]) -> None:
    (point,) = read_vllm_bench(written(tmp_path, vllm_run(request_rate=rate, max_concurrency=cap)))
    assert point.load is not None
    assert (point.load.kind, point.load.value) == load
    assert point.load.max_concurrency == (cap if load[0] == "qps" else None)


def test_appended_runs_are_one_point_each(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(vllm_run(request_rate=float(rate))) for rate in (1, 2, 4))
    points = read_result(written(tmp_path, lines))
    assert [p.load.value for p in points if p.load] == [1.0, 2.0, 4.0]
    assert [p.source.rsplit(":", 1)[1] for p in points] == ["1", "2", "3"]


seconds = st.floats(0.005, 2.0)


@given(
    st.lists(
        st.tuples(seconds, st.lists(st.floats(0.003, 0.2), min_size=1, max_size=20), st.integers(1, 4000)),
        min_size=1,
        max_size=12,
    )
)
def test_detail_and_aggregate_are_the_same_measurement(requests: list[tuple[float, list[float], int]]) -> None:
    ttfts, itls, prompts = ([r[i] for r in requests] for i in range(3))
    run = detailed(ttfts, itls, prompts)  # type: ignore[arg-type]
    whole = vllm_point(Record(run, "x"))
    lists = {name: run[name] for name in ("input_lens", "output_lens", "ttfts", "itls")}
    bare = {key: value for key, value in run.items() if key not in (*lists, "errors")}
    without = vllm_point(Record(bare, "x"))
    for name, value in without.measured.items():
        assert whole.measured[name] == pytest.approx(value, rel=1e-9)
    assert whole.measured["e2e_mean_ms"] == pytest.approx(1e3 * np.mean([t + sum(g) for t, g in zip(ttfts, itls)]))
    assert whole.isl_range == (min(prompts), max(prompts))  # type: ignore[type-var]
    assert "e2e_mean_ms" not in without.measured


def test_failed_requests_of_the_lists_do_not_count(tmp_path: Path) -> None:
    run = detailed([0.05, 0.07], [[0.01] * 9, [0.01] * 9], [100, 100])
    run["failed"] = 1
    for name, value in {"ttfts": 0.0, "itls": [], "input_lens": 9999, "output_lens": 0, "errors": "timeout"}.items():
        run[name].append(value)
    (point,) = read_vllm_bench(written(tmp_path, run))
    assert point.isl_range == (100, 100)
    assert point.measured["ttft_mean_ms"] == pytest.approx(60.0)


def test_lists_that_contradict_the_aggregate(tmp_path: Path) -> None:
    run = detailed([0.05, 0.07], [[0.01] * 9, [0.01] * 9], [100, 100]) | {"mean_ttft_ms": 75.0}
    with pytest.raises(InputError, match=r"ttft_mean_ms = 75, but the per-request lists give 60"):
        read_vllm_bench(written(tmp_path, run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completed": 0}, "'completed' is 0"),
        ({"total_input_tokens": None}, "'total_input_tokens' is missing"),
        ({"mean_ttft_ms": None, "median_ttft_ms": None}, "'mean_ttft_ms' is missing"),
        ({"mean_ttft_ms": 0.09751}, "ttft_mean_ms = 0.09751 ms is not plausible; the file looks to be in seconds"),
        ({"duration": 204450.0}, "is the duration in seconds"),
        ({"request_rate": "fast"}, "'request_rate' = 'fast'"),
        ({"ramp_up_strategy": "linear"}, "ramp"),
        ({"mean_tpot_ms": "34"}, "'mean_tpot_ms' = '34' is not a finite number"),
    ],
)
def test_vllm_runs_that_cannot_be_used(tmp_path: Path, changes: Run, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_vllm_bench(written(tmp_path, vllm_run(**changes)))
    assert "run.json" in str(raised.value)
    assert "\n" not in str(raised.value)


def sglang_run(**changes: Any) -> Run:
    run = {
        "backend": "sglang", "dataset_name": "random", "request_rate": float("inf"), "max_concurrency": 16,
        "sharegpt_output_len": None, "random_input_len": 1024, "random_output_len": 256, "random_range_ratio": 1.0,
        "duration": 20.0, "completed": 160, "total_input_tokens": 163_840, "total_output_tokens": 40_960,
        "total_output_tokens_retokenized": 40_871, "request_throughput": 8.0, "input_throughput": 8192.0,
        "output_throughput": 2048.0, "mean_e2e_latency_ms": 1994.0, "median_e2e_latency_ms": 1990.0,
        "std_e2e_latency_ms": 30.0, "p99_e2e_latency_ms": 2100.0, "mean_ttft_ms": 107.0, "median_ttft_ms": 96.0,
        "std_ttft_ms": 30.0, "p99_ttft_ms": 222.0, "mean_tpot_ms": 7.4, "median_tpot_ms": 7.39, "std_tpot_ms": 0.2,
        "p99_tpot_ms": 7.9, "mean_itl_ms": 7.4, "median_itl_ms": 7.2, "std_itl_ms": 3.0, "p95_itl_ms": 8.0,
        "p99_itl_ms": 20.0, "concurrency": 15.95, "accept_length": None,
    }  # fmt: skip
    return run | changes


def test_an_sglang_run(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(sglang_run()) + "\n" + json.dumps(sglang_run(max_concurrency=32)) + "\n")
    assert detect(path) == "sglang_bench"
    first, second = read_sglang_bench(path)
    assert (first.isl, first.osl, first.measured["output_tokens_per_s"]) == (1024.0, 256.0, 2048.0)
    assert first.measured["total_tokens_per_s"] == pytest.approx(first.measured["output_tokens_per_s"] * 1280 / 256)
    assert first.measured["itl_p95_ms"] == 8.0
    assert [p.load.value for p in (first, second) if p.load] == [16, 32]
    # Little's law holds in a closed loop: rate times time in the system is the number in flight.
    assert first.measured["requests_per_s"] * first.measured["e2e_mean_ms"] / 1e3 == pytest.approx(16, rel=0.01)


def test_sglang_says_what_its_server_says(tmp_path: Path) -> None:
    server = {"tp_size": 4, "model_path": "meta-llama/Llama-3.1-70B-Instruct", "max_running_requests": 512}
    (point,) = read_sglang_bench(written(tmp_path, sglang_run(server_info=server, accept_length=2.5)))
    assert (point.tp, point.n_gpus, point.model) == (4, 4, "llama-3.1-70b")
    assert point.flags == {"max_running_requests": 512}
    assert "speculative" in point.notes[0]


INFERENCEX_RAW = {
    "date": "20260213-135636", "model_id": "meta-llama/Llama-3.1-70B", "num_prompts": 160, "request_rate": "inf",
    "burstiness": 1.0, "max_concurrency": 16, "duration": 214.6, "completed": 160, "total_input_tokens": 163_840,
    "total_output_tokens": 20_480, "request_throughput": 0.7454, "output_throughput": 95.4,
    "median_ttft": 3.138, "p99_ttft": 16.56, "median_e2el": 21.4, "p99_e2el": 30.1, "median_tpot": 0.141,
}  # fmt: skip
INFERENCEX_ROW = {
    "hw": "h200-nv", "conc": 8, "model": "nvidia/Llama-3.3-70B-Instruct-FP8", "framework": "vllm", "precision": "fp8",
    "spec_decoding": "none", "disagg": False, "is_multinode": False, "isl": 1024, "osl": 1024, "tp": 4, "ep": 1,
    "tput_per_gpu": 250.0, "output_tput_per_gpu": 124.0, "mean_ttft": 0.11, "median_ttft": 0.09, "median_tpot": 0.0123,
    "median_intvty": 81.3, "mean_tpot": 0.0125,
}  # fmt: skip


def test_inferencex_is_in_seconds(tmp_path: Path) -> None:
    path = written(tmp_path, INFERENCEX_RAW)
    assert detect(path) == "inferencex"
    (point,) = read_inferencex(path)
    assert point.measured["ttft_p50_ms"] == pytest.approx(3138)
    assert point.measured["tpot_p50_ms"] == pytest.approx(141)
    assert (point.isl, point.osl, point.requests) == (1024.0, 128.0, 160)


def test_inferencex_rows_have_jittered_lengths(tmp_path: Path) -> None:
    path = written(tmp_path, [INFERENCEX_ROW, INFERENCEX_ROW | {"conc": 16}])
    assert detect(path) == "inferencex"
    first, second = read_inferencex(path)
    assert (first.gpu, first.model, first.tp, first.n_gpus) == ("h200", "llama-3.1-70b", 4, 4)
    assert first.isl == pytest.approx((0.8 * 1024 + 1024) / 2)
    assert first.isl_range == (819, 1024)
    assert first.measured["total_tokens_per_s"] == 1000.0
    assert [p.flags["max_num_seqs"] for p in (first, second)] == [8, 16]


def test_inferencex_in_milliseconds_is_refused(tmp_path: Path) -> None:
    run = INFERENCEX_RAW | {"median_ttft": 3138e6, "median_tpot": 141e6}
    with pytest.raises(InputError, match="not plausible"):
        read_inferencex(written(tmp_path, run))
