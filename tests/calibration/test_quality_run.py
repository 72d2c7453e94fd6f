"""The whole way on a model that knows nothing: train, examine, adapt, profile; and how each refuses bad input."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from transformers.utils import logging

from calibration.quality import run as running
from calibration.quality import train as training
from calibration.quality.adapting import DISTIL, TUNE
from calibration.quality.command import declare
from calibration.quality.run import Run, examine_all
from calibration.quality.sizes import CPU
from calibration.quality.train import Training, train
from sim.errors import InputError, PlanError
from sim.study.options import Parser
from tests.calibration.test_provenance import WITHOUT

logging.disable_progress_bar()
torch.set_num_threads(1)
running.ALONE_ITEMS = 1
PLANS = ("swift_kv:keep=1", "skip_decode:max_budget=2,min_budget=2,schedule_tokens=4")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    size = replace(CPU, layers=3, hidden=32, heads=2, kv_heads=2, ffn=32, mix={"copy": 6, "facts": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "look", lambda twin, tasks: {})
        return train(Training(size, "llama", tmp_path_factory.mktemp("models") / "toy", steps=3))


def command(*words: str | Path) -> int:
    args = declare(Parser()).parse_args([str(word) for word in words])
    return args.run(args)


def run_of(model: Path, tmp_path: Path, **changes) -> Run:
    once = {"distil": replace(DISTIL, steps=1), "tune": replace(TUNE, steps=1)}
    return Run(model, tmp_path / "toy.json", tmp_path / "adapted", **({"count": 2, "plans": PLANS} | once | changes))


def test_a_run_writes_what_studies_read_and_takes_itself_up(model, tmp_path, monkeypatch):
    table = examine_all(run_of(model, tmp_path))
    assert [(s["strategy"], s["weights"]) for s in table["summaries"]] == [
        ("dense", "raw"),
        ("swift_kv", "raw"),
        ("swift_kv", "adapted"),
        ("skip_decode", "raw"),
        ("skip_decode", "adapted"),
    ]
    dense = table["summaries"][0]
    assert dense["difference"] == 0
    assert dense["agreement"] == 1
    assert all(s["twin_disagrees"] == 0 for s in table["summaries"])
    assert table["summaries"][3]["realised"]["64 rows"]["weight_bytes_skip_realised"] > 0
    assert set(table["plans"]) == {s["digest"] for s in table["summaries"]}
    assert len(table["rows"]) == 5 * len(table["items"])
    assert {"torch", "commit", "date"} <= set(table["provenance"])

    seen: list[str] = []
    monkeypatch.setattr(running, "adapt_to", lambda *args, **more: pytest.fail("adapted again"))
    again = examine_all(run_of(model, tmp_path), progress=seen.append)
    assert seen == [], "everything was there"
    assert again["rows"] == table["rows"]
    more = examine_all(run_of(model, tmp_path, plans=("early_exit:at=2",), adapt=False), progress=seen.append)
    assert seen == ["early_exit early_exit:at=2, raw"]
    assert len(more["summaries"]) == 6


def test_other_items_are_another_table(model, tmp_path):
    examine_all(run_of(model, tmp_path, plans=("swift_kv:keep=1",), adapt=False))
    table = examine_all(run_of(model, tmp_path, plans=("early_exit:at=2",), adapt=False, count=3))
    assert [s["strategy"] for s in table["summaries"]] == ["dense", "early_exit"]


def test_commands(model, tmp_path, capsys):
    out = tmp_path / "t.json"
    few = ("--items", "1", "--raw", "--out", out, "--csv", tmp_path / "t.csv")
    assert command("run", "--model", model, "--plans", "early_exit:at=2", *few) == 0
    assert "early_exit" in capsys.readouterr().out
    assert (tmp_path / "t.csv").read_text().startswith("strategy,setting,weights")
    page = tmp_path / "p.html"
    assert command("profile", "--model", model, "--items", "4", "--out", tmp_path / "p.json", "--html", page) == 0
    assert "FFN similarity of toy" in page.read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "p.json").read_text())["ffn_similarity"]) == 3
    text = tmp_path / "t.jsonl"
    text.write_text('{"text": "def f(x): return x"}\n' * 4)
    adapt = ("adapt", "--model", model, "--plan", "swift_kv:keep=1", "--steps", "1", "--out", tmp_path / "s")
    assert command(*adapt, "--text", text) == 0
    assert json.loads((tmp_path / "s" / "adapted.json").read_text())["stages"][0]["method"] == "SwiftKV distillation"


BARE = """
from calibration.cli import main
for words in {commands!r}:
    assert main(["quality", *words]) == 0, words
"""


def test_a_gpu_machine_needs_nothing_but_torch(model, tmp_path):
    """Train, run, adapt and profile where polars, SimPy, plotly and numba are missing.

    Nor SciPy: but transformers takes what pip has listed for installed, so that one is only looked for in our modules.
    """
    ours = [m for name, m in sys.modules.items() if name.startswith(("calibration.quality", "engine"))]
    assert not [m for m in ours if "scipy" in vars(m)]
    made, few = tmp_path / "made", ("--items", "1")
    commands = [
        ("train", "--steps", "1", "--out", made),
        ("train", "--size", "h200", "--check", "--out", made),
        ("run", "--model", model, "--plans", "swift_kv:keep=1", *few, "--distil-steps", "1",
         "--out", tmp_path / "t.json", "--adapted", tmp_path / "adapted"),
        ("profile", "--model", model, *few, "--out", tmp_path / "p.json"),
    ]  # fmt: skip
    words = [[str(word) for word in command] for command in commands]
    without = WITHOUT.replace('"scipy", ', "")
    done = subprocess.run([sys.executable, "-c", without + BARE.format(commands=words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (made / "training.json").exists()
    assert len(json.loads((tmp_path / "t.json").read_text())["summaries"]) == 3


def test_bad_input_is_named(model, tmp_path):
    with pytest.raises(PlanError, match=r"keep=9 must be"):
        examine_all(run_of(model, tmp_path, plans=("swift_kv:keep=9",)))
    with pytest.raises(InputError, match="empty"):
        examine_all(run_of(model, tmp_path, count=0))
    bare = tmp_path / "bare"
    copytree(model, bare)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bare / file).unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        command("run", "--model", bare)
    with pytest.raises(InputError, match="has no tokenizer"):
        command("adapt", "--model", bare, "--plan", "swift_kv", "--out", tmp_path / "x", "--text", tmp_path / "t.jsonl")
    (bare / "quality.json").unlink()
    with pytest.raises(InputError, match="give --text"):
        command("adapt", "--model", bare, "--plan", "swift_kv", "--out", tmp_path / "x")
    with pytest.raises(InputError, match="nothing to adapt to"):
        command("adapt", "--model", model, "--plan", "self_speculative:exit_layer=1", "--out", tmp_path / "x")
    with pytest.raises(InputError, match="unknown size"):
        command("train", "--size", "tpu", "--out", tmp_path / "x")
    with pytest.raises(InputError, match="unknown family"):
        command("run", "--model", model, "--only", "swiftkv", "--items", "1", "--out", tmp_path / "x")
    with pytest.raises(InputError, match="unknown family"):
        command("train", "--family", "gpt", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()
