"""INV-20: what a priced step counts is what the plan's closed forms say, and no step does more than the dense model."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.cost.times import KernelTimes
from sim.plans import closed_forms as count
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, SkipPlan, plan_of
from sim.plans.rules import FfnGate
from sim.plans.strategies import compose, dense, self_speculative, skip_decode, swift_kv
from tests.gen import Row, composed_plans, models, plans, steps
from tests.planted import Planted
from tests.sim.cost.steps import GPU, decodes, price, sources, tables_of

lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 25)), min_size=1, max_size=8)


def counted(plan: SkipPlan, model: ModelShape, rows: list[Row], *, tp: int = 1) -> dict[str, float]:
    """Counters of one step in bf16."""
    return price(tables_of(plan, Deployment(model, GPU, tp=tp), Planted()), rows).work


def undrafted(plan: SkipPlan) -> bool:
    return plan.draft is None


@given(st.data(), models(), lengths)
def test_decode_steps_count_the_closed_forms(
    data: st.DataObject, model: ModelShape, rows: list[tuple[int, int]]
) -> None:
    plan = data.draw(plans(model).filter(undrafted))
    prompts, fed = ([*column] for column in zip(*rows))
    work = counted(plan, model, decodes(prompts, fed))
    at = [(t, s + t + 1) for s, t in rows]
    assert work["flops"] == pytest.approx(sum(count.decode_flops(plan, model, t, n) for t, n in at))
    assert work["kv_read_bytes"] == pytest.approx(sum(count.kv_read_bytes(plan, model, t, n) for t, n in at))
    assert work["weight_bytes"] == pytest.approx(count.decode_weight_bytes(plan, model, fed))
    none = dense(model)
    assert work["flops_dense"] == pytest.approx(sum(count.decode_flops(none, model, t, n) for t, n in at))
    assert work["weight_bytes_dense"] == pytest.approx(count.decode_weight_bytes(none, model, fed))
    assert work["kv_read_bytes_dense"] == pytest.approx(sum(count.kv_read_bytes(none, model, t, n) for t, n in at))


@given(st.data(), models(), st.lists(st.integers(1, 80), min_size=1, max_size=5))
def test_whole_prompts_count_the_closed_forms(data: st.DataObject, model: ModelShape, prompts: list[int]) -> None:
    plan = data.draw(plans(model))
    work = counted(plan, model, [Row(s, 0, 0, s) for s in prompts])
    assert work["flops"] == pytest.approx(sum(count.prefill_flops(plan, model, s) for s in prompts))
    assert work["flops_dense"] == pytest.approx(sum(count.prefill_flops(dense(model), model, s) for s in prompts))
    if max(prompts) > 1:
        assert work["weight_bytes"] == pytest.approx(count.prefill_weight_bytes(plan, model, samples=True))


@given(st.data(), models(), st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_the_chunks_of_a_prompt_count_as_the_whole(data: st.DataObject, model: ModelShape, chunks: list[int]) -> None:
    """FLOPs do not depend on the cut; weights are read again by every chunk, the head once."""
    plan = data.draw(plans(model))
    ends = np.cumsum(chunks)
    s = int(ends[-1])
    parts = [counted(plan, model, [Row(s, 0, int(end - new), new)]) for end, new in zip(ends, chunks)]
    assert sum(part["flops"] for part in parts) == pytest.approx(count.prefill_flops(plan, model, s))
    inner = count.prefill_weight_bytes(plan, model, samples=False)
    assert all(part["weight_bytes"] == pytest.approx(inner) for part in parts[:-1])
    read = sum(int(end) for end in ends) * model.kv_bytes_per_token_layer()
    attending = [(row & ATTN > 0).sum() for row in (plan.prompt, plan.prompt | plan.sampled)]
    cached = sum(part["kv_read_bytes"] for part in parts)
    assert read * attending[0] <= cached * (1 + 1e-9)
    assert cached <= read * attending[1] * (1 + 1e-9)


@given(st.data(), models(), steps())
def test_no_step_does_more_than_the_dense_model(data: st.DataObject, model: ModelShape, rows: list[Row]) -> None:
    """INV-5, per step: realised savings are shares in 0..1."""
    plan = data.draw(plans(model).filter(undrafted))
    work = counted(plan, model, rows)
    for name in ("flops", "weight_bytes", "kv_read_bytes", "row_layers"):
        assert 0 <= work[name] <= work[f"{name}_dense"] * (1 + 1e-9)


@given(st.data(), models(min_layers=3), steps())
def test_counts_do_not_depend_on_the_gpus(data: st.DataObject, model: ModelShape, rows: list[Row]) -> None:
    """Tensor parallelism divides the work, it does not change it."""
    assume(model.heads % 2 == 0 and (model.kv_heads % 2 == 0 or model.kv_heads == 1))
    plan = data.draw(composed_plans(model))
    assert counted(plan, model, rows) == counted(plan, model, rows, tp=2)


@given(models(), st.floats(0, 1), st.integers(1, 40), st.integers(1, 10))
def test_a_gate_saves_weights_only_where_all_rows_agree(model: ModelShape, p: float, rows: int, warmup: int) -> None:
    """p^B of the FFN weights are saved by B rows past the warm-up, none as soon as one row is before it."""
    gate = FfnGate(0.9, 0, 1, 6, warmup, np.full(model.layers, p))
    plan = plan_of(model.layers, name="gated", gate=gate)
    late = decodes([5] * rows, [warmup] * rows)
    ffn = 2.0 * model.layers * model.p_ffn
    full = counted(dense(model), model, late)["weight_bytes"]
    assert full - counted(plan, model, late)["weight_bytes"] == pytest.approx(ffn * p**rows, abs=1e-6 * full)
    mixed = [*late, *decodes([5], [warmup - 1])]
    assert counted(plan, model, mixed)["weight_bytes"] == pytest.approx(full)
    assert counted(plan, model, late)["flops"] == pytest.approx(
        sum(count.decode_flops(plan, model, warmup, 6 + warmup) for _ in late)
    )


@given(models(min_layers=4), st.integers(1, 6), st.integers(1, 6))
def test_rows_that_do_not_reach_a_layer_do_not_open_its_gate(model: ModelShape, young: int, old: int) -> None:
    """Once the rows with an open gate were counted for all layers: FLOPs of layers they had left went negative."""
    gated = plan_of(model.layers, name="g", gate=FfnGate(0.9, 0, 1, 6, 3, np.full(model.layers, 0.8)))
    plan = compose(skip_decode(model, max_budget=model.layers, min_budget=1, warmup_layers=0, schedule_tokens=4), gated)
    fed = [0] * young + [20] * old
    work = counted(plan, model, decodes([9] * len(fed), fed))
    assert work["flops"] == pytest.approx(sum(count.decode_flops(plan, model, t, 10 + t) for t in fed))
    assert work["weight_bytes"] == pytest.approx(count.decode_weight_bytes(plan, model, fed))


@given(models(min_layers=2), st.integers(1, 5), st.integers(1, 6), st.data())
def test_drafts_are_verified_in_the_layers_that_did_not_draft_them(
    model: ModelShape, tokens: int, rows: int, data: st.DataObject
) -> None:
    """A draft pass reads the first layers and the head again; FLOPs are those of every token in every layer once."""
    exit_layer = data.draw(st.integers(1, model.layers - 1))
    plan = self_speculative(model, exit_layer=exit_layer, tokens=tokens)
    one = decodes([7] * rows, [3] * rows)
    many = [row._replace(tokens=1 + tokens) for row in one]
    base, work = counted(plan, model, one), counted(plan, model, many)
    passes = 2.0 * exit_layer * model.p_layer * tokens
    assert work["weight_bytes"] - base["weight_bytes"] == pytest.approx(passes)
    matrices = 2.0 * model.layers * model.p_layer * rows * tokens
    assert work["flops"] - base["flops"] == pytest.approx(matrices)
    assert work["flops_dense"] == base["flops_dense"]


@given(models(min_layers=4), st.integers(1, 4), st.integers(1, 9), st.sets(st.integers(1, 16), max_size=4))
def test_recomputed_tokens_are_chunks_not_drafts(
    model: ModelShape, tokens: int, generated: int, cuts: set[int]
) -> None:
    """A sequence that was preempted computes its generated tokens again, each once and in its own depth."""
    plan = self_speculative(model, exit_layer=1, tokens=tokens)
    n = 8 + generated
    ends = sorted({*cuts, n} & {*range(1, n + 1)})
    chunks = [Row(8, generated, first, end - first) for first, end in zip([0, *ends], ends)]
    parts = [counted(plan, model, [chunk]) for chunk in chunks]
    assert parts == [counted(dense(model), model, [chunk]) for chunk in chunks]
    assert sum(part["flops"] for part in parts) == pytest.approx(count.dense_prefill(model, n))
    read = [end + 8 * (first < 8 < end) for first, end in zip([0, *ends], ends)]  # prompt and output are chunks of two
    cached = model.layers * model.kv_bytes_per_token_layer()
    assert [part["kv_read_bytes"] for part in parts] == pytest.approx([cached * tokens for tokens in read])


@given(models(min_layers=4), sources, st.integers(1, 6))
def test_shared_caches_are_written_once_under_drafts_too(model: ModelShape, times: KernelTimes, tokens: int) -> None:
    """A layer that reads another's cache projects no keys, not even for the drafts it verifies."""
    keep = model.layers - 2
    home = swift_kv(model, keep=keep, group=2)
    plan = compose(home, self_speculative(model, exit_layer=1, tokens=tokens))
    rows = [row._replace(tokens=1 + tokens) for row in decodes([7], [3])]
    work = price(tables_of(plan, Deployment(model, GPU), times), rows).work
    without = price(tables_of(home, Deployment(model, GPU), times), decodes([7], [3])).work
    assert work["weight_bytes"] - without["weight_bytes"] == pytest.approx(2.0 * model.p_layer * tokens)
