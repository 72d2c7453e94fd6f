"""Training: a function of its seed, resumable without a trace, readable by transformers, loud when it diverges."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from calibration.quality import train as training
from calibration.quality.budget import budget_of
from calibration.quality.sampling import training_step
from calibration.quality.sizes import CPU, H200, size_of
from calibration.quality.steps import prepared
from calibration.quality.suite import _skip_decode
from calibration.quality.tasks import tasks_of
from calibration.quality.train import Training, look, train
from calibration.quality.vocabulary import Vocabulary
from calibration.quality.world import SMALL, read_world
from engine.adapt_folder import read_twin
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.plan import plan_of

TINY = replace(CPU, layers=2, hidden=32, heads=2, kv_heads=2, ffn=32, mix={"copy": 6, "facts": 4})
logging.disable_progress_bar()
torch.set_num_threads(1)


def run(out: Path, **changes: object) -> Training:
    return replace(Training(TINY, "llama", out, steps=6, save_every=2, look_every=6), **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(autouse=True)
def _blink(monkeypatch):
    """Look at few items: what is looked at is not what is tested."""
    monkeypatch.setattr(training, "look", lambda twin, tasks: look(twin, {"copy": tasks["copy"]}, count=2))


def same(a: Path, b: Path) -> bool:
    one, other = weights(a), weights(b)
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_seed_is_a_model(tmp_path):
    first, second, other = (train(run(tmp_path / n, seed=s)) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert same(first, second)
    assert not same(first, other)


def test_an_interrupted_run_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = train(run(tmp_path / "whole"))

    class Interrupted(Exception):
        pass

    def stop(step: int, text: str) -> None:
        if step == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(run(tmp_path / "cut"), progress=stop)
    steps = []
    cut = train(run(tmp_path / "cut"), progress=lambda step, text: steps.append(step))
    assert steps == [5, 6], "taken up after step 4, the last that was saved"
    assert same(whole, cut)
    assert not (cut / "unfinished").exists()


def test_another_run_is_not_taken_up(tmp_path):
    out = tmp_path / "m"

    def stop(step: int, text: str) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run(out), progress=stop)
    with pytest.raises(InputError, match="another kind"):
        train(run(out, seed=4))


def test_divergence_is_an_error_and_keeps_what_was_saved(tmp_path):
    out = tmp_path / "wild"

    def poison(step: int, text: str) -> None:
        if step == 4:
            poisoned.append(step)

    poisoned: list[int] = []
    real = training.gradients

    def nan_at_last(*args: object) -> torch.Tensor:
        loss = real(*args)
        return loss * float("nan") if poisoned else loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "gradients", nan_at_last)
        with pytest.raises(InputError, match=r"diverged at step 4: .*keeps step 4; .*--lr"):
            train(run(out), progress=poison)
    assert json.loads((out / "unfinished" / "progress.json").read_text())["step"] == 4
    assert same(train(run(out)), train(run(tmp_path / "tame"))), "and it goes on from there"


def test_a_wild_rate_diverges(tmp_path):
    with pytest.raises(InputError, match="diverged"):
        train(run(tmp_path / "w", steps=30, lr_scale=1e20))


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_folder_is_everybodys(family, tmp_path):
    folder = train(run(tmp_path / "m", family=family, steps=2))
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = torch.tensor([tokenizer("⟨copy⟩⟨symbol 1⟩⟨symbol 7⟩⟨=⟩")["input_ids"]])
    twin = read_twin(folder)
    with torch.no_grad():
        mine = twin.logits(twin(tokens, twin.schedule(plan_of(2, name="dense"), torch.tensor([4]), 4)))
        assert torch.allclose(mine, hf(tokens).logits, atol=1e-5)
    assert read_world(folder) == SMALL
    assert size_of(folder) == CPU
    record = json.loads((folder / "training.json").read_text())
    assert record["provenance"]["torch"] == torch.__version__
    assert record["curve"][-1]["step"] == 2


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_what_a_gpu_will_be_asked_for_fits(family):
    """No GPU was held to find out: every text fits its row, the run its eight minutes, the model its memory."""
    found = budget_of(H200, family)
    assert 100e6 < found["parameters"] < 350e6
    assert found["parameters"] == pytest.approx(model_params(family), rel=3e-3)  # biases and norms apart
    assert found["seconds"]["316 TFLOP/s"] < 300
    assert found["memory_gb"] < 60
    assert found["padding"] < 0.4
    assert H200.widths[-1] <= H200.context
    items = training_step(tasks_of(Vocabulary(H200.world)), H200.adapt_mix, seed=1, step=0)
    assert max(len(i.prompt) + len(i.answer) for i in items) <= H200.widths[-1]
    assert {i.task for i in items} == set(H200.mix)


def model_params(family: str) -> int:
    """By hand: a layer's four attention matrices and its FFN, and one embedding."""
    d, kv, vocabulary = H200.hidden, H200.hidden * H200.kv_heads // H200.heads, len(Vocabulary(H200.world))
    if family == "opt":
        layer = 4 * d * d + 2 * d * (H200.ffn * 3 // 2)
        return H200.layers * layer + d * (vocabulary + H200.context)
    return H200.layers * (2 * d * d + 2 * d * kv + 3 * d * H200.ffn) + d * vocabulary


def test_a_deep_model_is_put_through_what_a_small_one_cannot():
    """Five times fewer layers need more than eight of them; the GPU's size has them."""
    shape = replace(model_named("opt-1.3b"), layers=H200.layers)
    fits = {c.label for c in _skip_decode(shape) if c.plan}
    assert {f"skip_decode {x}x, 1 warm-up" for x in (2, 3, 4, 5)} <= fits


def test_other_processes_prepare_the_same_steps():
    here, there = (list(prepared(CPU, 3, range(2), workers=n)) for n in (0, 1))
    for (i, mine), (j, theirs) in zip(here, there, strict=True):
        assert i == j
        assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(mine, theirs, strict=True))


def test_a_look_scores_every_task(tmp_path):
    folder = train(run(tmp_path / "m", steps=1))
    seen = look(read_twin(folder), tasks_of(Vocabulary(SMALL)), count=2)
    assert set(seen) == set(CPU.mix)
    assert seen["code"] > 1
    assert seen["facts"] == 0
