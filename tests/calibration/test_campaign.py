"""Every run of a GPU campaign: rehearsed on a CPU, within its time, and nothing of it lost when a command fails."""

import subprocess
import sys
from pathlib import Path

import pytest

from calibration.campaign import carried_out, main, too_heavy
from calibration.campaign_runs import LIMIT_S, RUNS, Step, Target
from calibration.cli import main as calibration
from calibration.measure_rows import read_rows
from calibration.quality.command import declare
from engine.__main__ import main as engine
from sim.study.options import Parser
from tests.test_docs import parser_of

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("llama-3.1-8b", "opt-1.3b", "opt-6.7b")


def quality(words):
    """`python -m calibration.quality` in this process."""
    args = declare(Parser(prog="quality")).parse_args(words)
    return int(args.run(args) or 0)


PROGRAMS = {"calibration": calibration, "engine": engine, "calibration.quality": quality}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("model", MODELS)
def test_a_run_ends_within_its_limit_and_its_commands_parse(name, model, tmp_path):
    for dry in (False, True):
        steps = RUNS[name](Target(tmp_path, model, dry))
        assert sum(step.seconds for step in steps if step.name != "a tiny model") <= LIMIT_S
        for step in steps:
            program, *words = step.words
            if program == "calibration.quality":
                declare(Parser(prog="quality")).parse_args(words)
            elif program in PROGRAMS:
                parser_of(program)(words)
            else:
                assert program in ("pytest", "tests.gpu_soak")


@pytest.mark.parametrize("name", ["ceilings", "kernels", "measure", "bench", "serve"])
def test_a_rehearsal_runs_and_leaves_what_is_to_be_carried_home(name, tmp_path):
    target = Target(tmp_path / name, MODELS[0], dry=True)
    for step in RUNS[name](target):
        assert PROGRAMS[step.words[0]](step.words[1:]) == 0, step.name
    assert too_heavy(target.out) == []
    if name == "serve":
        assert (target.out / "record.json").stat().st_size > 0
    else:
        assert read_rows(target.out)


def test_quality_is_rehearsed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("quality-train", "quality-run", "quality-speed"):
        target = Target(tmp_path / name, MODELS[0], dry=True)
        target.out.mkdir()
        for step in RUNS[name](target):
            assert PROGRAMS[step.words[0]](step.words[1:]) == 0, step.name
    assert {"profile.json", "quality.json"} == {path.name for path in (tmp_path / "quality-run").iterdir()}
    assert {row["plan"] for row in read_rows(tmp_path / "quality-speed")} <= {"dense", "swift_kv"}


@pytest.mark.parametrize("name", ["check", "sanitize"])
def test_tests_for_the_device_are_found_where_nothing_else_is_installed(name, tmp_path):
    """The GPU's machine lacks polars, SimPy and plotly: its tests must be collected without them."""
    from tests.calibration.test_provenance import WITHOUT

    (step,) = RUNS[name](Target(tmp_path, MODELS[0], dry=False))
    paths = [word for word in step.words if word.startswith("tests/")]
    assert all((ROOT / path).exists() for path in paths)
    run = f"{WITHOUT}\nimport pytest\nsys.exit(pytest.main(['--collect-only', '-q', '-m', 'gpu', *{paths}]))"
    done = subprocess.run([sys.executable, "-c", run], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 5), done.stdout  # 5: without a GPU the kernels' own are not collected


def test_a_command_that_fails_or_hangs_does_not_cost_the_next(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    steps = [
        Step("fails", ("no_such_module",), 20),
        Step("hangs", ("timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)"), 1),
        Step("is not here", ("timeit", "1"), 20, under=("no-such-program",)),
        Step("works", ("platform",), 20),
    ]
    assert carried_out(steps, tmp_path) == 1
    said = capsys.readouterr().out.splitlines()[-4:]
    assert [line.split("  ")[0] for line in said] == [step.name for step in steps]
    assert "exit status 1" in said[0]
    assert "stopped" in said[1]
    assert "no no-such-program here" in said[2]
    assert " ok " in said[3]
    assert "No module named no_such_module" in (tmp_path / "log.txt").read_text()
    assert carried_out(steps[-1:], tmp_path) == 0


def test_too_much_to_carry_is_told(tmp_path):
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    for i in range(8):
        (tmp_path / f"small{i}").touch()
    said = too_heavy(tmp_path)
    assert len(said) == 2
    assert "17 MiB" in said[0]


def test_an_unknown_run_is_said_in_one_line(capsys, tmp_path):
    assert main(["mesure", "--out", str(tmp_path)]) == 2
    assert "did you mean 'measure'" in capsys.readouterr().err
