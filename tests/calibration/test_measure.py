"""Measuring on a CPU: complete rows, written as it goes, taken up where it stopped; steps that the simulator walks."""

import json
from dataclasses import fields

import pytest

from calibration.cli import main
from calibration.engine_runs import gpu_of
from calibration.fit import fit
from calibration.fit_steps import walks_of
from calibration.measure import KINDS, Request, Session, measure
from calibration.measure_ops import KERNELS
from calibration.measure_rows import FILE, Rows, read_rows
from calibration.timing import BrokenKernel
from engine.tiny import make_tiny
from sim.errors import InputError, UnknownName
from sim.plans.model import ModelShape
from tests.calibration.measured_rows import Truth

PLANS = ("dense", "swift_kv:keep=2", "skip_decode:speedup=2", "ffn_skip:run_length=1,threshold=0.5,cold_layers=1")
HEAD = ("device", "date", "commit", "python", "torch", "triton", "numpy", "model", "dtype", "threads", "processors")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("models") / "llama", layers=4)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Everything, measured once."""
    out = tmp_path_factory.mktemp("measured")
    done = measure(Request(str(tiny), out, "cpu", plans=PLANS, repeats=1))
    assert (done.left, done.failed) == (0, ())
    return out


@pytest.fixture(scope="module")
def rows(folder):
    return read_rows(folder)


def request(tiny, out, **more):
    return Request(str(tiny), out, "cpu", **({"only": ("norm", "copy"), "repeats": 1} | more))


def test_every_kind_has_rows_and_every_row_says_where_it_comes_from(rows):
    assert {row["op"] for row in rows} == {*KINDS, "burst"} - {"replay"}
    assert set(KERNELS) < set(KINDS)
    described = {f"model_{one.name}" for one in fields(ModelShape)} - {"model_name", "model_source"}
    for row in rows:
        assert set(HEAD) | described <= set(row)
        assert 0 < row["p20_ns"] <= row["p50_ns"] <= row["p80_ns"]


def test_the_simulator_walks_through_the_engine_s_steps(rows):
    """Token for token: `walks_of` refuses a burst whose steps hold other tokens. Counts agree with the engine's."""
    walks = walks_of(rows, gpu_of("cpu", 1e10, 1e11), Truth())
    assert {walk.setting.plan for walk in walks} == set(PLANS)
    for walk in walks:
        steps = [row for row in rows if row["op"] == "step" and row["key"] == walk.row["key"]]
        assert walk.steps.sequences.tolist() == [row["sequences"] for row in steps]
        assert (walk.steps.forward <= walk.steps.host).all()


def test_a_gate_s_rates_are_measured(rows):
    gated = [row for row in rows if row["op"] == "burst" and "ffn" in row["plan"]]
    assert gated
    for row in gated:
        assert len(row["gate_skip"]) == 4
        assert row["gate_skip"][0] == row["gate_skip"][-1] == 0, "cold layers run"
        assert max(row["gate_skip"]) > 0


def test_the_rows_can_be_fitted(rows):
    found = fit(rows, date="2026-11-25")
    assert found.facts["gpu"] == "cpu"
    assert set(found.steps) == set(PLANS)


def test_nothing_is_measured_twice(tiny, folder):
    before = (folder / FILE).read_text()
    done = measure(Request(str(tiny), folder, "cpu", plans=PLANS, resume=True))
    assert (done.measured, done.left) == (0, 0)
    assert (folder / FILE).read_text() == before
    with pytest.raises(InputError, match="--resume"):
        measure(Request(str(tiny), folder, "cpu"))


def test_a_budget_stops_it_and_resume_goes_on(tiny, tmp_path):
    first = measure(request(tiny, tmp_path, budget_s=1e-9))
    assert (first.measured, first.left > 2) == (0, True)
    done = measure(request(tiny, tmp_path, resume=True))
    assert (done.measured, done.left) == (first.left, 0)


def test_an_interrupt_loses_nothing(tiny, tmp_path, monkeypatch):
    made = Session.rows

    def interrupted(self, one):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return made(self, one)

    monkeypatch.setattr(Session, "left", 3, raising=False)
    monkeypatch.setattr(Session, "rows", interrupted)
    words = ["measure", "--model", str(tiny), "--out", str(tmp_path), "--device", "cpu", "--only", "norm"]
    assert main(words) == 130
    assert len(read_rows(tmp_path)) == 3
    monkeypatch.undo()
    assert main([*words, "--resume"]) == 0
    keys = [row["key"] for row in read_rows(tmp_path)]
    assert len(set(keys)) == len(keys) > 3


def test_a_line_that_was_cut_off_is_measured_again(tiny, tmp_path):
    measure(request(tiny, tmp_path))
    path, rows = tmp_path / FILE, read_rows(tmp_path)
    path.write_text(path.read_text()[:-40])
    assert measure(request(tiny, tmp_path, resume=True)).measured == 1
    assert [row["key"] for row in read_rows(tmp_path)] == [row["key"] for row in rows]


def test_an_item_that_fails_is_recorded_and_the_others_are_measured(tiny, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise BrokenKernel("a hole")

    monkeypatch.setitem(KERNELS, "copy", broken)
    words = ["measure", "--model", str(tiny), "--out", str(tmp_path), "--device", "cpu", "--only", "copy", "norm"]
    assert main(words) == 1
    assert "a hole" in capsys.readouterr().err
    errors = [row for row in read_rows(tmp_path) if "error" in row]
    assert len(errors) == 3
    seen = []
    monkeypatch.setattr(Session, "rows", lambda _, one: seen.append(one.op) or [{"op": one.op, "p50_ns": 1.0}])
    measure(request(tiny, tmp_path, resume=True, only=("embed", "copy", "norm")))
    assert seen[-3:] == ["copy"] * 3, "what failed is tried once more, behind what was never tried"
    assert set(seen[:-3]) == {"embed"}


def test_a_lost_device_is_not_asked_for_ever(tiny, tmp_path, monkeypatch):
    def lost(*_):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setitem(KERNELS, "norm", lost)
    done = measure(request(tiny, tmp_path, only=("norm",)))
    assert len(done.failed) == 5
    assert done.left > 0


def test_rows_of_something_else_are_not_mixed_in(tiny, tmp_path):
    measure(request(tiny, tmp_path))
    for name in ("model", "dtype", "device"):
        head = read_rows(tmp_path)[0] | {name: "other"}
        with pytest.raises(InputError, match="other"):
            Rows(tmp_path, head, resume=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "llama-9"], "llama-9"),
        (["--model", "opt-125m", "--only", "gem"], "gemm"),
        (["--model", "opt-125m", "--budget-s", "0"], "--budget-s"),
        (["--model", "opt-125m", "--repeats", "0"], "--repeats"),
        (["--model", "opt-125m", "--device", "tpu"], "tpu"),
        (["--model", "opt-125m", "--plans", "fly"], "fly"),
        (["--out", "FILE", "--model", "opt-125m", "--only", "norm"], "FILE"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_said_in_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("no folder")
    out = [] if "--out" in words else ["--out", str(tmp_path / "x")]
    assert main(["measure", *words, *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error


def test_broken_rows_name_file_and_line(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"key": "a", "op": "norm"}) + "\nnonsense\n")
    with pytest.raises(InputError, match="line 2"):
        read_rows(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_rows(tmp_path / "nowhere")
    with pytest.raises(UnknownName):
        Request("opt-125m", tmp_path, only=("nothing",))
