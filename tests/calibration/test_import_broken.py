"""Files that cannot be used: one line, naming the file and what is wrong, for every importer."""

import json
from pathlib import Path
from typing import Any

import pytest

from calibration.importers.detect import read_result
from sim.errors import InputError, UnknownName
from tests.data import shared

STAGE = "serving/inference_perf/kubecon-na-2025_vllm/stage_1_lifecycle_metrics.json"
GUIDELLM = "formats/guidellm/guidellm_report_v2.json"


def refused(path: Path, message: str, **known: Any) -> None:
    with pytest.raises(InputError, match=message) as raised:
        read_result(path, **known)
    assert path.name in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [STAGE, GUIDELLM, "formats/genai_perf/profile_export.fixture.json", "serving/distserve/profiler-a100-80g.vllm.json",
     "formats/aiperf/profile_export.documented_example.jsonl"],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_json(tmp_path: Path, source: str, share: float) -> None:
    text = shared(source).read_text().rstrip()
    path = tmp_path / shared(source).name
    path.write_text(text[: int(len(text) * share)])
    refused(path, r":\d+:\d+: not JSON, or cut off")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("[]", "an empty list"),
        ("[1, 2]", "expected a JSON object, found int"),
        ("{}", "none of the fields"),
        ('{"loss": 0.3, "epoch": 2}', "none of the fields"),
        ("a,b\n1,2\n", ":1: neither JSON nor a table"),
    ],
)
def test_files_of_no_tool(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    refused(path, message)


def test_no_file_and_no_result_in_the_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent.json", "no such file")
    refused(tmp_path, "holds neither")


def changed(tmp_path: Path, source: str, path: str, value: Any) -> Path:
    """A copy of a shared JSON file with one field set, or removed where `value` is None."""
    document = json.loads(shared(source).read_text())
    *parents, last = path.split(".")
    place = document
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    copy = tmp_path / Path(source).name
    copy.write_text(json.dumps(document))
    return copy


LATENCY = "successes.latency"


@pytest.mark.parametrize(
    ("source", "field", "value", "message"),
    [
        (STAGE, f"{LATENCY}.time_to_first_token", None, "'successes.latency.time_to_first_token' is missing"),
        (STAGE, f"{LATENCY}.request_latency.mean", None, "'mean' is missing"),
        (STAGE, "successes.count", 0, "'successes.count' is 0"),
        (STAGE, "load_summary.requested_rate", None, "'load_summary.requested_rate' is missing"),
        (STAGE, f"{LATENCY}.time_to_first_token.mean", 30.0, "are both in the same unit"),
        (STAGE, f"{LATENCY}.request_latency.mean", 550.0, "17136 requests in flight, but there were 1884"),
        (GUIDELLM, "metadata.version", 1, "'metadata.version' is 1; reports of version 2"),
        (GUIDELLM, "benchmarks.0.metrics.request_totals.successful", 0, "nothing was measured"),
        (GUIDELLM, "benchmarks.1.metrics.inter_token_latency_ms", None, "'inter_token_latency_ms.successful' is"),
        (GUIDELLM, "benchmarks.0.metrics.inter_token_latency_ms.successful.mean", 9.0, "cannot come from one run"),
        (GUIDELLM, "benchmarks.0.config.strategy.type_", "trace", "strategy 'trace'"),
        (GUIDELLM, "benchmarks", [], "'benchmarks' is missing or an empty list"),
        ("serving/distserve/profiler-a100-80g.vllm.json", "facebook/opt-13b.1.prefill", [1, 2], "three coefficients"),
        ("formats/genai_perf/profile_export.fixture.json", "experiments.0.experiment.mode", "x", "'x' = 1 is neither"),
    ],
)  # fmt: skip
def test_one_wrong_field(tmp_path: Path, source: str, field: str, value: Any, message: str) -> None:
    refused(changed(tmp_path, source, field, value), message)


def test_aiperf_with_a_wrong_unit_and_without_successes(tmp_path: Path) -> None:
    lines = shared("formats/aiperf/profile_export.documented_example.jsonl").read_text().splitlines()
    path = tmp_path / "profile_export.jsonl"
    path.write_text(lines[0].replace('"value": 255.88656799999998, "unit": "ms"', '"value": 0.2558, "unit": "ms"'))
    refused(path, "seconds")
    path.write_text(lines[0].replace('"unit": "ms"', '"unit": "furlongs"'))
    refused(path, "'furlongs' is not one of")
    path.write_text(lines[1])
    refused(path, "none of 1 requests succeeded")


def test_llmservingsim_times_that_run_backwards(tmp_path: Path) -> None:
    folder = shared("serving/llmservingsim_RTX4090_Llama-3.1-8B")
    (tmp_path / "meta.json").write_bytes((folder / "meta.json").read_bytes())
    lines = (folder / "requests.jsonl").read_text().splitlines()
    row = json.loads(lines[4])
    row["first_token_ts"] = row["queued_ts"] - 1
    (tmp_path / "requests.jsonl").write_text("\n".join([*lines[:4], json.dumps(row), *lines[5:]]))
    with pytest.raises(InputError, match=r"requests.jsonl:5: queued_ts"):
        read_result(tmp_path)


def test_what_the_user_says_is_checked_too() -> None:
    stage = shared(STAGE)
    with pytest.raises(UnknownName, match="unknown GPU 'h1000'"):
        read_result(stage, gpu="h1000")
    with pytest.raises(UnknownName, match="unknown model"):
        read_result(stage, model="llama-9")
    refused(stage, "the file says osl = 64", osl=128.0)
    (point,) = read_result(stage, gpu="h100", model="meta-llama/Llama-3.1-8B-Instruct", tp=1)
    assert (point.gpu, point.model, point.n_gpus) == ("h100", "llama-3.1-8b", 1)
