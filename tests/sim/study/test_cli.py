"""The commands: exit status, JSON that is valid and documented, files that are written."""

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import polars as pl
import pytest

from sim.plans.check import CheckRow
from sim.study import cli
from sim.study.commands import plan as plan_command
from sim.study.jsonable import dumps, plain

DOCS = Path(__file__).resolve().parents[3] / "docs" / "json.md"
QUICK = ["--requests", "150", "--seeds", "1", "--draws", "2"]
FREE = ("provenance", "points[].settings")  # documented as a whole


@pytest.fixture
def command(capsys):
    """Runs a command that must succeed; returns what it wrote on standard output."""

    def run(*argv):
        status = cli.main(list(argv))
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out

    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved study, and what it said."""
    folder = tmp_path_factory.mktemp("study")
    argv = ["study", *QUICK, "--strategy", "swift_kv", "--workers", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "sim", *argv, "--html", str(folder / "s.html"), "--save", str(folder / "saved")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return folder, json.loads(done.stdout)


def documented(section):
    """Keys of one section of docs/json.md, braces spelled out, and whether each is optional."""
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", DOCS.read_text(), re.S | re.M).group(1)
    keys = {}
    for line in re.findall(r"^\| (`.*)", body, re.M):
        names, meaning = line.split(" | ", 1)
        for name in re.findall(r"`([^`]+)`", names):
            parts = re.split(r"\{([^}]*)\}", name)
            choices = [p.split(",") if i % 2 else [p] for i, p in enumerate(parts)]
            keys |= {"".join(pick): "*optional*" in meaning for pick in product(*choices)}
    return keys


def emitted(value, path=""):
    """Paths of all leaves; elements of a list share one."""
    if isinstance(value, dict) and path not in FREE:
        for key, item in value.items():
            yield from emitted(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from emitted(item, f"{path}[]")
    else:
        yield path


def assert_documented(section, answer):
    keys = documented(section)
    said = set(emitted(answer))
    assert said - set(keys) == set(), "emitted, not documented"
    assert {k for k, optional in keys.items() if not optional} - said == set(), "documented, not emitted"


def test_simulate_says_what_is_documented(command):
    answer = json.loads(command("simulate", "--requests", "150", "--qps", "5", "--json"))
    assert_documented("simulate", answer)
    assert answer["requests"] == answer["completed"] == 150
    assert answer["ttft_ms"]["p50"] <= answer["ttft_ms"]["p90"] <= answer["ttft_ms"]["p99"]


def test_capacity_says_what_is_documented(command):
    answer = json.loads(command("capacity", *QUICK, "--json"))
    assert_documented("capacity", answer)
    assert answer["brackets"][0]["works"] == answer["max_qps"] < answer["brackets"][0]["fails"]
    assert answer["gpus"] * answer["max_qps_per_gpu"] >= answer["demand_qps"]


def test_study_says_what_is_documented(saved):
    folder, answer = saved
    assert_documented("study", answer)
    assert [row["strategy"] for row in answer["rows"]] == ["dense", "swift_kv:keep=16"]
    assert "<html" in (folder / "s.html").read_text()


def test_report_says_the_same_as_the_study(saved, command, tmp_path):
    folder, answer = saved
    again = json.loads(command("report", str(folder / "saved"), "--json", "--html", str(tmp_path / "again.html")))
    assert again == answer
    assert (tmp_path / "again.html").read_text() == (folder / "s.html").read_text()


@pytest.mark.parametrize("spec", ["swift_kv:group=4", "ffn_skip", "self_speculative"])
def test_plan_says_what_is_documented(command, spec):
    answer = json.loads(command("plan", "--strategy", spec, "--json"))
    assert_documented("plan", answer)
    assert len(answer["prompt"]) == answer["layers"] == len(answer["decode"][0])


def test_check_says_what_is_documented_and_agrees(command):
    answer = json.loads(command("plan", "--check", "--json"))
    assert_documented("plan --check", answer)
    assert answer["differ"] == 0
    assert "figures agree" in command("plan", "--check")


def test_check_ends_with_1_where_a_figure_differs(monkeypatch, capsys):
    rows = [CheckRow("a ratio", "somewhere", 1.93, 1.94, 0.005), CheckRow("another", "here", 2.0, 2.0, 0.1)]
    monkeypatch.setattr(plan_command, "check_rows", lambda: rows)
    assert cli.main(["plan", "--check"]) == 1
    out = capsys.readouterr().out
    assert "DIFFERS" in out
    assert "1 of 2 figures agree, 1 differ" in out
    assert cli.main(["plan", "--check", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differ"] == 1


@pytest.mark.parametrize("name", ["study", "simulate", "capacity", "fleet", "plan", "report"])
def test_every_command_has_help_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert f"python -m sim {name}" in out
    assert "example" in out


def test_simulate_writes_frames_and_a_page(command, tmp_path):
    files = {k: tmp_path / "new" / f"{k}.parquet" for k in ("requests", "iterations")}
    page = tmp_path / "run.html"
    out = command("simulate", "--requests", "120", "--qps", "8", "--strategy", "skip_decode", "--html", str(page),
                  "--requests-out", str(files["requests"]), "--iterations-out", str(files["iterations"]))  # fmt: skip
    assert len(pl.read_parquet(files["requests"])) == 120
    assert pl.read_parquet(files["iterations"])["duration_ns"].min() > 0
    assert "<html" in page.read_text()
    assert "TTFT" in out


def test_the_same_seed_writes_the_same_bytes(command, tmp_path):
    argv = ["simulate", "--requests", "200", "--qps", "9", "--seed", "7", "--strategy", "self_speculative", "--json"]
    for name in ("a", "b"):
        command(*argv, "--requests-out", str(tmp_path / name), "--iterations-out", str(tmp_path / f"{name}i"))
    command(*argv, "--seed", "8", "--requests-out", str(tmp_path / "c"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()
    assert (tmp_path / "ai").read_bytes() == (tmp_path / "bi").read_bytes()


def test_the_same_seed_says_the_same_bytes(command):
    argv = ["capacity", *QUICK, "--strategy", "swift_kv", "--json"]
    first = command(*argv)
    assert first == command(*argv)
    assert first != command(*argv, "--draws", "3")
    runs = [json.loads(command("simulate", "--requests", "90", "--draws", "2", "--json")) for _ in range(2)]
    assert [dumps({**run, "wall_s": 0}) for run in runs] == [dumps({**runs[0], "wall_s": 0})] * 2


def test_capacity_says_its_answer_in_words(command):
    out = command("capacity", *QUICK, "--demand-qps", "50", "--strategy", "swift_kv")
    assert "GPUs for 50 requests per second" in out
    assert re.search(r"50 requests per second need \d+ GPUs, .* at 90 %", out)
    assert re.search(r"kernel times [\d.]+%, the engine and its server [\d.]+%, the traffic [\d.]+%", out)


def test_simulate_says_what_makes_its_intervals(command):
    out = command("simulate", "--requests", "90", "--draws", "2")
    assert re.search(r"TTFT \(ms\) +\d+(\.\d+)? \[\d+(\.\d+)?, \d+(\.\d+)?\]", out)
    assert "the engine and its server" in out
    assert "was fitted to servers on" in out


def test_without_draws_intervals_are_of_the_traffic_alone(command):
    answer = json.loads(command("simulate", "--requests", "200", "--draws", "0", "--json"))
    assert answer["tpot_ms"]["mean_shares"] == {"kernels": 0.0, "parameters": 0.0, "sampling": 1.0}
    found = json.loads(command("capacity", "--requests", "200", "--draws", "0", "--json"))
    assert found["max_qps_shares"] == {"kernels": 0.0, "parameters": 0.0, "sampling": 1.0}


def test_plan_is_drawn(command, tmp_path):
    out = command("plan", "--strategy", "swift_kv:group=4+skip_decode", "--html", str(tmp_path / "plan.html"))
    assert "··K" in out
    assert "read from layer 16" in out
    assert "<html" in (tmp_path / "plan.html").read_text()


@pytest.mark.parametrize(
    "load",
    [
        ["--concurrency", "4"],
        ["--arrivals", "offline"],
        ["--qps", "3", "--arrivals", "gamma:cv=2"],
        ["--prompt-tokens", "100", "--output-tokens", "1"],
        ["--workload", "azure-code", "--policy", "prefill_first", "--host-overlap", "--weights", "fp8"],
        ["--gpu", "l4", "--source", "roofline", "--max-num-seqs", "8", "--policy", "static"],
    ],
)
def test_every_kind_of_load_runs(command, load):
    answer = json.loads(command("simulate", "--requests", "80", "--json", *load))
    assert answer["completed"] == 80


def test_a_single_token_has_no_tpot_and_json_says_null(command):
    answer = json.loads(
        command("simulate", "--requests", "70", "--prompt-tokens", "9", "--output-tokens", "1", "--json")
    )
    assert answer["tpot_ms"]["p50"] is None


def test_plain_is_strict_json():
    odd = {"a": float("nan"), 1: (float("inf"), True, None, "ä"), "p": Path("x")}
    assert plain(odd) == {"a": None, "1": [None, True, None, "ä"], "p": "x"}
    assert json.loads(dumps(odd)) == plain(odd)


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_command, "run", interrupted)
    monkeypatch.setattr("sim.study.commands.plan.model_named", interrupted)
    assert cli.main(["plan"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    line = f"{sys.executable} -m sim plan --json --strategy skip_decode | head -n 1"
    done = subprocess.run(line, shell=True, capture_output=True, text=True)
    assert done.stdout.strip() == "{"
    assert done.stderr == ""
