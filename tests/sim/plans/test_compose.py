"""Composition: plans meet in any order; the dense plan is neutral, a plan with itself is itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import PlanError
from sim.plans.catalogue import model_named
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, FULL, KV
from sim.plans.strategies import (
    compose,
    cross_layer_kv,
    dense,
    ffn_skip,
    self_speculative,
    skip_decode,
    static_depth,
    swift_kv,
)
from tests.gen import depth_plans, gated_plans, kv_plans, models, plans


@given(st.data(), models())
def test_the_dense_plan_is_neutral_on_both_sides(data: st.DataObject, model: ModelShape) -> None:
    plan = data.draw(plans(model))
    for both in (compose(plan, dense(model)), compose(dense(model), plan)):
        assert both.digest == plan.digest
        assert both.name == (plan.name if not plan.is_dense else "dense")


@given(st.data(), models())
def test_order_does_not_matter(data: st.DataObject, model: ModelShape) -> None:
    parts = [data.draw(some(model)) for some in (kv_plans, depth_plans, depth_plans, gated_plans)]
    assert compose(*data.draw(st.permutations(parts))).digest == compose(*parts).digest


@given(st.data(), models())
def test_grouping_changes_nothing_but_keys_that_nobody_reads(data: st.DataObject, model: ModelShape) -> None:
    a, b, c = data.draw(kv_plans(model)), data.draw(depth_plans(model)), data.draw(depth_plans(model))
    at_once = compose(a, b, c)
    for nested in (compose(compose(a, b), c), compose(a, compose(b, c))):
        for position in range(16):
            ours, theirs = at_once.flags_at(position, 3), nested.flags_at(position, 3)
            assert set((ours ^ theirs).tolist()) <= {0, KV}
            assert not (ours & ~theirs).any()


@given(st.data(), models())
def test_a_plan_with_itself_is_itself(data: st.DataObject, model: ModelShape) -> None:
    plan = data.draw(kv_plans(model) | depth_plans(model) | gated_plans(model))
    assert compose(plan, plan).digest == plan.digest


@given(st.data(), models())
def test_a_token_runs_what_both_let_it_run(data: st.DataObject, model: ModelShape) -> None:
    a, b = data.draw(kv_plans(model)), data.draw(depth_plans(model))
    both = compose(a, b)
    work = ATTN | FFN
    for position in range(16):
        mine, yours, ours = (plan.flags_at(position, 3) for plan in (a, b, both))
        assert ((mine & yours & work) == (ours & work)).all()
        assert not (ours & ~mine & KV).any(), "composing never writes keys that the sharing plan does not write"


def test_a_leader_whose_group_is_still_read_goes_on_writing() -> None:
    """SkipDecode runs layer 31 alone of the group 28..31: layer 28 writes keys without attending."""
    model = model_named("llama-3.1-8b")
    plan = compose(swift_kv(model, group=4), skip_decode(model, max_budget=32, min_budget=2))
    last = plan.decode[-1]
    assert last[28] == KV
    assert last[31] == ATTN | FFN
    assert last[0] == FULL
    assert np.count_nonzero(last) == 3
    assert plan.live_caches[-1] == 2
    assert (plan.prompt == swift_kv(model, group=4).prompt).all()


def test_static_depth_takes_its_layers_from_the_prompt_too() -> None:
    model = model_named("llama-3.1-8b")
    plan = compose(swift_kv(model), static_depth(model, drop=[3, 20]))
    assert plan.prompt[[2, 3, 16, 20]].tolist() == [FULL, 0, KV, 0]
    assert plan.decode[0][[3, 20]].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        (swift_kv, cross_layer_kv, "both decide where keys and values live"),
        (self_speculative, skip_decode, "a draft is verified in full depth"),
        (ffn_skip, self_speculative, "a draft is verified in full depth"),
    ],
)
def test_what_does_not_go_together_is_refused(a: object, b: object, why: str) -> None:
    model = model_named("llama-3.1-8b")
    for first, second in ((a, b), (b, a)):
        with pytest.raises(PlanError, match=f"cannot compose .*{why}"):
            compose(first(model), second(model))  # type: ignore[operator]


def test_two_gates_and_two_depths_are_refused() -> None:
    model, other = model_named("llama-3.1-8b"), model_named("opt-1.3b")
    with pytest.raises(PlanError, match="both bring an FFN gate"):
        compose(ffn_skip(model), ffn_skip(model, share=0.3))
    with pytest.raises(PlanError, match="both bring a draft"):
        compose(self_speculative(model), self_speculative(model, tokens=3))
    with pytest.raises(PlanError, match="for 32 layers with 'dense' for 24"):
        compose(dense(model), dense(other))
