"""Any legal plan, under any schedule, is what the plan's table says, token by token; and its pages are what it holds.

The cache asserts after every call of the scheduler that pages in use equal units in use (`Cache.after_schedule`).
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.plans.strategies import compose, skip_decode, swift_kv
from tests.engine.plain import Plain, follow
from tests.engine.tinies import (
    LAYERS,
    assert_idle,
    greedy,
    hf_of,
    llm_of,
    prompts_of,
    recorded,
    tokens_of,
)
from tests.gen import plans, scheduler_configs

SHAPE = llm_of("llama-gqa").config.shape
OUTPUTS = 7


@cache
def plain() -> Plain:
    return Plain(hf_of("llama-gqa"))


@settings(max_examples=25)
@given(st.data())
def test_any_plan_under_any_schedule(data):
    plan = data.draw(plans(SHAPE))
    config = data.draw(scheduler_configs())
    lengths = data.draw(st.lists(st.integers(1, 14), min_size=1, max_size=4))
    shared = prompts_of(8, seed=1)[0]
    prompts = [(shared + p)[: len(p) + 3] for p in prompts_of(*lengths, seed=2)]  # prefixes in common
    outputs = data.draw(st.integers(1, OUTPUTS))
    room = -(-(max(map(len, prompts)) + outputs) // config.block_tokens)
    knobs = {name: getattr(config, name) for name in config.__dataclass_fields__}
    llm = llm_of(
        "llama-gqa",
        plan,
        kv_blocks=room + data.draw(st.integers(0, 8)),
        dtype="float64",
        **knobs,
    )
    expected = [follow(plain(), plan, p, outputs)[0] for p in prompts]
    assert tokens_of(llm, prompts, outputs) == expected


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logits_under_composed_plans(dtype):
    plan = compose(swift_kv(SHAPE, keep=2, group=2), skip_decode(SHAPE, max_budget=6, min_budget=3, schedule_tokens=4))
    prompt = prompts_of(21)[0]
    llm = llm_of("llama-gqa", plan, dtype=dtype, max_num_batched_tokens=8)
    seen = recorded(llm)
    llm.generate([prompt], greedy(OUTPUTS))
    _, expected = follow(plain(), plan, prompt, OUTPUTS)
    have = [logits[-1].double() for logits in seen if len(logits)]
    tolerance = 1e-5 if dtype == "float32" else 1e-11
    for a, b in zip(have, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(
    "spec",
    [
        "ffn_skip:threshold=1.5",
        "ffn_skip:run_length=0",
        f"swift_kv:keep={LAYERS}",
        "skip_decode:speedup=1",
        f"early_exit:at={LAYERS}",
        "cross_layer_kv:group=1",
        "static_depth:drop=0",
        "unified_skip:speedup=1",
    ],
)
def test_neutral_settings_are_the_dense_engine_bit_for_bit(spec):
    def logits(plan: str) -> list[torch.Tensor]:
        llm = llm_of("llama-gqa", plan)
        seen = recorded(llm)
        tokens_of(llm, prompts_of(9, 13, 5), 4)
        return seen

    assert llm_of("llama-gqa", spec).plan.is_dense
    assert all(torch.equal(a, b) for a, b in zip(logits(spec), logits("dense"), strict=True))


def test_a_gate_that_never_opens_is_the_dense_engine_bit_for_bit():
    """Its masks and tests run, and change nothing."""

    def logits(plan: str) -> list[torch.Tensor]:
        llm = llm_of("llama-gqa", plan)
        seen = recorded(llm)
        tokens_of(llm, prompts_of(9, 13, 5), 4)
        return seen

    shut = "ffn_skip:run_length=2,threshold=0.9999999,cold_layers=1,warmup_tokens=0"
    assert not llm_of("llama-gqa", shut).plan.is_dense
    assert all(torch.equal(a, b) for a, b in zip(logits(shut), logits("dense"), strict=True))


@pytest.mark.parametrize(
    "spec",
    [
        "dense",
        "skip_decode:speedup=2,schedule_tokens=6",
        "ffn_skip:run_length=2,threshold=0.7,cold_layers=1,warmup_tokens=1,cadence=3",
        "swift_kv:keep=2,group=2",
        "swift_kv:keep=3+skip_decode:speedup=2,schedule_tokens=6",
        "early_exit:at=2,kv_fill=1",
    ],
)
def test_a_request_alone_is_the_same_request_in_any_mix(spec):
    """Equal tokens, and float64 logprobs to 1e-12; float32 bits differ, for the CPU's BLAS rounds by batch size."""
    prompts, outputs = prompts_of(9, 12, 4, 14, 17, 21, seed=3), 9
    params = greedy(outputs, logprobs=5)
    alone = [llm_of("llama-gqa", spec, dtype="float64").generate([p], params)[0] for p in prompts]
    mixed = llm_of("llama-gqa", spec, dtype="float64", max_num_batched_tokens=11, kv_blocks=8)
    for one, other in zip(alone, mixed.generate(prompts, params)):
        assert one.token_ids == other.token_ids
        for a, b in zip(one.logprobs, other.logprobs):
            assert a.keys() == b.keys()
            assert all(abs(a[t] - b[t]) < 1e-12 for t in a)
    assert mixed.events()["preemptions"].sum() > 0, "memory was meant to be short"
    assert_idle(mixed)
    single = [tokens_of(llm_of("llama-gqa", spec), [p], outputs)[0] for p in prompts]
    assert single == tokens_of(llm_of("llama-gqa", spec, kv_blocks=8), prompts, outputs)


def test_dead_pages_serve_others():
    """SkipDecode frees the pages of layers that a sequence has left: it peaks lower than a dense run of the same."""

    def peak(spec: str) -> int:
        llm = llm_of("llama-gqa", spec, block_tokens=1, kv_blocks=100)
        request = llm.add(prompts_of(5)[0], greedy(40))
        pages = []
        while llm.engine.streams[request].finish is None:
            llm.step()
            pages.append(llm.engine.cache.pages_in_use)
        return max(pages)

    assert peak("dense") == (5 + 40 - 2) * LAYERS
    assert peak("skip_decode:max_budget=3,min_budget=2,schedule_tokens=8") == (5 + 40 - 2) * 2
    assert peak("swift_kv:keep=2,group=4") == (5 + 40 - 2) * 3
