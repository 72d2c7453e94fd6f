"""The generic table of published measurements: every row is a point or an exclusion, and conversions are explicit."""

import csv
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from calibration.importers.inference_perf import read_inference_perf
from calibration.importers.names import dtype_or_none, engine_of, gpu_or_none, model_or_none
from calibration.importers.published import COLUMNS, Published, read_published
from calibration.importers.published_row import length_of, load_of, metric_of
from calibration.points import Point
from sim.errors import InputError
from tests.data import shared

CSV = "serving/published_serving.csv"


@cache
def table(path: Path) -> Published:
    return read_published(path)


def of(source: str, **fields: object) -> list[Point]:
    points = [p for p in table(shared(CSV)).points if p.source.startswith(source)]
    return [p for p in points if all(getattr(p, name) == value for name, value in fields.items())]


def test_every_row_is_a_point_or_an_exclusion() -> None:
    found = table(shared(CSV))
    with shared(CSV).open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 1242
    assert sum(len(p.measured) for p in found.points) + len(found.excluded) == len(rows)
    assert len({row.line for row in found.excluded}) == len(found.excluded) == 68
    for row in found.excluded:
        assert rows[row.line - 2]["source"] == row.source
        assert rows[row.line - 2]["metric"] == row.metric


def test_points_by_kind_of_load() -> None:
    kinds = Counter(p.load.kind for p in table(shared(CSV)).points if p.load)
    assert kinds == {"concurrency": 272, "static_batch": 160, "offline": 111, "qps": 45}


def test_rows_of_one_setting_are_one_point() -> None:
    rows = of("TRT-LLM/perf-overview@258c7540#online", tp=4, isl=467, osl=256)
    (point,) = [p for p in rows if p.load and p.load.value == 8]
    assert point.measured == {
        "requests_per_s": 7, "ttft_mean_ms": 92, "itl_mean_ms": 32,
        "total_tokens_per_s": 5256, "output_tokens_per_s": 1860,
    }  # fmt: skip
    assert (point.model, point.weights_dtype, point.kv_dtype, point.requests) == ("llama-3.1-70b", "bf16", "bf16", 500)


def test_the_kubecon_rows_agree_with_their_stage_files() -> None:
    """The table rounds lengths to a tenth; both count generated tokens after conversion."""
    rows = [p for p in of("inference-perf/") if p.source.endswith("/vllm")]
    stages = read_inference_perf(shared("serving/inference_perf/kubecon-na-2025_vllm"))
    for row, stage in zip(rows, stages, strict=True):
        assert row.osl == stage.osl == 64
        assert row.load is not None
        assert stage.load is not None
        assert row.load.value == pytest.approx(stage.load.value, abs=0.006)
        assert row.load.max_concurrency == stage.load.max_concurrency
        for name, value in row.measured.items():
            assert value == pytest.approx(stage.measured[name], rel=2e-3), name


def test_retokenised_counts_become_generated_tokens(tmp_path: Path) -> None:
    """Eight gaps of the text are 63 of the model; nine tokens are 64."""
    row = ROW.replace("x,", "inference-perf/demos/kubecon-na-2025/vllm,", 1).replace("128,128,conc", "204,9,qps")
    told = (("tpot_mean", 63, "ms"), ("output_throughput", 9, "tok/s"))
    lines = [row.format(metric=m, value=v, unit=u) for m, v, u in told]
    path = tmp_path / "table.csv"
    path.write_text(",".join(COLUMNS) + "\n" + "".join(lines))
    (point,) = read_published(path).points
    assert point.measured == pytest.approx({"tpot_mean_ms": 8, "output_tokens_per_s": 64})


def test_inferencex_rows_of_the_sample() -> None:
    rows = of("AIC/", engine="vllm")
    assert len(rows) == 45
    for p in rows:
        assert p.load is not None
        assert p.flags["max_num_seqs"] == p.load.value
        assert p.requests == 10 * p.load.value
        assert p.isl_range is not None
        assert p.isl == pytest.approx(sum(p.isl_range) / 2, abs=1)
        assert set(p.measured) == {"ttft_mean_ms", "tpot_mean_ms"}
    assert {p.isl for p in rows} == {921.6, 7372.8}


def test_the_first_wave_is_in_the_ttft_of_the_sample() -> None:
    """TTFT grows by about 5 % of a prefill per slot at every TP and length: half of a wave that is a tenth of all."""
    for tp, isl in ((4, 921.6), (4, 7372.8), (8, 921.6), (8, 7372.8)):
        rows = of("AIC/", engine="vllm", tp=tp, isl=isl, osl=921.6)
        ttft = {p.load.value: p.measured["ttft_mean_ms"] for p in rows if p.load}
        assert (ttft[64] - ttft[4]) / 60 == pytest.approx(0.04 * ttft[4], rel=0.35)


def test_ttft_of_the_trtllm_sample_contains_a_share_of_the_output() -> None:
    """The anomaly that the notes name: at 8 in flight, TTFT grows by about an eighth of the decode time."""
    rows = {p.osl: p.measured for p in of("AIC/", engine="trtllm", tp=1, isl=1024) if p.load and p.load.value == 8}
    decode = {osl: m["tpot_mean_ms"] * (osl - 1) for osl, m in rows.items() if osl}
    slope = (rows[512]["ttft_mean_ms"] - rows[128]["ttft_mean_ms"]) / (decode[512] - decode[128])
    assert slope == pytest.approx(1 / 8, rel=0.1)


def test_other_facts_of_sources() -> None:
    assert {p.requests for p in of("TRT-LLM/perf-overview@258c7540#throughput", isl=128, osl=128)} == {30000}
    assert {p.kv_dtype for p in of("TRT-LLM/perf-overview@258c7540#throughput", gpu="a100-80")} == {"bf16"}
    assert {p.kv_dtype for p in of("TRT-LLM/perf-overview@258c7540#throughput", gpu="h100")} == {"fp8"}
    assert [p.measured["output_tokens_per_s"] for p in of("TRT-LLM/developer", isl=1000)] == [2 * 2209]
    swift = [p for p in of("ArcticInference#217") if p.flags.get("strategy") == "swift_kv"]
    assert {p.model for p in swift} == {"llama-3.1-8b"}
    assert {p.requests for p in swift} == {2000, None}
    assert all("gpu" in p.missing for p in swift)


@pytest.mark.parametrize(
    ("cell", "length"),
    [("128", 128), ("63.1", 63.1), ("avg 467", 467), ("ShareGPT avg 857", 857), ("ctx 512/seq", 512),
     ("trace sum 131297", None), ("256?", None), ("long-prompt", None), ("", None)],
)  # fmt: skip
def test_lengths(cell: str, length: float | None) -> None:
    assert length_of(cell) == length


def test_loads() -> None:
    cells = ("conc=8", "qps=10.27 n=300", "qps=inf", "offline_2000_prompts", "static_batch=4")
    loads = {cell: load_of(cell) for cell in cells}
    told = {cell: (found[0].kind, found[0].value, found[1]) for cell, found in loads.items() if found}
    inf = float("inf")
    assert told == {
        "conc=8": ("concurrency", 8, None), "qps=10.27 n=300": ("qps", 10.27, 300), "qps=inf": ("offline", inf, None),
        "offline_2000_prompts": ("offline", inf, 2000), "static_batch=4": ("static_batch", 4, None),
    }  # fmt: skip
    assert load_of("qps=trace/2") is None
    assert load_of("n/a") is None


def test_metrics() -> None:
    def read(metric: str, unit: str) -> tuple[str, float] | None:
        return metric_of(metric, unit, 2.0, statistic="p50", n_gpus=4)

    assert read("ttft", "ms") == ("ttft_p50_ms", 2.0)
    assert read("ttft_mean", "s") == ("ttft_mean_ms", 2000.0)
    assert read("e2e_median", "ms") == ("e2e_p50_ms", 2.0)
    assert read("output_throughput_per_gpu", "tok/s/gpu") == ("output_tokens_per_s", 8.0)
    assert read("output_throughput", "tok/s/gpu") is None
    assert read("output_throughput", "req/s") is None
    assert read("normalized_tflops_per_gpu", "TFLOPS") is None
    assert read("ttft", "tok/s") is None


def test_names() -> None:
    models = ["Llama-3.1-8B-Instruct-FP8-dynamic (dense)", "nvidia/Llama-3.3-70B-Instruct-FP8", "llama2-70b"]
    assert [model_or_none(m) for m in models] == ["llama-3.1-8b", "llama-3.1-70b", "llama-2-70b"]
    assert [model_or_none(m) for m in ("Llama-3.1-70B + SwiftKV", "Llama-3.1-SwiftKV-405B-Instruct-FP8")] == [
        "llama-3.1-70b",
        "llama-3.1-405b",
    ]
    spelled = ("LLAMA3.1_8B", "Llama 3.3 70B", "bloom-176b", "Qwen3-8B-FP8", "Meta-Llama-3-8B-Instruct-AWQ")
    assert [model_or_none(m) for m in spelled] == [
        "llama-3.1-8b",
        "llama-3.1-70b",
        "bloom",
        "qwen3-8b",
        "llama-3.1-8b",
    ]
    distilled = ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "DeepSeek-R1-Distill-Qwen-32B-FP8")
    assert [model_or_none(m) for m in distilled] == ["llama-3.1-70b", "qwen2.5-32b"]
    unknown = ("Mixtral/Mistral(see repo)", "Qwen3-30B-A3B-BF16", "Llama-4-Scout", "gpt-oss-120b", "Llama-3.1-9B")
    assert [model_or_none(m) for m in unknown] == [None] * 5
    assert [gpu_or_none(g) for g in ("H100-80GB(GKE)", "H100 (assumed)", "H800")] == ["h100", "h100", None]
    assert [dtype_or_none(d) for d in ("bf16?", "16-bit", "fp8_block", "AWQ", "int3")] == [
        *("bf16", "bf16", "fp8", "int4", None),
    ]
    assert [engine_of(e) for e in ("vllm-0.11", "tensorrt-llm", "trtllm 1.0.0rc3")] == [
        ("vllm", "0.11"),
        ("trtllm", None),
        ("trtllm", "1.0.0rc3"),
    ]


ROW = "x,H100,1,1,Llama-3.1-8B,bf16,vllm,0.11,128,128,conc=8,{metric},{value},{unit}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,value\nx,1\n", ":1: columns are source, value; expected source"),
        (",".join(COLUMNS) + "\nx,H100,1\n", ":2: 3 cells, expected 14"),
        (",".join(COLUMNS) + "\n" + ROW.format(metric="ttft_mean", value="fast", unit="ms"), "'value' = 'fast'"),
    ],
)
def test_broken_tables(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_published(path)


def test_implausible_and_repeated_rows_are_excluded_with_their_reason(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    rows = [("ttft_mean", 20, "ms"), ("ttft_mean", 21, "ms"), ("watts", 700, "W")]
    lines = [ROW.format(metric=m, value=v, unit=u) for m, v, u in rows]
    lines.append(ROW.format(metric="ttft_mean", value=0.02, unit="ms").replace("conc=8", "conc=4"))
    path.write_text(",".join(COLUMNS) + "\n" + "".join(lines))
    found = read_published(path)
    assert [p.measured for p in found.points] == [{"ttft_mean_ms": 20}]
    reasons = [(row.line, row.reason.split()[-1]) for row in found.excluded]
    assert reasons == [(3, "setting"), (4, "simulated"), (5, "seconds")]
