"""INV-5: a plan contained in another never costs more FLOPs or weight bytes, and never holds or moves more KV."""

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.plans import closed_forms as count
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan, plan_of
from sim.plans.strategies import compose, dense
from tests.gen import composed_plans, depth_plans, gated_plans, kv_plans, models, plans


def contained(a: SkipPlan, b: SkipPlan) -> bool:
    """Whether each token does no more under `a` than under `b`, with keys kept in the same layers, or b dense."""
    tokens = max(a.decode.shape[0], b.decode.shape[0])
    flags = all(not (a.flags_at(p, 2) & ~b.flags_at(p, 2)).any() for p in range(2 + tokens))
    gated = b.gate is None or (a.gate is not None and a.gate.key == b.gate.key)
    return flags and gated and (b.is_dense or (a.kv_owner == b.kv_owner).all())


def costs(plan: SkipPlan, model: ModelShape, s: int, ts: list[int]) -> np.ndarray:
    """Everything that is counted from a table, for prompts of s tokens and a step with rows at `ts`."""
    per_row = [
        value
        for t in ts
        for value in (
            count.decode_flops(plan, model, t, s + t + 1),
            count.kv_bytes_per_token(plan, model, t),
            count.kv_read_bytes(plan, model, t, s + t + 1),
            count.resident_kv_bytes(plan, model, s, t),
        )
    ]
    step = [
        count.prefill_flops(plan, model, s),
        count.decode_weight_bytes(plan, model, ts),
        count.prefill_weight_bytes(plan, model, samples=True),
        count.prefill_weight_bytes(plan, model, samples=False),
    ]
    return np.array(per_row + step)


def assert_never_more(a: SkipPlan, b: SkipPlan, model: ModelShape, s: int, ts: list[int]) -> None:
    less, more = costs(a, model, s, ts), costs(b, model, s, ts)
    assert (less <= more * (1 + 1e-12)).all(), (a.name, b.name, less, more)


steps = st.lists(st.integers(0, 15), min_size=1, max_size=6)


@given(st.data(), models(), st.integers(1, 50), steps)
def test_every_plan_is_contained_in_the_dense_one(
    data: st.DataObject, model: ModelShape, s: int, ts: list[int]
) -> None:
    plan = data.draw(plans(model))
    assert contained(plan, dense(model))
    assert_never_more(plan, dense(model), model, s, ts)


@given(st.data(), models(), st.integers(1, 50), steps)
def test_a_composition_is_contained_in_the_part_that_keeps_the_keys(
    data: st.DataObject, model: ModelShape, s: int, ts: list[int]
) -> None:
    home, guest = data.draw(kv_plans(model)), data.draw(depth_plans(model) | gated_plans(model))
    assume(not home.is_dense)
    both = compose(home, guest)
    assert contained(both, home)
    assert_never_more(both, home, model, s, ts)


@given(st.data(), models(), st.integers(1, 50), steps)
def test_leaving_out_an_ffn_or_a_layer_never_costs_more(
    data: st.DataObject, model: ModelShape, s: int, ts: list[int]
) -> None:
    plan = data.draw(composed_plans(model))
    rows = plan.decode.copy()
    rows[:, data.draw(st.integers(0, model.layers - 1))] &= ~np.uint8(data.draw(st.sampled_from((1, 2, 3))))
    less = plan_of(
        model.layers,
        name="less",
        prompt=plan.prompt,
        sampled=plan.sampled,
        decode=rows,
        kv_input=plan.kv_input,
        kv_owner=plan.kv_owner,
        gate=plan.gate,
    )
    assert contained(less, plan)
    assert_never_more(less, plan, model, s, ts)


@given(st.data(), models(), steps, st.integers(0, 15))
def test_one_more_row_never_reads_fewer_weights(
    data: st.DataObject, model: ModelShape, ts: list[int], one_more: int
) -> None:
    plan = data.draw(plans(model))
    few, many = (count.decode_weight_bytes(plan, model, rows) for rows in (ts, [*ts, one_more]))
    assert few <= many * (1 + 1e-12)
    assert many <= count.decode_weight_bytes(dense(model), model, 0)
