"""Sweeps: points against single commands, answers kept, sweeps killed half way, and workers that change nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from sim.errors import InputError, UnknownName
from sim.study import cli
from sim.study.points import desk as desk_module
from sim.study.points.identity import source_version
from sim.study.points.report import summary_of
from sim.study.points.table import SCHEMA
from sim.study.sweep import Sweep
from tests.sim.study.test_cli import assert_documented

ROOT = Path(__file__).resolve().parents[3]
RATED = Sweep(
    {"strategy": ["dense", "swift_kv:keep={keep}"], "keep": [8, 16], "gpu": ["h100", "h200"]},
    {"qps": 4, "requests": 60, "seeds": 1},
    workers=1,
)
KILLED = ["sweep", "--vary", "max-num-seqs=8..96:8", "--strategy", "dense", "--strategy", "swift_kv", "--qps", "5"]
KILLED += ["--requests", "400", "--seeds", "2"]


@pytest.fixture(scope="module")
def rated():
    RATED.run()
    return RATED


@pytest.fixture(scope="module")
def small():
    """Capacities, with a combination that cannot be and an SLO that is out of reach."""
    vary = {"strategy": ["dense", "swift_kv:keep=40"], "gpu": ["h100", "a100-80"], "slo_tpot_ms": [5, 40]}
    fixed = {"requests": 100, "seeds": 1, "tolerance": 0.2, "demand_qps": 50}
    sweep = Sweep(vary, fixed, objective="max_qps_per_gpu", workers=1)
    sweep.run()
    return sweep


def test_a_point_is_what_the_capacity_command_says(small, capsys):
    """INV-80."""
    argv = ["--requests", "100", "--seeds", "1", "--tolerance", "0.2", "--demand-qps", "50", "--draws", "0", "--json"]
    assert cli.main(["capacity", "--gpu", "h100", "--slo-tpot-ms", "40", *argv]) == 0
    said = json.loads(capsys.readouterr().out)
    row = small.table.filter(strategy="dense", gpu="h100", slo_tpot_ms=40).row(0, named=True)
    for name in ("plan_digest", "max_qps", "max_qps_low", "max_qps_high", "max_qps_per_gpu", "limited_by", "gpus"):
        assert row[name] == said[name], name
    for name in ("output_tokens_per_s", "busy_share", "kv_peak_share", "kv_capacity_tokens", "flops_saved"):
        assert row[name] == said["at_capacity"][name], name


def test_what_cannot_be_or_be_served_is_a_row_that_says_why(small):
    table = small.table
    assert len(table) == 8
    assert table["feasible"].to_list() == [False, True, False, True] + 4 * [False]
    impossible = table.filter(strategy="swift_kv:keep=40")
    assert impossible["note"].str.contains("keep=40 must be a whole number in 1..32").all()
    assert impossible["key"].null_count() == 4
    tight = table.filter(strategy="dense", slo_tpot_ms=5)
    assert tight["note"].str.contains("no load meets").all()
    assert tight["max_qps"].null_count() == 2


def test_the_best_and_the_front_are_feasible_rows(small):
    assert small.best["max_qps_per_gpu"] == small.table["max_qps_per_gpu"].max()
    front = small.pareto("gpus", "tpot_p50_ms")
    assert set(front["key"]) <= set(small.table.filter("feasible")["key"])
    assert list(front.columns) == [*small.axes, *SCHEMA]


def test_the_report_draws_what_there_is(small, rated):
    assert "Best: Dense, gpu h100" in small.html() or "Best: Dense, gpu a100-80" in small.html()
    hopeless = small.table.with_columns(pl.lit(value=False).alias("feasible"))
    assert "6 have no figures, 4 of them since swift_kv: keep=40" in summary_of(hopeless, small.axes, small.aim)
    html = rated.html()
    for heading in ("Which point is best?", "What matters?", "All settings side by side", "All points"):
        assert heading in html
    drawn = sum(len(trace.x) for trace in rated.figure().data if trace.mode == "markers")
    assert drawn == rated.table["feasible"].sum()


def test_a_run_at_a_rate_has_latencies_and_no_capacity(rated):
    table = rated.table
    assert table["max_qps"].null_count() == len(table) == 6
    assert (table["qps"] == 4).all()
    assert table["within_slo"].all()
    assert table["ttft_p50_ms"].null_count() == 0
    assert len(replace(rated, fixed={**rated.fixed, "slo_tpot_ms": 1}).table.filter("feasible")) == 0


def test_a_rate_may_vary_and_is_kept_where_nothing_could_be_served():
    vary = {"qps": [2, 4], "model": ["llama-3.1-8b", "llama-3.1-70b"]}
    table = Sweep(vary, {"gpu": "h100", "requests": 60, "seeds": 1}, workers=1).run()
    assert table["qps"].to_list() == [2, 2, 4, 4]
    assert table["feasible"].to_list() == [True, False, True, False]
    assert table["note"].str.contains("leaves no KV memory").to_list() == [False, True, False, True]


def test_workers_change_nothing(rated, monkeypatch):
    """INV-81."""
    ticks = []
    monkeypatch.setattr("sim.study.points.runners.MOST_PENDING", 2)
    parallel = replace(rated, workers=2, tick=lambda *what: ticks.append(what))
    assert_frame_equal(parallel.table, rated.table)
    assert [done for _, done, _ in ticks] == list(range(7))
    assert {of for _, _, of in ticks} == {6}


def test_answers_are_kept_and_nothing_is_computed_twice(rated, tmp_path, monkeypatch):
    kept = replace(rated, store=tmp_path)
    assert_frame_equal(kept.table, rated.table)
    assert kept.reused == 0

    def computed(question):
        raise AssertionError(f"{question.service.plan.name} is known")

    monkeypatch.setattr(desk_module, "answer_of", computed)
    again = replace(kept)
    assert_frame_equal(again.table, rated.table)
    assert again.reused == 6
    with pytest.raises(AssertionError, match="is known"):
        replace(kept, fixed={**kept.fixed, "slo_ttft_ms": 900}).run()
    monkeypatch.setattr(desk_module, "source_version", lambda: "another")
    monkeypatch.setattr("sim.study.sweep.source_version", lambda: "another")
    with pytest.raises(AssertionError, match="is known"):
        replace(kept).run()


def test_prices_and_demands_follow_from_kept_answers(rated, tmp_path):
    kept = replace(rated, store=tmp_path)
    dear = replace(kept, prices={"H100": 10 * 2.5})
    cost = "dollars_per_million_output_tokens"
    before, after = (sweep.table.filter(gpu="h100")[cost].to_list() for sweep in (kept, dear))
    assert after == pytest.approx([10 * value for value in before])
    assert dear.reused == 6


def test_a_broken_answer_is_computed_again(rated, tmp_path):
    """INV-83."""
    said = []
    kept = replace(rated, store=tmp_path, warn=said.append)
    kept.run()
    broken = sorted(tmp_path.glob("*/*.parquet"))[2]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    again = replace(kept)
    assert_frame_equal(again.table, rated.table)
    assert (again.reused, len(said)) == (5, 1)
    assert broken.read_bytes() == whole


def test_a_worker_of_another_version_is_refused(rated, monkeypatch):
    monkeypatch.setattr(desk_module, "answer_of", lambda question: ("older", {}))
    with pytest.raises(InputError, match=f"another version of elide or its libraries \\(older, not {source_version()}"):
        replace(rated).run()


def test_the_quality_floor_keeps_what_is_known_to_keep_it():
    vary = {"strategy": ["dense", "swift_kv", "swift_kv:keep=8"]}
    at = {"qps": 4, "requests": 60, "seeds": 1}
    table = Sweep(vary, at | {"quality_floor": 0.98}, workers=1).run()
    assert table["quality"].to_list()[0] == 1.0
    assert 0.98 <= table["quality"][1] < 0.99  # published
    assert table["feasible"].to_list() == [True, True, False]
    assert Sweep(vary, at | {"quality_floor": 0.99}, workers=1).run()["feasible"].to_list() == [True, False, False]
    with pytest.raises(InputError, match="no plan of this space is known to keep"):
        Sweep({"strategy": ["swift_kv:keep=8"]}, at | {"quality_floor": 0.5}, workers=1).run()


def test_a_search_goes_on_where_it_was_and_asks_the_same(tmp_path):
    """INV-81, INV-85."""
    vary = {"strategy": ["dense", "swift_kv:keep={keep}"], "keep": "8..24", "max_num_seqs": "8..64:log"}
    sweep = Sweep(vary, {"qps": 4, "requests": 60, "seeds": 1}, search=12, batch=4, store=tmp_path, workers=1)
    whole = sweep.run()
    for path in sorted(tmp_path.glob("*/*.parquet"))[::2]:
        path.unlink()
    again = replace(sweep)
    assert_frame_equal(again.run(), whole)
    assert 0 < again.reused < whole["key"].n_unique()


def test_what_cannot_be_swept_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(desk_module, "answer_of", None)
    with pytest.raises(UnknownName, match="did you mean 'h100'"):
        replace(RATED, vary={"gpu": ["h200", "h1000"]}).run()
    with pytest.raises(InputError, match=r"no point of this space can be; the first one: .*keep=99"):
        replace(RATED, vary={"strategy": ["swift_kv:keep=99"]}).run()
    with pytest.raises(InputError, match="max_qps is about capacities"):
        replace(RATED, objective="max_qps").run()
    with pytest.raises(InputError, match="a parameter cannot be called note"):
        replace(RATED, vary={"strategy": ["swift_kv:keep={note}"], "note": [8]}).run()


def test_a_sweep_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path, capsys):
    """INV-81: SIGKILL in the middle; the same bytes afterwards, and no answer is lost."""
    store, files = tmp_path / "store", [tmp_path / f"{name}.parquet" for name in ("killed", "whole")]
    begun = [*KILLED, "--store", str(store), "--html", str(tmp_path / "x.html"), "--points-out", str(files[0])]
    process = subprocess.Popen([sys.executable, "-m", "sim", *begun, "--workers", "1"], cwd=ROOT)
    deadline = time.monotonic() + 120
    while len(list(store.glob("*/*.parquet"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = len(list(store.glob("*/*.parquet")))
    assert 4 <= kept < 24
    assert not files[0].exists()
    assert cli.main([*begun, "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] == kept
    whole = [*KILLED, "--store", str(tmp_path / "other"), "--html", str(tmp_path / "x.html")]
    assert cli.main([*whole, "--workers", "1", "--points-out", str(files[1]), "--json"]) == 0
    capsys.readouterr()
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_ray_answers_bit_for_bit_as_this_process_does(tmp_path, rated):
    """INV-81, with a cluster of two workers, started and ended by the command itself."""
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'elide[cluster]')")
    argv = ["sweep", "--vary", "keep=8,16", "--strategy", "dense", "--strategy", "swift_kv:keep={keep}", "--vary",
            "gpu=h100,h200", "--qps", "4", "--requests", "60", "--seeds", "1", "--ray", "auto", "--workers", "2",
            "--json", "--html", str(tmp_path / "x.html"), "--points-out", str(tmp_path / "ray.parquet"), "--store",
            str(tmp_path / "store")]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "sim", *argv], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert (len(answer["points"]), answer["reused"]) == (6, 0)
    rated.table.write_parquet(tmp_path / "here.parquet")
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    local = replace(rated, store=tmp_path / "local")
    local.run()
    for path in (tmp_path / "local").glob("*/*.parquet"):
        assert path.read_bytes() == (tmp_path / "store" / path.relative_to(tmp_path / "local")).read_bytes()


def test_the_command_says_what_is_documented(tmp_path, capsys):
    line = f"sweep --vary gpu=h100,h200 --qps 3 --requests 60 --seeds 1 --workers 1 --store {tmp_path}"
    line += f" --html {tmp_path}/s.html"
    assert cli.main([*line.split(), "--json"]) == 0
    out, err = capsys.readouterr()
    assert_documented("sweep", json.loads(out))
    assert err == ""
    assert cli.main(line.split()) == 0
    out = capsys.readouterr().out
    assert f"2 points (2 from {tmp_path}), 2 feasible" in out
    assert "<html" in (tmp_path / "s.html").read_text()
    path = next(tmp_path.glob("*/*.parquet"))
    path.write_bytes(b"")
    assert cli.main([*line.split(), "--json"]) == 0
    assert capsys.readouterr().err.startswith(f"warning: {path} cannot be read")
