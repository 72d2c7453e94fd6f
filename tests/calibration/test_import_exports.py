"""The shared result files of other tools: counts, and values by arithmetic of their own."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from calibration.importers.aiperf import read_aiperf, read_aiperf_requests
from calibration.importers.detect import detect, read_result
from calibration.importers.distserve import decode_step_ms, prefill_ms, read_distserve
from calibration.importers.genai_perf import read_genai_perf, read_genai_perf_requests
from calibration.importers.guidellm import read_guidellm
from calibration.importers.inference_perf import read_inference_perf
from calibration.importers.llmservingsim import read_llmservingsim, workload_of
from calibration.importers.reading import read_records
from calibration.importers.splitwise import SETTING, read_splitwise
from tests.data import shared

KUBECON = ("kubecon-na-2025_vllm", "kubecon-na-2025_vllm+chunking_and_prefix_caching")


@pytest.mark.parametrize(
    ("path", "tool"),
    [
        ("formats/guidellm/guidellm_report_v2.json", "guidellm"),
        ("formats/aiperf/profile_export.documented_example.jsonl", "aiperf_requests"),
        ("formats/genai_perf/profile_export.fixture.json", "genai_perf_requests"),
        ("formats/genai_perf/profile_export_genai_perf.fixture.json", "genai_perf"),
        (f"serving/inference_perf/{KUBECON[0]}", "inference_perf"),
        (f"serving/inference_perf/{KUBECON[0]}/stage_3_lifecycle_metrics.json", "inference_perf"),
        ("serving/llmservingsim_RTX4090_Llama-3.1-8B", "llmservingsim"),
        ("serving/distserve/profiler-a100-80g.vllm.json", "distserve"),
        ("serving/splitwise_perf_model.csv", "splitwise"),
        ("serving/published_serving.csv", "published"),
    ],
)
def test_the_tool_is_told_from_the_content(path: str, tool: str) -> None:
    assert detect(shared(path)) == tool


@pytest.mark.parametrize("run", KUBECON)
def test_kubecon_stages(run: str) -> None:
    points = read_inference_perf(shared(f"serving/inference_perf/{run}"))
    assert len(points) == 7
    for point in points:
        told = json.loads(Path(point.source).read_text())["successes"]
        e2e, ttft = (told["latency"][name]["mean"] for name in ("request_latency", "time_to_first_token"))
        # config.yaml forces 64 tokens; the text of the answers tokenises to fewer.
        assert point.measured["tpot_mean_ms"] == pytest.approx((e2e - ttft) / 63 * 1e3)
        assert point.measured["ttft_p99_ms"] == pytest.approx(told["latency"]["time_to_first_token"]["p99"] * 1e3)
        assert point.measured["output_tokens_per_s"] == pytest.approx(64 * point.measured["requests_per_s"], rel=1e-3)
        own = told["latency"]["time_per_output_token"]["mean"] * 1e3
        assert own < 0.5 * point.measured["tpot_mean_ms"]
        assert point.distinct_prompts == 100
        assert point.load is not None
        assert point.load.max_concurrency == 440


@pytest.mark.parametrize("run", KUBECON)
def test_overloaded_kubecon_stages_are_a_closed_loop(run: str) -> None:
    """Little's law: beyond capacity rate · E2E is the client's cap, not what an open loop would pile up."""
    late = [p for p in read_inference_perf(shared(f"serving/inference_perf/{run}")) if "behind" in " ".join(p.notes)]
    assert late
    for point in late:
        in_flight = point.measured["requests_per_s"] * point.measured["e2e_mean_ms"] / 1e3
        assert 0.85 * 440 < in_flight <= 440


def test_without_its_configuration_the_text_is_counted(tmp_path: Path) -> None:
    stage = shared(f"serving/inference_perf/{KUBECON[0]}/stage_2_lifecycle_metrics.json")
    copy = tmp_path / "a" / stage.name
    copy.parent.mkdir()
    copy.write_bytes(stage.read_bytes())
    (point,) = read_inference_perf(copy)
    told = json.loads(stage.read_text())["successes"]
    osl = told["output_len"]["mean"]
    assert point.osl == osl
    assert point.measured["tpot_mean_ms"] == pytest.approx(
        1e3 * (told["latency"]["request_latency"]["mean"] - told["latency"]["time_to_first_token"]["mean"]) / (osl - 1)
    )
    assert point.load is not None
    assert point.load.max_concurrency is None


def test_guidellm_tpot_is_its_inter_token_latency() -> None:
    points = read_guidellm(shared("formats/guidellm/guidellm_report_v2.json"))
    assert [(p.load.kind, p.load.value, p.load.arrivals) for p in points if p.load] == [
        ("qps", 2.0, "constant"),
        ("qps", 4.0, "constant"),
    ]
    first = points[0]
    assert first.measured["tpot_mean_ms"] == pytest.approx((2.4421364068984985 * 8 - 11.481165885925293) / 7)
    assert first.measured["e2e_mean_ms"] == pytest.approx(19.78909969329834)
    assert (first.isl, first.osl, first.requests, first.model) == (71.5, 8.0, 2, None)


def test_aiperf_requests() -> None:
    (point,) = read_aiperf_requests(shared("formats/aiperf/profile_export.documented_example.jsonl"))
    assert point.requests == 1
    assert point.notes == ("1 requests failed or were cancelled",)
    assert point.measured["tpot_mean_ms"] == pytest.approx((297.525228 - 255.886568) / 8)
    assert point.measured["itl_mean_ms"] == pytest.approx(5.2048325, rel=0.01)
    assert "load" in point.missing


def test_an_aiperf_request_that_failed_midway_does_not_count(tmp_path: Path) -> None:
    good = shared("formats/aiperf/profile_export.documented_example.jsonl").read_text().splitlines()[0]
    failed = good.replace('"error": null', '"error": {"code": 500}').replace("297.52522799999997", "9000.0")
    path = tmp_path / "profile_export.jsonl"
    path.write_text(f"{good}\n{failed}\n")
    (point,) = read_aiperf_requests(path)
    assert point.measured["e2e_mean_ms"] == pytest.approx(297.525228)


def test_aiperf_statistics(tmp_path: Path) -> None:
    metric = {"unit": "ms", "avg": 50.0, "p50": 48.0, "p90": 60.0, "p95": 65.0, "p99": 80.0, "min": 1, "max": 99}
    export = {
        "request_throughput": {"unit": "requests/sec", "avg": 12.0},
        "output_token_throughput": {"unit": "tokens/sec", "avg": 1200.0},
        "request_count": {"unit": "requests", "avg": 320.0},
        "time_to_first_token": metric,
        "inter_token_latency": {"unit": "ms", "avg": 10.0},
        "request_latency": {"unit": "sec", "avg": 1.04},
        "input_sequence_length": {"unit": "tokens", "avg": 1024.0},
        "output_sequence_length": {"unit": "tokens", "avg": 100.0},
        "input_config": {"endpoint": {"model_names": ["Qwen/Qwen2.5-7B-Instruct"]}, "loadgen": {"concurrency": 16}},
    }
    (tmp_path / "profile_export_aiperf.json").write_text(json.dumps(export))
    assert detect(tmp_path) == "aiperf"
    (point,) = read_result(tmp_path, gpu="h100", tp=1)
    (same,) = read_aiperf(tmp_path / "profile_export_aiperf.json")
    assert point.measured == same.measured
    assert (point.model, point.requests, point.measured["e2e_mean_ms"]) == ("qwen2.5-7b", 320, 1040.0)
    assert point.measured["ttft_p95_ms"] == 65.0
    assert point.load is not None
    assert (point.load.kind, point.load.value) == ("concurrency", 16)


def test_genai_perf() -> None:
    (point,) = read_genai_perf(shared("formats/genai_perf/profile_export_genai_perf.fixture.json"))
    assert (point.isl, point.osl, point.measured["requests_per_s"]) == (550, 16, 15.0)
    assert point.load is not None
    assert point.load.value == 1
    (raw,) = read_genai_perf_requests(shared("formats/genai_perf/profile_export.fixture.json"))
    assert raw.measured["ttft_mean_ms"] == pytest.approx((1745526100365982228 - 1745526100322752068) / 1e6)
    assert raw.osl is None


def test_llmservingsim_requests() -> None:
    folder = shared("serving/llmservingsim_RTX4090_Llama-3.1-8B")
    (point,) = read_llmservingsim(folder)
    assert (point.gpu, point.model, point.engine_version, point.requests) == ("rtx-4090", "llama-3.1-8b", "0.19.0", 300)
    assert point.flags["num_gpu_blocks"] == 2588
    assert point.missing == ()
    # The authors' own summary.txt.
    summary = {"ttft_mean_ms": 65456.6, "ttft_p90_ms": 121121.7, "tpot_mean_ms": 32.4, "e2e_p50_ms": 83413.3}
    for name, told in summary.items():
        assert point.measured[name] == pytest.approx(told, rel=2e-3)


def test_llmservingsim_arrivals_can_be_replayed() -> None:
    folder = shared("serving/llmservingsim_RTX4090_Llama-3.1-8B")
    workload = workload_of(folder)
    records = read_records(folder / "requests.jsonl")
    assert len(workload) == len(records) == 300
    assert int(workload.output_tokens.sum()) == sum(int(r.number("output_toks")) for r in records)
    gaps = np.diff(sorted(r.number("arrival_time") for r in records))
    assert np.diff(workload.arrival_ns) == pytest.approx(gaps * 1e9, abs=1e3)


@pytest.mark.parametrize("engine", ["vllm", "distserve"])
def test_distserve_fits_are_evaluated_where_the_table_does(engine: str) -> None:
    path = shared(f"serving/distserve/profiler-a100-80g.{engine}.json")
    points = read_distserve(path)
    assert len(points) == 42
    assert {(p.gpu, p.engine) for p in points} == {("a100-80", engine)}
    fit = next(iter(read_records(path))).part("facebook/opt-13b").part("1")
    a, b, c = fit.get("prefill")
    assert prefill_ms(fit, (256, 512)) == pytest.approx(a + b * 768 + c * (256**2 + 512**2))
    assert decode_step_ms(fit, 128, 512) != pytest.approx(decode_step_ms(fit, 94, 512))
    with shared("serving/published_serving.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if f"profiler-a100-80g.{engine}.json" in row["source"]]
    told = sorted(float(row["value"]) for row in rows)
    assert sorted(next(iter(p.measured.values())) for p in points) == pytest.approx(told, abs=6e-4)


def test_splitwise_settings_are_medians_of_their_runs() -> None:
    path = shared("serving/splitwise_perf_model.csv")
    points = read_splitwise(path)
    assert len(points) == 228
    assert sum(p.requests or 0 for p in points) == 1260
    with path.open() as lines:
        setting = ("llama2-70b", "h100-80gb", "8", "512", "64", "128")
        rows = [row for row in csv.DictReader(lines) if tuple(row[name] for name in SETTING) == setting]
    times = [float(row["token_time"]) for row in rows]
    found = [
        p for p in points
        if (p.gpu, p.tp, p.model, p.isl, p.osl) == ("h100", 8, "llama-2-70b", 512, 128)
        and p.load and p.load.value == 64 and not p.flags
    ]  # fmt: skip
    assert [p.measured["decode_step_p50_ms"] for p in found] == [pytest.approx(statistics.median(times))]
    assert {p.model for p in points} == {"llama-2-70b", "bloom"}
