"""INV-6: what is counted from a plan's table equals the closed form; and the published figures come out."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.plans import check
from sim.plans import closed_forms as form
from sim.plans.catalogue import MODELS, model_named
from sim.plans.model import ModelShape
from sim.plans.plan import KV
from sim.plans.strategies import compose, dense, ffn_skip, skip_decode, swift_kv
from sim.plans.strategies.depth import budget_schedule
from tests.gen import models


def exactly(value: float) -> object:
    return pytest.approx(value, rel=1e-12)


@given(models(), st.integers(1, 5000), st.integers(0, 300))
def test_dense(model: ModelShape, s: int, t: int) -> None:
    plan, full, n = dense(model), model.layers, s + t + 1
    token = 2 * full * model.d_kv * 2
    assert form.prefill_flops(plan, model, s) == exactly(form.dense_prefill(model, s))
    assert form.decode_flops(plan, model, t, n) == exactly(form.budget_decode(model, full, n))
    assert form.decode_weight_bytes(plan, model, [t, 0, 5]) == exactly(2 * (full * model.p_layer + model.p_head))
    assert form.kv_bytes_per_token(plan, model, t) == token
    assert form.kv_read_bytes(plan, model, t, n) == form.resident_kv_bytes(plan, model, s, t + 1) == token * n


@given(models(), st.data(), st.integers(1, 500), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_skip_decode(model: ModelShape, data: st.DataObject, s: int, ts: list[int]) -> None:
    w = data.draw(st.integers(0, model.layers - 1))
    low = data.draw(st.integers(w + 1, model.layers))
    high = data.draw(st.integers(low, model.layers))
    plan = skip_decode(model, max_budget=high, min_budget=low, warmup_layers=w, schedule_tokens=20)
    budget = budget_schedule(high, low, 20)
    b = [int(budget[min(t, 19)]) for t in ts]
    assert form.prefill_flops(plan, model, s) == exactly(form.dense_prefill(model, s))
    assert form.decode_weight_bytes(plan, model, ts) == exactly(form.budget_weight_bytes(model, max(b)))
    for t, layers in zip(ts, b, strict=True):
        n = s + t + 1
        assert form.decode_flops(plan, model, t, n) == exactly(form.budget_decode(model, layers, n))
        assert form.kv_bytes_per_token(plan, model, t) == 2 * layers * model.d_kv * 2
        assert form.resident_kv_bytes(plan, model, s, t + 1) == 2 * model.d_kv * 2 * layers * n
    assert form.resident_kv_bytes(plan, model, s, 0) == form.resident_kv_bytes(dense(model), model, s, 0)


@pytest.mark.parametrize(("name", "speedup", "s", "tokens"), [("opt-1.3b", 2, 100, 500), ("opt-6.7b", 5, 1500, 400)])
def test_skip_decode_mean_over_the_schedule(name: str, speedup: float, s: int, tokens: int) -> None:
    """The discrete mean tends to the integral: it differs by terms in 1 / tokens."""
    model = model_named(name)
    total, low = 2 * model.layers / speedup, 2
    plan = skip_decode(model, speedup=speedup, schedule_tokens=tokens)
    counted = np.mean([form.decode_flops(plan, model, t, s + t + 1) for t in range(tokens)])
    assert counted == pytest.approx(form.budget_decode_mean(model, total - low, low, s, tokens), rel=2 / tokens)


@given(models(), st.data(), st.integers(1, 500), st.integers(1, 8))
def test_ffn_skip(model: ModelShape, data: st.DataObject, s: int, rows: int) -> None:
    rates = np.array(data.draw(st.lists(st.floats(0, 1), min_size=model.layers, max_size=model.layers)))
    plan = ffn_skip(model, skip=rates, run_length=model.layers, cold_layers=0, warmup_tokens=3)
    asleep, awake = 2, 3
    n = s + awake + 1
    assert form.prefill_flops(plan, model, s) == exactly(form.dense_prefill(model, s))
    assert form.decode_flops(plan, model, awake, n) == exactly(form.ffn_skip_decode(model, rates.sum(), n))
    assert form.decode_flops(plan, model, asleep, n) == exactly(form.budget_decode(model, model.layers, n))
    step = form.decode_weight_bytes(plan, model, np.full(rows, awake))
    assert step == exactly(form.ffn_skip_weight_bytes(model, rates, rows))
    mixed = form.decode_weight_bytes(plan, model, [awake, asleep])
    assert mixed == exactly(form.budget_weight_bytes(model, model.layers))
    assert form.kv_bytes_per_token(plan, model, awake) == form.kv_bytes_per_token(dense(model), model, 0)


def test_only_rows_that_reach_a_layer_have_a_say_in_its_ffn() -> None:
    """Row 0 runs layer 1 and its gate may spare the FFN; row 9 is past the decay and does not come by."""
    model = model_named("opt-125m")
    decay = skip_decode(model, max_budget=12, min_budget=2, schedule_tokens=2)
    gate = ffn_skip(model, skip=np.full(12, 0.5), run_length=12, cold_layers=0, warmup_tokens=0)
    both = compose(decay, gate)
    spared = form.decode_weight_bytes(decay, model, [0, 9]) - form.decode_weight_bytes(both, model, [0, 9])
    assert spared == exactly(2 * model.p_ffn * (10 * 0.5 + 2 * 0.5**2))


@given(models(), st.data(), st.integers(1, 5000), st.integers(0, 300))
def test_swift_kv(model: ModelShape, data: st.DataObject, s: int, t: int) -> None:
    keep = data.draw(st.integers(1, model.layers))
    above, n = model.layers - keep, s + t + 1
    group = data.draw(st.sampled_from([g for g in range(1, max(above, 1) + 1) if above % g == 0]))
    plan = swift_kv(model, keep=keep, group=group)
    token = form.kv_bytes_per_token(dense(model), model, 0)
    share = form.swift_kv_cache_share(model, keep, group)
    assert form.prefill_flops(plan, model, s) == exactly(form.swift_kv_prefill(model, keep, group, s))
    assert form.decode_flops(plan, model, t, n) == exactly(form.swift_kv_decode(model, keep, group, n))
    assert form.decode_weight_bytes(plan, model, t) == exactly(form.swift_kv_weight_bytes(model, keep, group))
    chunk = 2 * (keep * model.p_layer + model.p_kv * above / group)
    assert form.prefill_weight_bytes(plan, model, samples=False) == exactly(chunk)
    assert form.prompt_token_flops(plan, model) == exactly(chunk)
    assert form.kv_bytes_per_token(plan, model, t) == exactly(share * token)
    assert form.resident_kv_bytes(plan, model, s, t + 1) == exactly(share * token * n)
    assert form.kv_read_bytes(plan, model, t, n) == token * n, "each layer reads the shared bank again"
    assert plan.caches.size == keep + above // group == ((plan.prompt & KV) > 0).sum()


def test_every_published_figure_comes_out() -> None:
    rows = check.check_rows()
    assert len(rows) > 100
    assert [row for row in rows if not row.ok] == []


def test_the_check_fails_when_a_figure_is_off() -> None:
    row = check.check_rows()[0]
    assert not replace(row, computed=row.computed + 2.1 * row.tolerance).ok
    assert not replace(row, computed=float("nan")).ok


def test_fp8_weights_and_cache_are_half_of_bf16() -> None:
    model = model_named("llama-3.1-8b")
    plan = swift_kv(model)
    assert form.decode_weight_bytes(plan, model, 0) == 2 * form.decode_weight_bytes(plan, model, 0, weight_bytes=1.0)
    assert form.resident_kv_bytes(plan, model, 9, 1) == 2 * form.resident_kv_bytes(plan, model, 9, 1, kv_bytes=1.0)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("opt-125m", 0.125),
        ("opt-66b", 65.7),
        ("llama-2-70b", 68.98),
        ("llama-3.1-405b", 405.85),
        ("llama-3.2-1b", 1.236),
        ("llama-3.2-3b", 3.21),
        ("qwen2.5-7b", 7.62),
        ("qwen2.5-14b", 14.77),
        ("qwen2.5-72b", 72.7),
        ("mistral-7b", 7.248),
    ],
)
def test_parameters_are_those_on_the_model_card(name: str, billions: float) -> None:
    """Within 1 %: norms, biases and positions are left out."""
    assert MODELS[name].parameters / 1e9 == pytest.approx(billions, rel=0.01 if billions > 1 else 0.02)
