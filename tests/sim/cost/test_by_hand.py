"""INV-22: whole steps, priced by hand from the kernels that they launch."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.plans.model import ModelShape
from sim.plans.plan import FULL, KV, plan_of
from sim.plans.strategies import dense, swift_kv
from tests.gen import Row, models
from tests.planted import Planted
from tests.sim.cost.steps import GPU, Priced, decodes, price, tables_of

T = Planted()
lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 25)), min_size=1, max_size=8)


def gemm(rows: int, n: int, k: int) -> float:
    return T.gemm(rows, n, k, "bf16")[0][0]


def pointwise(moved: float) -> float:
    return T.elementwise(moved)[0][0]


def device_ns(priced: Priced) -> int:
    return priced.ns - priced.parts["launch"] - priced.parts["host"]


def projections(m: ModelShape, b: int, tp: int = 1) -> float:
    """Everything of one dense layer but attention and messages, for b tokens, on one of tp GPUs."""
    d, q, kv, f = m.hidden, m.d_q // tp, max(1, m.kv_heads // tp) * m.head_dim, m.ffn // tp
    up = (2 if m.gated_ffn else 1) * f
    attention = gemm(b, q + 2 * kv, d) + gemm(b, d, q) + pointwise(8 * d * b) + pointwise(b * (4 * (q + kv) + 6 * kv))
    return attention + gemm(b, up, d) + gemm(b, d, f) + pointwise(8 * d * b) + pointwise(2 * (up + f) * b)


def ends(m: ModelShape, b: int, sampled: int, tp: int = 1) -> float:
    """Embedding of b tokens; norm, head and sampler of those that yield one."""
    head = gemm(sampled, m.vocab // tp, m.hidden) + pointwise(8 * m.hidden * sampled) + pointwise(4 * m.vocab * sampled)
    return pointwise(4 * m.hidden * b) + head


@given(models(), lengths, st.sampled_from((1, 2)))
def test_a_dense_decode_step(model: ModelShape, rows: list[tuple[int, int]], tp: int) -> None:
    assume(tp == 1 or (model.heads % 2 == 0 and (model.kv_heads % 2 == 0 or model.kv_heads == 1)))
    b = len(rows)
    attention = T.floor + T.per_row * b + T.per_pair * sum(s + t + 1 for s, t in rows)
    message = T.all_reduce(2 * b * model.hidden, tp)[0][0]
    layer = projections(model, b, tp) + attention + 2 * message
    prompts, fed = ([*column] for column in zip(*rows))
    priced = price(tables_of(dense(model), Deployment(model, GPU, tp=tp), T), decodes(prompts, fed))
    assert device_ns(priced) == pytest.approx(model.layers * layer + ends(model, b, b, tp), abs=model.layers)
    assert priced.parts["kv"] == pytest.approx(model.layers * attention, abs=model.layers)
    assert priced.parts["communication"] == 2 * model.layers * message


@given(models(), st.lists(st.sampled_from((1, 2, 3, 5, 8, 16)), min_size=1, max_size=4))
def test_dense_prompts(model: ModelShape, prompts: list[int]) -> None:
    """One head row per prompt; one attention kernel for all chunks, so what a single token costs is paid once."""
    on, new = Deployment(model, GPU), np.array(prompts)
    tables = tables_of(dense(model), on, T)
    assume(np.isin(new, tables.prefill_new).all())
    attention = T.prefill_attention(new, 0, 1, 1, 1, "bf16")[0]
    alone = T.prefill_attention(1, 0, 1, 1, 1, "bf16")[0][0]
    layer = projections(model, int(new.sum())) + attention.sum() - alone * (new.size - 1)
    priced = price(tables, [Row(s, 0, 0, s) for s in prompts])
    total = model.layers * layer + ends(model, int(new.sum()), new.size)
    assert device_ns(priced) == pytest.approx(total, abs=model.layers)
    middle = price(tables, [Row(s + 1, 0, 0, s) for s in prompts])
    assert device_ns(priced) - device_ns(middle) == pytest.approx(ends(model, 0, new.size) - pointwise(0), abs=1)


@given(models(min_layers=4), st.integers(1, 12))
def test_keys_that_come_from_one_stream_are_one_gemm(model: ModelShape, rows: int) -> None:
    """SwiftKV: layer l* projects its own keys with its queries, those above it all at once, AcrossKV none of them."""
    d, kv = model.hidden, model.d_kv
    step, on = decodes([4] * rows, [0] * rows), Deployment(model, GPU)
    base = device_ns(price(tables_of(dense(model), on, T), step))
    fused = gemm(rows, model.d_q + 2 * kv, d) - gemm(rows, model.d_q, d)
    wide = gemm(rows, 2 * 2 * kv, d) + pointwise(rows * 2 * 2 * kv * 4)
    for group, apart in ((1, wide), (3, 0)):
        plan = swift_kv(model, keep=model.layers - 3, group=group)
        swift = device_ns(price(tables_of(plan, on, T), step))
        assert swift - base == pytest.approx(apart - 2 * fused, abs=1)


@given(models(min_layers=4, max_layers=4), st.integers(1, 12))
def test_keys_of_two_streams_are_two_gemms(model: ModelShape, rows: int) -> None:
    step, on = decodes([4] * rows, [0] * rows), Deployment(model, GPU)
    one, two = (
        device_ns(price(tables_of(plan_of(4, name="streams", kv_input=streams), on, T), step))
        for streams in ([0, 1, 1, 1], [0, 1, 0, 1])
    )
    kv = 2 * model.d_kv
    wide, narrow = (gemm(rows, n * kv, model.hidden) + pointwise(4 * n * kv * rows) for n in (2, 1))
    assert two - one == pytest.approx(2 * narrow - wide, abs=1)


@given(models(min_layers=2), st.integers(1, 12))
def test_a_layer_that_only_leaves_keys(model: ModelShape, rows: int) -> None:
    """Its projection and the write, nothing else."""
    step, on = decodes([4] * rows, [0] * rows), Deployment(model, GPU)
    one, other = (
        device_ns(price(tables_of(plan_of(model.layers, name="exit", decode=[[*below, last]]), on, T), step))
        for below, last in (([FULL] * (model.layers - 1), KV), ([FULL] * (model.layers - 1), 0))
    )
    kv = 2 * model.d_kv
    assert one - other == gemm(rows, kv, model.hidden) + pointwise(4 * kv * rows)
