"""Traces, simulated and measured: the Trace Event Format is kept, spans nest, and their times are the run's."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.simulate import simulate
from sim.serving.config import SchedulerConfig
from sim.study import cli
from sim.study.run_trace import run_trace
from sim.workload.generate import named_workload

REQUIRED = {"X": {"name", "ts", "dur", "pid", "tid"}, "C": {"name", "ts", "pid", "args"}, "M": {"name", "pid", "args"}}
ITERATIONS = {"prefill", "decode", "mixed"}


def checked(text: str) -> dict[str, Any]:
    """The trace, once its form is that of the format and its spans nest on every lane."""
    trace: dict[str, Any] = json.loads(text)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    lanes = defaultdict(list)
    for event in trace["traceEvents"]:
        assert event.keys() >= REQUIRED[event["ph"]]
        if event["ph"] == "C":
            assert all(isinstance(value, (int, float)) for value in event["args"].values())
        if event["ph"] == "X":
            assert event["ts"] >= 0
            assert event["dur"] >= 0
            begin = round(event["ts"] * 1000)
            lanes[event["pid"], event["tid"]].append((begin, begin + round(event["dur"] * 1000)))
    for spans in lanes.values():
        open_until: list[int] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)
    return trace


def spans_of(trace: dict[str, Any], pid: int) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] == pid]


def test_a_simulated_run_keeps_its_times() -> None:
    model = model_named("llama-3.1-8b")
    config = SchedulerConfig(max_num_seqs=24)  # some wait
    work = named_workload("azure-conv", requests=120, qps=40)
    result = simulate(work, Deployment(model, gpu_named("h200")), strategy_named("swift_kv", model), config)
    trace = checked(run_trace(result))
    steps = [s for s in spans_of(trace, 0) if s["name"] in ITERATIONS]
    frame = result.iterations
    assert sum(round(s["dur"] * 1000) for s in steps) == frame["duration_ns"].sum()
    assert [s["name"] for s in steps] == frame["kind"].to_list()
    assert sum(s["args"]["prompt_tokens"] for s in steps) == work.prompt_tokens.sum()
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in pairwise(steps))
    parts = [sum(v for name, v in s["args"].items() if name.endswith("_ns")) for s in steps]
    assert parts == frame["duration_ns"].to_list()
    told = {s["name"]: s for s in spans_of(trace, 1)}
    for row in result.requests.iter_rows(named=True):
        assert told[f"request {row['request']}"]["dur"] / 1000 == pytest.approx(row["e2e_ms"])
    waits = sum(s["dur"] for s in spans_of(trace, 1) if s["name"] == "waiting")
    assert round(waits * 1000) == (result.requests["scheduled_ns"] - result.requests["arrival_ns"]).sum()
    shares = [e["args"]["share"] for e in trace["traceEvents"] if e["name"] == "KV memory in use"]
    assert max(shares) == frame["kv_share"].max()


def test_lanes_are_as_many_as_requests_are_there_at_once() -> None:
    model = model_named("llama-3.1-8b")
    work = named_workload("azure-conv", requests=60, qps=20)
    result = simulate(work, Deployment(model, gpu_named("h200")), strategy_named("dense", model))
    frame = result.requests
    moments = np.concatenate([frame["arrival_ns"], frame["last_token_ns"]])
    change = np.repeat([1, -1], len(frame))
    there = change[np.lexsort((change, moments))].cumsum().max()  # who leaves makes room for who comes
    assert len({s["tid"] for s in spans_of(json.loads(run_trace(result)), 1)}) == there


def test_the_command_writes_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "run.json"
    words = ["simulate", "--requests", "30", "--qps", "10", "--oversized", "refuse", "--max-context", "1500"]
    assert cli.main([*words, "--trace-out", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["failed"] > 0
    trace = checked(path.read_text())
    assert sum(s["name"].startswith("request") for s in spans_of(trace, 1)) == summary["completed"]
    busy = sum(s["dur"] for s in spans_of(trace, 0)) / 1e6
    assert busy == pytest.approx(summary["busy_share"] * summary["makespan_s"])


def test_the_engine_writes_the_same_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    from engine.__main__ import main
    from tests.engine.tinies import folder_of

    model = ("--model", str(folder_of("llama-gqa")), "--device", "cpu", "--max-tokens", "5", "--json")
    one, several = tmp_path / "one.json", tmp_path / "several.json"
    prompts = ("--prompt", "The quick brown fox", "--prompt", "A layer", "--ignore-eos")
    assert main(("generate", *model, *prompts, "--trace-out", str(one))) == 0
    told = json.loads(capsys.readouterr().out)
    trace = checked(one.read_text())
    steps = spans_of(trace, 0)
    assert {s["name"] for s in steps} <= ITERATIONS
    assert sum(s["args"]["prompt_tokens"] for s in steps) == sum(c["prompt_tokens"] for c in told["completions"])
    assert sum(s["args"]["decode_rows"] for s in steps) == 2 * 4
    assert sum(s["name"].startswith("request") for s in spans_of(trace, 1)) == 2
    assert max(e["args"]["share"] for e in trace["traceEvents"] if e["name"] == "KV memory in use") > 0
    small = ("--prompts", "2", "--prompt-tokens", "8", "--repeats", "1", "--no-transformers", "--strategy", "swift_kv")
    assert main(("bench", *model, *small, "--trace-out", str(several))) == 0
    names = [e["args"]["name"] for e in checked(several.read_text())["traceEvents"] if e["name"] == "process_name"]
    assert [name.partition(":")[0] for name in names] == ["dense", "dense", "swift_kv", "swift_kv"]
