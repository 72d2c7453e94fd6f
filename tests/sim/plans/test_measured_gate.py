"""A measured profile prices as it was measured: joint rates where rows agree, independence where none are known."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.lower import groups_of
from sim.errors import ElideError, InputError, PlanError
from sim.plans.catalogue import model_named
from sim.plans.rules import FfnGate, Together
from sim.plans.spec import strategy_named

SHAPE = model_named("llama-3.1-8b")


def profile(file: Path, *, layers: int = 32, **changes: object) -> Path:
    rates = np.linspace(0, 0.5, layers)
    joint = [
        {"rows": b, "aged": (rates ** (b**0.5)).tolist(), "mixed": (rates ** (b**0.8)).tolist()} for b in (1, 4, 16)
    ]
    gate = {"target": 0.25, "threshold": 0.9, "run_length": 4, "cold_layers": 1, "cadence": 6, "warmup_tokens": 1,
            "skip": rates.tolist(), "joint": joint}  # fmt: skip
    file.write_text(
        json.dumps({"model": "mine", "gates": [gate | changes, {"target": 0.9, "why_not": "out of reach"}]})
    )
    return file


def test_a_profile_of_this_depth_is_taken_as_it_is(tmp_path):
    plan = strategy_named(f"ffn_skip:profile={profile(tmp_path / 'p.json')}", SHAPE)
    gate = plan.gate
    assert gate is not None
    assert gate.source == "measured"
    assert (gate.threshold, gate.run_length, gate.cold_layers, gate.warmup_tokens) == (0.9, 4, 1, 1)
    assert np.allclose(gate.skip, np.linspace(0, 0.5, 32))
    assert np.allclose(gate.all_skip(np.array([1]))[0], gate.skip)
    assert np.allclose(gate.all_skip(np.array([16]))[0], gate.skip ** (16**0.8))
    aged = strategy_named(f"{plan.name},aged=true", SHAPE)
    assert (aged.gate.all_skip(np.array([2, 8])) >= gate.all_skip(np.array([2, 8]))).all()
    assert aged.digest != plan.digest, "what is priced differently is another plan"
    assert strategy_named(plan.name, SHAPE).digest == plan.digest
    assert len(groups_of(plan).first) == 32, "layers that agree differently are priced apart"


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(1, 200))
def test_joint_rates_lie_between_their_neighbours_and_end_with_what_was_measured(rates, rows):
    together = Together(np.array([1, 2, 8]), np.sort(rates)[::-1][:, None])
    (share,) = together.of(np.array([rows]))[0]
    assert share <= max(rates) + 1e-12
    assert share == 0 if rows > 8 else share >= min(rates) - 1e-12
    more = together.of(np.arange(1, 10))[:, 0]
    assert (np.diff(more) <= 1e-12).all(), "a larger batch never saves more"


def test_another_depth_is_stretched_and_says_so(tmp_path):
    file = profile(tmp_path / "p.json", layers=8)
    gate = strategy_named(f"ffn_skip:profile={file}", SHAPE).gate
    assert gate.source == "measured on the 8 layers of mine and stretched"
    assert gate.run_length == 16
    assert gate.skip.mean() == pytest.approx(0.25)
    assert gate.skip[0] == 0
    assert gate.skip[-1] == 0.5


def test_what_a_profile_cannot_give_is_refused(tmp_path):
    good = profile(tmp_path / "p.json")
    with pytest.raises(PlanError, match=r"has gates for share=0\.25, not 0\.5"):
        strategy_named(f"ffn_skip:profile={good},share=0.5", SHAPE)
    with pytest.raises(PlanError, match="decides the rule"):
        strategy_named(f"ffn_skip:profile={good},run_length=3", SHAPE)
    with pytest.raises(PlanError, match="give profile=FILE"):
        strategy_named("ffn_skip:aged=1", SHAPE)
    with pytest.raises(InputError, match="cannot be read"):
        strategy_named(f"ffn_skip:profile={tmp_path / 'none.json'}", SHAPE)
    for changes in ({"skip": [[0.1]]}, {"skip": []}, {"joint": [{"rows": 2}]}, {"threshold": "x"},
                    {"skip": [2.0] * 32}):  # fmt: skip
        with pytest.raises(ElideError):
            strategy_named(f"ffn_skip:profile={profile(tmp_path / 'bad.json', **changes)}", SHAPE)
    for text in ("", "[]", '{"gates": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="is no profile"):
            strategy_named(f"ffn_skip:profile={tmp_path / 'bad.json'}", SHAPE)


def test_independent_rows_are_the_default():
    gate = FfnGate(0.9, 1, 1, 6, 1, np.array([0.5, 0.2]))
    assert np.allclose(gate.all_skip(np.array([1, 3])), [[0.5, 0.2], [0.125, 0.008]])
    with pytest.raises(PlanError, match="joint rates of 3 layers"):
        FfnGate(0.9, 1, 1, 6, 1, np.array([0.5, 0.2]), "x", Together(np.array([1]), np.zeros((1, 3))))
