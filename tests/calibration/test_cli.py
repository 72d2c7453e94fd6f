"""The command line: what a user types, what comes out, and one clear line where it cannot."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.cli import main
from calibration.importers.published import COLUMNS
from calibration.points import Load, Point
from calibration.validate_run import predict
from sim.cost.profiles import profile_named, read_profile

ROW = "mine,H100-SXM-80GB,1,1,facebook/opt-1.3b,fp16,vllm,0.11.0,100,20,concurrency={},tpot_mean,{},ms"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    rows = "".join(f"{ROW.format(slots, 4 + slots / 8)}\n" for slots in (1, 4, 8))
    path.write_text(",".join(COLUMNS) + "\n" + rows, encoding="utf-8")
    return path


def benched(folder: Path) -> Path:
    """Result files of `vllm bench serve` from a server whose host is slower than the profile's."""
    base = profile_named("vllm-0.11")
    truth = replace(base, parameters={**base.parameters, "step_ms": 2.5})
    names = [f"{kind}_{s}_ms" for kind in ("ttft", "tpot", "itl") for s in ("mean", "p50", "p99")]
    names += ["requests_per_s", "output_tokens_per_s", "total_tokens_per_s"]
    runs = []
    for slots in (1, 8, 32):
        point = Point(
            "x", dict.fromkeys(names, 1.0), load=Load("concurrency", slots), gpu="h100", n_gpus=1, tp=1,
            model="opt-1.3b", weights_dtype="bf16", kv_dtype="bf16", engine="vllm", engine_version="0.11",
            isl=128, osl=16,
        )  # fmt: skip
        m, n = predict(point, truth).metrics, 10 * slots
        run = {
            "backend": "vllm", "model_id": "facebook/opt-1.3b", "num_prompts": n, "request_rate": "inf",
            "max_concurrency": slots, "duration": n / m["requests_per_s"], "completed": n, "failed": 0,
            "total_input_tokens": 128 * n, "total_output_tokens": 16 * n, "request_throughput": m["requests_per_s"],
            "output_throughput": m["output_tokens_per_s"], "total_token_throughput": m["total_tokens_per_s"],
        }  # fmt: skip
        for kind in ("ttft", "tpot", "itl"):
            run |= {f"{word}_{kind}_ms": m[f"{kind}_{s}_ms"] for word, s in
                    (("mean", "mean"), ("median", "p50"), ("p99", "p99"))}  # fmt: skip
        runs.append(json.dumps(run))
    path = folder / "bench.jsonl"
    path.write_text("\n".join(runs), encoding="utf-8")
    return path


def test_validate_prints_json_and_draws_a_page(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "page.html"
    words = ["validate", "--public", "--data", str(table), "--workers", "1", "--json", "--html", str(out)]
    assert main(words) == 0
    head = json.loads(capsys.readouterr().out)
    assert (head["rows_used"], head["rows_excluded"]) == (3, 0)
    assert head["tpot_median_ape"] > 0
    assert "facebook" not in out.read_text(encoding="utf-8")[:200]
    assert main([*words[:6], "--sample", "2"]) == 0
    assert "By source" in capsys.readouterr().out


def test_import_fits_what_the_file_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.json"
    words = ["import", str(benched(tmp_path)), "--gpu", "h100", "--tp", "1", "--weights", "bf16"]
    assert main([*words, "--engine", "vllm-0.11", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "step_ms" in said
    assert "Not identified" in said
    mine = read_profile(out)
    assert mine.parameters["step_ms"] == pytest.approx(2.5, rel=0.25)
    assert main([*words, "--engine", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    before = {row["metric"]: row["before"] for row in again["errors"]}
    assert before["tpot"] < 0.05  # the profile that was fitted explains the file


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["validate"], "--public"),
        (["validate", "--public", "--data", "nowhere"], "nowhere"),
        (["validate", "--public", "--workers", "0"], "--workers"),
        (["import", "nowhere.json"], "nowhere.json"),
        (["import", "BENCH"], "--gpu, --tp, --weights, --engine"),
        (["import", "BENCH", "--gpu", "h1000"], "h1000"),
        (["import", "BENCH", "--gpu", "h100", "--tp", "1", "--weights", "bf16", "--engine", "mlc-1"], "mlc"),
        (["import", "BENCH", "--qps", "1", "--concurrency", "2"], "not both"),
        (["import", "BROKEN", "--gpu", "h100"], "broken.json"),
        (["fly"], "fly"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"completed": 3, "total_input')
    paths = {"BENCH": str(benched(tmp_path)) if "BENCH" in words else "", "BROKEN": str(broken)}
    assert main([paths.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
