"""INV-26: KV memory is what the weights leave, in blocks of the caches that the plan keeps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.cost.deployment import GIB, Deployment, Host
from sim.cost.hardware import gpu_named
from sim.errors import CapacityError, InputError, UnknownName
from sim.plans import closed_forms
from sim.plans.catalogue import MODELS, model_named
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, KV, SkipPlan, plan_of
from sim.plans.strategies import dense, early_exit, static_depth, swift_kv
from tests.gen import models, plans

LLAMA = model_named("llama-3.1-8b")
H200 = gpu_named("h200")
LIMITS = {"max_num_batched_tokens": 2048, "max_num_seqs": 64}


def blocks(on: Deployment, plan: SkipPlan, block_tokens: int = 16) -> int:
    return on.kv_capacity_blocks(plan, block_tokens=block_tokens, **LIMITS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_weights_are_the_parameters(name: str) -> None:
    model = MODELS[name]
    on = Deployment(model, H200)
    assert on.weight_bytes_per_gpu(dense(model)) == 2.0 * model.parameters
    layers = model.layers * model.p_layer
    assert replace(on, weights="fp8").weight_bytes_per_gpu(dense(model)) == 2.0 * model.parameters - layers


@given(st.data(), models())
def test_only_blocks_that_somebody_runs_are_loaded(data: st.DataObject, model: ModelShape) -> None:
    """A layer that only leaves keys needs its key projection, one that reads another's cache does not."""
    plan = data.draw(plans(model))
    used = plan.prompt | plan.sampled | np.bitwise_or.reduce(plan.decode, axis=0)
    held = sum(
        ((used & flag) > 0).sum() * size for flag, size in ((ATTN, model.p_qo), (KV, model.p_kv), (FFN, model.p_ffn))
    )
    vocabulary = model.p_head * (1 if model.tied_embeddings else 2)
    assert Deployment(model, H200).weight_bytes_per_gpu(plan) == 2.0 * (held + vocabulary)


def test_the_projections_of_keys_follow_the_keys() -> None:
    one = LLAMA.p_kv * 2.0
    full = Deployment(LLAMA, H200).weight_bytes_per_gpu(dense(LLAMA))
    assert full - Deployment(LLAMA, H200).weight_bytes_per_gpu(swift_kv(LLAMA, keep=16, group=4)) == 12 * one
    exits = plan_of(32, name="x", prompt=[7] * 16 + [4] * 16, sampled=[7] * 16 + [4] * 16, decode=[[7] * 16 + [4] * 16])
    left = 16 * (LLAMA.p_qo + LLAMA.p_ffn) * 2.0
    assert full - Deployment(LLAMA, H200).weight_bytes_per_gpu(exits) == left
    assert Deployment(LLAMA, H200).weight_bytes_per_gpu(early_exit(LLAMA, at=16, kv_fill=True)) == full


@given(st.floats(0.3, 1), st.floats(0.3, 1), st.sampled_from((1, 2, 4, 8)), st.sampled_from(("bf16", "fp8")))
def test_more_memory_holds_more(low: float, high: float, tp: int, kv: str) -> None:
    """In memory, in GPUs and in the width of a key; fewer tokens kept free for activations count too."""
    on = Deployment(LLAMA, H200, tp=tp, kv=kv)  # type: ignore[arg-type]
    plan = dense(LLAMA)
    less, more = (blocks(replace(on, memory_utilization=u), plan) for u in sorted((low, high)))
    assert less <= more
    assert tp == 8 or blocks(on, plan) < blocks(replace(on, tp=2 * tp), plan)
    assert blocks(replace(on, kv="bf16"), plan) <= blocks(replace(on, kv="fp8"), plan)
    assert blocks(on, plan) <= blocks(replace(on, weights="fp8"), plan)
    assert blocks(on, plan) <= on.kv_capacity_blocks(plan, block_tokens=16, max_num_batched_tokens=64, max_num_seqs=64)


@given(st.sampled_from((1, 2, 4, 8)), st.sampled_from((1, 2, 4, 8)), st.sampled_from((8, 16, 32)))
def test_blocks_fill_the_memory(tp: int, group: int, block_tokens: int) -> None:
    """Not one block more would fit beside weights and activations."""
    plan = swift_kv(LLAMA, keep=16, group=group)
    on = Deployment(LLAMA, H200, tp=tp)
    fit = blocks(on, plan, block_tokens)
    per_block = on.kv_bytes_per_block(plan, block_tokens)
    assert per_block == plan.caches.size * block_tokens * LLAMA.kv_bytes_per_token_layer() / tp
    used = on.weight_bytes_per_gpu(plan) + on.activation_bytes_per_gpu(2048, 64)
    assert used + fit * per_block <= 0.9 * H200.memory_bytes < used + (fit + 1) * per_block


@given(st.sampled_from((2, 4, 8, 16)))
def test_shared_caches_hold_more_tokens_by_the_closed_form(group: int) -> None:
    """AcrossKV: memory for KV / share of the dense cache; 1.6 times the tokens for 4-way sharing of half the layers."""
    plan, on = swift_kv(LLAMA, keep=16, group=group), Deployment(LLAMA, H200)
    kv = 0.9 * H200.memory_bytes - on.activation_bytes_per_gpu(2048, 64)
    grown = (kv - on.weight_bytes_per_gpu(plan)) / (kv - on.weight_bytes_per_gpu(dense(LLAMA)))
    share = closed_forms.swift_kv_cache_share(LLAMA, 16, group)
    assert blocks(on, plan) / blocks(on, dense(LLAMA)) == pytest.approx(grown / share, rel=1e-4)


@given(st.integers(1, 10**6), st.sampled_from((1, 2, 4)))
def test_the_servers_own_count_overrides(count: int, group: int) -> None:
    """`num_gpu_blocks` is the dense model's; a plan with fewer caches gets the same memory in larger numbers."""
    on = Deployment(LLAMA, H200, kv_blocks=count)
    assert blocks(on, dense(LLAMA)) == count
    plan = swift_kv(LLAMA, keep=16, group=group)
    fit = blocks(on, plan)
    assert fit * plan.caches.size <= count * 32 < (fit + 1) * plan.caches.size


def test_weights_that_do_not_fit_are_refused_with_the_remedy() -> None:
    big = model_named("llama-3.1-70b")
    with pytest.raises(CapacityError, match=r"llama-3.1-70b on 1 x .* leaves no KV memory; raise --tp, use fp8"):
        blocks(Deployment(big, gpu_named("h100")), dense(big))
    assert blocks(Deployment(big, gpu_named("h100"), tp=4), dense(big)) > 0


def test_layers_that_nobody_runs_leave_room_for_keys() -> None:
    plan, on = static_depth(LLAMA, drop=8), Deployment(LLAMA, H200)
    freed = 8 * LLAMA.p_layer * 2.0
    kv = 0.9 * H200.memory_bytes - on.activation_bytes_per_gpu(2048, 64) - 2.0 * LLAMA.parameters
    assert blocks(on, plan) / blocks(on, dense(LLAMA)) == pytest.approx((kv + freed) / kv * 32 / 24, rel=1e-4)


def test_a_plan_that_never_attends_has_no_memory_to_size() -> None:
    plan = plan_of(2, name="blind", prompt=[FFN, FFN], sampled=[FFN, FFN], decode=[[FFN, FFN]])
    model = replace(LLAMA, layers=2)
    with pytest.raises(InputError, match="nobody attends anywhere"):
        blocks(Deployment(model, H200), plan)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tp": 3}, "tp=3: must be 1, 2, 4, 8 or 16"),
        ({"weights": "int4"}, "unknown weights dtype 'int4'"),
        ({"kv": "fp16"}, "unknown kv dtype 'fp16'"),
        ({"memory_utilization": 0.0}, "memory_utilization=0.0"),
        ({"memory_utilization": 90}, "memory_utilization=90"),
        ({"kv_blocks": 0}, "kv_blocks=0"),
    ],
)
def test_bad_deployments_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Deployment(LLAMA, H200, **wrong)  # type: ignore[arg-type]


def test_dtypes_and_hosts() -> None:
    assert issubclass(UnknownName, InputError)
    with pytest.raises(InputError, match="host step_ns=-1"):
        Host(step_ns=-1)
    assert Deployment(LLAMA, H200, tp=16).kv_heads_per_gpu == 1
    assert Deployment(LLAMA, H200).activation_bytes_per_gpu(1, 1) > GIB


@given(models())
def test_key_heads_are_divided_or_repeated(model: ModelShape) -> None:
    for tp in (1, 2, 4):
        assume(model.heads % tp == 0)
        if model.kv_heads % tp and tp % model.kv_heads:
            with pytest.raises(InputError, match="KV heads"):
                Deployment(model, H200, tp=tp)
        else:
            on = Deployment(model, H200, tp=tp)
            assert on.kv_heads_per_gpu * tp == max(model.kv_heads, tp)
            assert on.heads_per_gpu * tp == model.heads
