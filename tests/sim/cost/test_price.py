"""The price of a step: exact by hand where that can be done, monotone, and never more for a plan that does less."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment, Host
from sim.cost.roofline import Roofline
from sim.cost.times import KernelTimes
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, SkipPlan, plan_of
from sim.plans.strategies import dense, early_exit
from tests.gen import Row, composed_plans, depth_plans, gated_plans, models, plans, steps
from tests.planted import Planted
from tests.sim.cost.steps import GPU, Priced, decodes, deployments, price, sources, tables_of

SLOW = Host(graph_rows=10**6)  # every step is replayed from a graph


def device_ns(priced: Priced) -> int:
    return priced.ns - priced.parts["launch"] - priced.parts["host"]


def ungated(plan: SkipPlan) -> bool:
    """Behind a gate the rows that skip leave large GEMMs: a jump down at the size where compaction begins."""
    return plan.gate is None and plan.draft is None


@given(st.data(), models(), sources)
def test_the_parts_are_the_step(data: st.DataObject, model: ModelShape, times: KernelTimes) -> None:
    """INV-21: no part is negative, they add up to the step to the nanosecond, and a roofline measures none of them."""
    plan = data.draw(plans(model))
    rows = data.draw(steps(plan.draft.tokens if plan.draft else 0))
    priced = price(tables_of(plan, data.draw(deployments(model)), times), rows)
    assert min(priced.parts.values()) >= 0
    assert sum(priced.parts.values()) == priced.ns
    outside = priced.work["outside_ns"]
    expected = device_ns(priced) if isinstance(times, Roofline) else 0
    assert outside == pytest.approx(expected, abs=2 * model.layers)


@given(models(min_layers=3), st.integers(1, 20))
def test_time_is_outside_once_in_every_layer_that_spends_it(model: ModelShape, generated: int) -> None:
    """INV-21, for a sequence recomputed in the middle of its output, where it attends in one layer only."""
    row = Row(5, generated + 12, 5 + generated, 4)
    for plan in (dense(model), early_exit(model, at=1)):
        priced = price(tables_of(plan, Deployment(model, GPU), Roofline(GPU)), [row])
        assert priced.work["outside_ns"] == pytest.approx(device_ns(priced), abs=model.layers)


@given(st.data(), models(), sources, steps())
def test_launch_and_host(data: st.DataObject, model: ModelShape, times: KernelTimes, rows: list[Row]) -> None:
    """INV-23: graphs hide launches but for a gap, eager steps wait where the host is slower, overlap hides the host."""
    on = data.draw(deployments(model))
    host = on.host
    priced = price(tables_of(dense(model), on, times), rows)
    kernels = model.layers * (9 + 2 * (on.tp > 1)) + 4
    launch = kernels * host.graph_gap_ns
    prompts = any(row.first < row.prompt for row in rows)
    if sum(row.tokens for row in rows) > host.graph_rows or (prompts and not host.graph_prompts):
        launch = max(launch, kernels * host.eager_launch_ns - device_ns(priced))
    assert priced.parts["launch"] == launch
    work = host.step_ns + host.row_ns * len(rows)
    hidden = device_ns(priced) + launch if host.overlap else 0
    assert priced.parts["host"] == max(0, work - hidden)


@given(st.data(), models(), sources, steps(max_rows=5), steps(max_rows=2))
def test_more_rows_are_never_cheaper(
    data: st.DataObject, model: ModelShape, times: KernelTimes, rows: list[Row], more: list[Row]
) -> None:
    """INV-24, in rows."""
    plan = data.draw(plans(model).filter(ungated))
    tables = tables_of(plan, data.draw(deployments(model)), times)
    few, many = price(tables, rows), price(tables, rows + more)
    assert few.ns <= many.ns
    assert few.work["flops"] <= many.work["flops"] * (1 + 1e-12)
    assert few.work["weight_bytes"] <= many.work["weight_bytes"] * (1 + 1e-12)


def smaller(data: st.DataObject, plan: SkipPlan) -> SkipPlan:
    """The plan without some of its attention and feed-forward blocks; keys are left as they were."""

    def thin(row: np.ndarray) -> np.ndarray:
        out = data.draw(st.lists(st.sampled_from((0, 0, ATTN, FFN, ATTN | FFN)), min_size=len(row), max_size=len(row)))
        return row & ~np.array(out, dtype=np.uint8)

    return replace(
        plan,
        name="smaller",
        prompt=thin(plan.prompt),
        sampled=thin(plan.sampled),
        decode=np.stack([thin(row) for row in plan.decode]),
        monotone=False,
    )


def floors(plan: SkipPlan, rows: list[Row], tables: object) -> float:
    """What a contained plan may pay once more: the floor of a kernel that its container shares between chunks."""
    again = sum(row.generated > 0 and row.first < row.prompt + row.generated - 1 for row in rows)
    sampled = ((plan.sampled & ~plan.prompt & ATTN) > 0).any()
    ends = sum(row.first < row.prompt <= row.first + row.tokens for row in rows)
    return (again + sampled * ends) * plan.layers * tables.prefill_ns[0, 0]  # type: ignore[attr-defined]


@given(st.data(), models(), sources, steps(max_rows=6))
def test_a_plan_contained_in_another_never_costs_more(
    data: st.DataObject, model: ModelShape, times: KernelTimes, rows: list[Row]
) -> None:
    """INV-24, in plans: per step, replayed from graphs, keys from the same streams; launches one by one may be more."""
    plan = data.draw((depth_plans(model) | plans(model)).filter(ungated))
    on = Deployment(model, GPU, host=SLOW, tp=1)
    less = smaller(data, plan)
    tables = tables_of(less, on, times)
    cheap, dear = price(tables, rows), price(tables_of(plan, on, times), rows)
    assert cheap.ns <= dear.ns + floors(less, rows, tables)


@given(st.data(), models(), sources, steps(max_rows=6))
def test_leaving_out_layers_never_costs_more_than_the_dense_model(
    data: st.DataObject, model: ModelShape, times: KernelTimes, rows: list[Row]
) -> None:
    plan = data.draw(depth_plans(model))
    on = Deployment(model, GPU, host=SLOW)
    tables = tables_of(plan, on, times)
    assert price(tables, rows).ns <= price(tables_of(dense(model), on, times), rows).ns + floors(plan, rows, tables)


@given(st.data(), models(), sources, steps(max_rows=6))
def test_a_gate_never_costs_more_than_none(
    data: st.DataObject, model: ModelShape, times: KernelTimes, rows: list[Row]
) -> None:
    plan = data.draw(gated_plans(model))
    on = data.draw(deployments(model))
    assert price(tables_of(plan, on, times), rows).ns <= price(tables_of(dense(model), on, times), rows).ns


@given(models(min_layers=3), sources, st.integers(1, 8), st.integers(1, 30))
def test_rows_that_only_leave_keys_never_make_a_step_slower(
    model: ModelShape, times: KernelTimes, young: int, prompt: int
) -> None:
    """Beside a prompt, decodes that exit early once paid for a GEMM of their own in every layer above."""
    rows = [Row(prompt, 0, 0, prompt), *decodes([9] * young, [3] * young)]
    on = Deployment(model, GPU, host=SLOW)
    early = price(tables_of(early_exit(model, at=1, kv_fill=True), on, times), rows)
    assert early.ns <= price(tables_of(dense(model), on, times), rows).ns


@given(st.data(), models(), steps())
def test_fp8_is_never_slower_than_bf16(data: st.DataObject, model: ModelShape, rows: list[Row]) -> None:
    """INV-25, on a roofline: half of the bytes and no fewer FLOP/s, for weights and for keys."""
    plan, on = data.draw(plans(model)), data.draw(deployments(model))
    assume(plan.draft is None)
    times = Roofline(GPU)
    whole = price(tables_of(plan, replace(on, weights="bf16", kv="bf16"), times), rows).ns
    for kind in ({"weights": "fp8"}, {"kv": "fp8"}, {"weights": "fp8", "kv": "fp8"}):
        half = replace(on, **{"weights": "bf16", "kv": "bf16", **kind})  # type: ignore[arg-type]
        assert price(tables_of(plan, half, times), rows).ns <= whole


@given(models(), st.integers(1, 8), st.integers(100, 400))
def test_fp8_halves_what_it_is_said_of(model: ModelShape, rows: int, context: int) -> None:
    """INV-25: narrow weights show in the weights' part alone, narrow keys in the part that reads them."""
    step = [*decodes([context] * rows, [0] * rows), Row(2 * context, 0, context, 1)]
    wide, weights, keys = (
        price(tables_of(dense(model), Deployment(model, GPU, weights=w, kv=k), Roofline(GPU)), step).parts
        for w, k in (("bf16", "bf16"), ("fp8", "bf16"), ("bf16", "fp8"))
    )
    assert weights["weights"] < wide["weights"] == keys["weights"]
    assert keys["kv"] < wide["kv"] == weights["kv"]
    assert keys["compute"] < wide["compute"], "the chunk reads its keys too"


@given(models(), sources, steps())
def test_two_gpus_share_the_kernels_and_pay_for_it_in_messages(
    model: ModelShape, times: KernelTimes, rows: list[Row]
) -> None:
    """INV-25: a GPU of two takes at most the time of one alone, and at least half of it; one alone sends nothing."""
    assume(model.heads % 2 == 0 and (model.kv_heads % 2 == 0 or model.kv_heads == 1))
    one, two = (price(tables_of(dense(model), Deployment(model, GPU, tp=tp), times), rows).parts for tp in (1, 2))
    assert one["communication"] == 0
    assert two["communication"] > 0
    for part in ("weights", "kv", "pointwise"):
        assert two[part] <= one[part]
        assert 2 * two[part] >= one[part] * (1 - 1e-9) - 20 * model.layers


@given(st.data(), models(min_layers=2), st.integers(1, 3))
def test_a_plan_of_another_depth_is_refused(data: st.DataObject, model: ModelShape, extra: int) -> None:
    plan = data.draw(composed_plans(model))
    deeper = replace(model, layers=model.layers + extra)
    with pytest.raises(ValueError, match=f"is for {model.layers} layers, toy has {model.layers + extra}"):
        tables_of(plan, Deployment(deeper, GPU), Planted())
    assert plan_of(model.layers, name="dense").is_dense
