"""The expected skip rates of the FFN gate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import PlanError
from sim.plans.catalogue import MODELS, model_named
from sim.plans.rules import FfnGate
from sim.plans.strategies import ffn_skip
from sim.plans.strategies.ffn import similarity_profile

deep = sorted(name for name, model in MODELS.items() if model.layers >= 16)


@given(st.sampled_from(deep), st.floats(0.001, 1), st.integers(2, 12), st.integers(0, 7))
def test_a_share_within_reach_is_the_mean_rate(name: str, share: float, cadence: int, cold: int) -> None:
    model = MODELS[name]
    most = (model.layers - cold - max(1, cold)) * (1 - 1 / cadence) / model.layers
    if share > most:
        with pytest.raises(PlanError, match=f"at most {most:.3f}"):
            ffn_skip(model, share=share, cadence=cadence, cold_layers=cold)
        return
    gate = ffn_skip(model, share=share, cadence=cadence, cold_layers=cold).gate
    assert gate is not None
    assert gate.mean_skip == pytest.approx(share)
    assert not gate.skip[:cold].any()
    assert not gate.skip[model.layers - cold :].any()
    gate = ffn_skip(model, share=share, cadence=cadence, cold_layers=cold, spread=1).gate
    assert gate is not None
    assert gate.mean_skip == pytest.approx(share)
    assert gate.threshold <= 0.95
    skipped = np.flatnonzero(gate.skip)
    assert cold <= skipped[0]
    assert skipped[-1] < model.layers - cold
    assert (np.diff(skipped) == 1).all()
    assert skipped.size == gate.run_length
    assert (gate.skip <= 1 - 1 / cadence + 1e-12).all()


def test_the_published_profiles_cross_where_the_authors_logs_do() -> None:
    """First skipped layer 20.8 on average (7B) and 19 to 20 (13B): one after the crossing of the means."""
    for name in ("llama-2-7b", "llama-2-13b"):
        gate = ffn_skip(model_named(name), run_length=2, spread=1).gate
        assert gate is not None
        assert gate.threshold == 0.95
        assert np.flatnonzero(gate.skip).tolist() == [21, 22]


def test_a_quarter_is_within_reach_of_the_published_threshold_on_13b_but_not_on_7b() -> None:
    gate = ffn_skip(model_named("llama-2-13b"), share=0.25).gate
    assert gate is not None
    assert (gate.threshold, gate.run_length) == (0.95, 12)
    with pytest.raises(PlanError, match=r"out of reach on llama-2-7b at threshold=0\.95.*at most 0\.156"):
        ffn_skip(model_named("llama-2-7b"), share=0.25, threshold=0.95)


@given(st.integers(1, 90), st.floats(-1, 1), st.integers(0, 90), st.integers(0, 50))
def test_cold_layers_never_skip(layers: int, threshold: float, run: int, cold: int) -> None:
    model = MODELS["llama-3.1-8b"].__class__(**{**vars(MODELS["llama-3.1-8b"]), "layers": layers})
    gate = ffn_skip(model, threshold=threshold, run_length=min(run, layers), cold_layers=cold).gate
    if gate is not None:
        assert not gate.skip[:cold].any()
        assert not gate.skip[max(0, layers - cold) :].any()
        assert np.count_nonzero(gate.skip) <= gate.run_length + 11


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_higher_threshold_never_skips_more(one: float, other: float) -> None:
    model = model_named("llama-2-7b")
    low, high = (ffn_skip(model, threshold=t, run_length=32).gate for t in sorted((one, other)))
    assert low is not None
    assert high is not None
    assert high.mean_skip <= low.mean_skip


@given(st.integers(1, 200))
def test_a_profile_has_one_cosine_per_layer(layers: int) -> None:
    profile = similarity_profile(layers)
    assert profile.shape == (layers,)
    assert 0.7 < profile.min() <= profile.max() < 1


def test_a_measured_profile_is_taken_as_it_is() -> None:
    model = model_named("opt-1.3b")
    rates = np.linspace(0, 0.8, model.layers)
    gate = ffn_skip(model, skip=rates, run_length=6, threshold=0.9).gate
    assert gate is not None
    assert (gate.skip == rates).all()
    assert gate.source == "measured"


def test_a_gate_checks_itself() -> None:
    """Measured gates are made without the strategy."""
    for arguments, message in (
        ({"threshold": float("nan")}, "threshold=nan must be a finite number"),
        ({"cadence": 0}, "cadence=0 must be at least 1"),
        ({"skip": np.array([0.5, 1.5])}, "must be shares in 0..1"),
    ):
        good = {"threshold": 0.9, "cold_layers": 1, "run_length": 2, "cadence": 6, "warmup_tokens": 4}
        with pytest.raises(PlanError, match=message):
            FfnGate(**{**good, "skip": np.zeros(2), **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.2, "run_length": 3}, "share=0.2 already decides run_length"),
        ({"skip": np.zeros(24)}, "needs the run_length that it was measured with"),
        ({"skip": np.full(24, np.nan), "run_length": 3}, "must be shares in 0..1"),
        ({"skip": np.zeros(23), "run_length": 3}, "the gate knows 23 layers, the plan 24"),
        ({"threshold": float("nan")}, "threshold=nan must be a number in -1..2"),
        ({"share": float("nan")}, "share=nan must be a number in 0..1"),
        ({"run_length": 25}, "run_length=25 must be a whole number in 0..24"),
        ({"cadence": 0}, "cadence=0 must be a whole number"),
        ({"cold_layers": -1}, "cold_layers=-1 must be a whole number"),
    ],
)
def test_bad_arguments_name_the_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        ffn_skip(model_named("opt-1.3b"), **arguments)  # type: ignore[arg-type]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(2, 64))
def test_runs_that_spread_more_save_a_batch_less(one: int, other: int, rows: int) -> None:
    """The mean rate is the same; what all rows agree on shrinks."""
    model = model_named("llama-3.1-8b")
    narrow, wide = (ffn_skip(model, share=0.25, spread=w).gate for w in sorted((one, other)))
    assert narrow is not None
    assert wide is not None
    agree_narrow, agree_wide = (g.all_skip(np.array([rows])).mean() for g in (narrow, wide))
    assert agree_wide <= agree_narrow + 1e-12


def test_a_batch_of_eight_saves_next_to_nothing() -> None:
    gate = ffn_skip(model_named("llama-3.1-8b"), share=0.25).gate
    assert gate is not None
    assert gate.all_skip(np.array([1])).mean() == pytest.approx(0.25)
    assert gate.all_skip(np.array([8])).mean() < 0.02
