"""INV-2 monotone, INV-3 one exit per position, INV-4 neutral settings are the dense plan; and what a plan object is."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.errors import PlanError
from sim.plans.catalogue import MODELS, model_named
from sim.plans.model import ModelShape
from sim.plans.plan import FULL, SkipPlan, dense_digest, plan_of
from sim.plans.rules import FfnGate
from sim.plans.strategies import (
    STRATEGIES,
    compose,
    cross_layer_kv,
    early_exit,
    ffn_skip,
    self_speculative,
    skip_decode,
    static_depth,
    swift_kv,
    unified_skip,
)
from sim.plans.strategies.depth import budget_schedule, budgets_for
from tests.gen import models, plans, strategy_plans


@given(st.data(), models())
def test_strategies_are_monotone(data: st.DataObject, model: ModelShape) -> None:
    """INV-2: what generated token t+1 runs, token t ran; so caches only ever die."""
    plan = data.draw(strategy_plans(model))
    assert plan.monotone
    assert not (plan.decode[1:] & ~plan.decode[:-1]).any()
    assert (np.diff(plan.live_caches) <= 0).all()


def test_a_broken_promise_of_monotone_depth_is_refused() -> None:
    with pytest.raises(PlanError, match="promises monotone depth"):
        plan_of(2, name="rising", decode=[[FULL, 0], [FULL, 2]])


@given(st.integers(1, 40), st.data(), st.integers(2, 300))
def test_skip_decode_runs_the_bottom_and_the_top(layers: int, data: st.DataObject, tokens: int) -> None:
    """INV-3: the layers of a position follow from its generated index alone: w at the bottom, b - w at the top."""
    w = data.draw(st.integers(0, layers - 1))
    low = data.draw(st.integers(w + 1, layers))
    high = data.draw(st.integers(low, layers))
    model = replace(model_named("opt-125m"), layers=layers)
    plan = skip_decode(model, max_budget=high, min_budget=low, warmup_layers=w, schedule_tokens=tokens)
    budgets = budget_schedule(high, low, tokens)
    for t in {0, tokens // 2, tokens - 1, tokens + 7}:
        b = budgets[min(t, tokens - 1)]
        rows = [plan.flags_at(s + t, s) for s in (1, 2, 17)]
        assert all((row == rows[0]).all() for row in rows)
        assert np.flatnonzero(rows[0]).tolist() == [*range(w), *range(layers - (b - w), layers)]
        assert set(rows[0].tolist()) <= {0, FULL}


@given(st.floats(1, 200), st.floats(0, 1), st.integers(2, 600))
def test_budget_schedule_keeps_the_mean_of_the_line(high: float, drop: float, tokens: int) -> None:
    low = high * (1 - drop)
    budgets = budget_schedule(high, low, tokens)
    assert (np.diff(budgets) <= 0).all()
    assert abs(budgets.sum() - tokens * (high + low) / 2) <= 0.5 + 1e-6
    assert np.floor(low) <= budgets[-1] <= budgets[0] <= np.ceil(high)


@given(st.sampled_from(sorted(MODELS)), st.floats(1, 5), st.integers(0, 2))
def test_speedup_is_a_mean_of_layers(name: str, speedup: float, warmup: int) -> None:
    layers = MODELS[name].layers
    high, low = budgets_for(layers, speedup=min(speedup, layers / (warmup + 1)), warmup_layers=warmup)
    assert high + low == pytest.approx(2 * layers / min(speedup, layers / (warmup + 1)))
    assert warmup + 1 - 1e-9 <= low <= high <= layers + 1e-9


@given(models(), st.integers(1, 6), st.floats(1.000001, 2))
def test_neutral_settings_are_the_dense_plan(model: ModelShape, any_number: int, above: float) -> None:
    """INV-4: same digest, so same graphs, same prices, same tokens."""
    full = model.layers
    neutral = [
        skip_decode(model, max_budget=full, min_budget=full, schedule_tokens=1 + any_number),
        skip_decode(model, speedup=1, warmup_layers=min(any_number, full - 1)),
        ffn_skip(model, threshold=above, run_length=any_number % (full + 1)),
        ffn_skip(model, threshold=above, share=0.9),
        ffn_skip(model, run_length=0),
        ffn_skip(model, share=0),
        ffn_skip(model, run_length=1, cadence=1),
        swift_kv(model, keep=full),
        unified_skip(model, speedup=1),
        static_depth(model, drop=0),
        static_depth(model, drop=[]),
        early_exit(model, at=full, kv_fill=bool(any_number % 2)),
        cross_layer_kv(model, group=1),
    ]
    assert {plan.digest for plan in neutral} == {dense_digest(full)}
    assert all(plan.is_dense and plan.nominal_skip == plan.prompt_skip == 0 for plan in neutral)


@given(models(min_layers=3))
def test_what_is_not_neutral_is_not_dense(model: ModelShape) -> None:
    active = [
        skip_decode(model, max_budget=model.layers - 1, min_budget=2),
        ffn_skip(model, run_length=1, cold_layers=0),
        swift_kv(model, keep=model.layers - 1),
        static_depth(model, drop=1),
        early_exit(model, at=model.layers - 1),
        self_speculative(model),
        cross_layer_kv(model, group=model.layers),
    ]
    assert len({plan.digest for plan in active} | {dense_digest(model.layers)}) == len(active) + 1


@given(st.data(), models())
def test_a_digest_is_of_the_content_not_of_the_name(data: st.DataObject, model: ModelShape) -> None:
    plan = data.draw(plans(model))
    assert replace(plan, name="another", note="text").digest == plan.digest
    flags = plan.decode.copy()
    flags[data.draw(st.integers(0, len(flags) - 1)), data.draw(st.integers(0, model.layers - 1))] ^= 2
    assert replace(plan, decode=flags, monotone=False).digest != plan.digest


@given(st.data(), models())
def test_arrays_are_read_only_and_not_the_callers(data: st.DataObject, model: ModelShape) -> None:
    plan = data.draw(plans(model))
    for array in (plan.prompt, plan.sampled, plan.decode, plan.kv_input, plan.kv_owner):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    mine = np.full((1, model.layers), FULL)
    dense = plan_of(model.layers, name="mine", decode=mine)
    mine[:] = 0
    assert dense.is_dense


@given(st.data(), models(), st.integers(1, 5))
def test_repeats_at_the_end_are_trimmed(data: st.DataObject, model: ModelShape, repeats: int) -> None:
    plan = data.draw(plans(model))
    longer = replace(plan, decode=np.concatenate([plan.decode, np.repeat(plan.decode[-1:], repeats, axis=0)]))
    assert longer.decode.shape == plan.decode.shape
    assert longer.digest == plan.digest
    assert plan.decode.shape[0] == 1 or (plan.decode[-1] != plan.decode[-2]).any()


@given(models(min_layers=4), st.floats(1.05, 2.0), st.integers(2, 400))
def test_nominal_skip_is_what_the_speedup_promises(model: ModelShape, speedup: float, tokens: int) -> None:
    """Over the whole schedule, however many of its last tokens run the same layers; alone and in a composition."""
    assume(speedup <= model.layers / 2)
    plan = skip_decode(model, speedup=speedup, schedule_tokens=tokens)
    half_a_layer = 0.5 / (tokens * model.layers)
    assert plan.nominal_skip == pytest.approx(1 - 1 / speedup, abs=half_a_layer + 1e-9)
    assert plan.schedule.shape == (tokens, model.layers)
    assert compose(swift_kv(model), plan).nominal_skip == pytest.approx(plan.nominal_skip)
    assert replace(plan, name="renamed").nominal_skip == plan.nominal_skip


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_strategy_has_a_default_for_every_model(name: str) -> None:
    """ffn_skip alone may refuse: its ten cold layers leave OPT-125m's twelve no room for a quarter."""
    model = MODELS[name]
    for strategy in STRATEGIES.values():
        if strategy is ffn_skip and model.layers == 12:
            with pytest.raises(PlanError, match=r"out of reach on opt-125m.*at most 0\.139"):
                strategy(model)
        else:
            assert strategy(model).layers == model.layers


@given(models(min_layers=3), st.floats(0, 1))
def test_nominal_skip_counts_a_gate_only_where_an_ffn_is_left(model: ModelShape, p: float) -> None:
    gate = FfnGate(0.9, 0, model.layers, 6, 0, np.full(model.layers, p))
    half = np.zeros((1, model.layers), dtype=np.uint8)
    half[0, 0] = FULL
    plan = plan_of(model.layers, name="one layer", decode=half, gate=gate)
    assert plan.nominal_skip == pytest.approx(1 - (1 + (1 - p)) / (2 * model.layers))


def test_static_layers_need_not_be_loaded() -> None:
    plan = static_depth(model_named("llama-3.1-8b"), drop=8)
    assert np.flatnonzero(~plan.resident_layers).tolist() == list(range(20, 28))
    assert plan.caches.size == 24


def test_swift_kv_drops_prompt_tokens_above_the_split_but_never_their_keys() -> None:
    plan = swift_kv(model_named("llama-3.1-8b"), group=4)
    assert plan.prompt.tolist() == [7] * 16 + [4, 0, 0, 0] * 4
    assert plan.sampled.tolist() == plan.decode[0].tolist() == [7] * 16 + [7, 3, 3, 3] * 4
    assert plan.kv_owner.tolist() == [*range(16)] + [16] * 4 + [20] * 4 + [24] * 4 + [28] * 4
    assert plan.kv_input.tolist() == [*range(16)] + [16] * 16


@given(models(), st.data())
def test_groups_of_swift_kv_start_at_the_split(model: ModelShape, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, model.layers - 1))
    above = model.layers - keep
    group = data.draw(st.sampled_from([g for g in range(1, above + 1) if above % g == 0]))
    leaders = [leader for leader in range(keep, model.layers, group) for _ in range(group)]
    assert swift_kv(model, keep=keep, group=group).kv_owner.tolist() == [*range(keep), *leaders]


@pytest.mark.parametrize(
    ("name", "speedup", "stays"),
    [("opt-1.3b", 3, [0, 3, 6, 9, 12, 15, 18, 23]), ("opt-6.7b", 5, [0, 6, 12, 18, 24, 31])],
)
def test_unified_skip_keeps_the_ends_and_the_stride(name: str, speedup: float, stays: list[int]) -> None:
    """int(L / speedup) layers, int(L / (that - 1)) apart, as in the authors' code."""
    assert np.flatnonzero(unified_skip(model_named(name), speedup=speedup).decode[0]).tolist() == stays


@given(models(), st.data())
def test_unified_skip_keeps_as_many_layers_as_it_says(model: ModelShape, data: st.DataObject) -> None:
    speedup = data.draw(st.floats(1, model.layers / 2))
    plan = unified_skip(model, speedup=speedup)
    assert (plan.decode[0] == FULL).sum() == int(model.layers / speedup)


def test_shapes_and_maps_are_checked() -> None:
    good = {"name": "x", "prompt": [7, 7], "sampled": [7, 7], "decode": [[7, 7]]} | {
        "kv_input": [0, 1],
        "kv_owner": [0, 1],
    }
    for field, value, message in (
        ("decode", [7, 7], "must be \\[tokens ≥ 1, layers\\]"),
        ("decode", [[7]], "decode is 1 layers wide"),
        ("sampled", [7], "sampled has shape"),
        ("prompt", [8, 7], "flags out of"),
        ("kv_input", [1, 1], "kv_input\\[0\\]=1"),
        ("kv_owner", [0, -1], "kv_owner\\[1\\]=-1"),
        ("gate", FfnGate(0.9, 0, 1, 6, 0, np.zeros(3)), "the gate knows 3 layers"),
    ):
        with pytest.raises(PlanError, match=message):
            SkipPlan(**{**good, field: value})  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="must own it itself"):
        plan_of(3, name="chain", kv_owner=[0, 0, 1])
