"""Knobs are checked where they are given: value and remedy in one line."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError, UnknownName
from sim.plans.catalogue import model_named
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FULL, plan_of
from sim.plans.strategies import dense, swift_kv
from sim.serving.config import SchedulerConfig, knobs_of
from tests.gen import models, scheduler_configs


@pytest.mark.parametrize(
    ("given_values", "message"),
    [
        ({"policy": "chunky"}, "did you mean 'chunked'"),
        ({"max_num_seqs": 0}, "max_num_seqs=0"),
        ({"block_tokens": -1}, "block_tokens=-1"),
        ({"long_prefill_token_threshold": -1}, "long_prefill_token_threshold=-1"),
        ({"watermark": 1.0}, "watermark=1.0"),
        ({"watermark": float("nan")}, "watermark=nan"),
        ({"max_num_batched_tokens": 255}, "max_num_batched_tokens=255 is below max_num_seqs=256"),
        ({"max_num_batched_tokens": 255, "policy": "static"}, "raise the first or lower the second"),
    ],
)
def test_a_knob_out_of_range_is_named(given_values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SchedulerConfig(**given_values)  # type: ignore[arg-type]


def test_an_unknown_policy_is_a_lookup_error() -> None:
    with pytest.raises(UnknownName):
        SchedulerConfig(policy="fcfs")  # type: ignore[arg-type]


@given(scheduler_configs(), models(), st.integers(1, 100))
def test_memory_is_counted_in_blocks_of_one_layer(config: SchedulerConfig, model: ModelShape, blocks: int) -> None:
    plan = dense(model)
    knobs = knobs_of(config, plan, kv_blocks=blocks, max_context=99, hash_tokens=4 * config.block_tokens)
    assert knobs.full_units == model.layers
    assert knobs.total_units == blocks * model.layers
    assert knobs.hash_units == 4 * model.layers * config.prefix_caching
    assert 0 <= knobs.watermark_units < knobs.total_units


def test_prefix_blocks_must_be_whole_kv_blocks() -> None:
    config = SchedulerConfig(prefix_caching=True, block_tokens=16)
    plan = dense(model_named("opt-125m"))
    with pytest.raises(InputError, match=r"prefix blocks of 24 tokens.*divisors of 24"):
        knobs_of(config, plan, kv_blocks=10, max_context=99, hash_tokens=24)
    knobs_of(replace(config, prefix_caching=False), plan, kv_blocks=10, max_context=99, hash_tokens=24)


def test_a_prefix_block_with_a_poorer_last_token_is_not_shared() -> None:
    """INV-16: a longer prompt that reused the block would miss keys that its own tokens would have left."""
    config = SchedulerConfig(prefix_caching=True)
    poorer = plan_of(2, name="poorer", prompt=[FULL, FULL], sampled=[FULL, 2], decode=[[FULL, 2]])
    with pytest.raises(InputError, match="turn prefix caching off"):
        knobs_of(config, poorer, kv_blocks=10, max_context=99, hash_tokens=16)
    knobs_of(config, poorer, kv_blocks=10, max_context=99)
    reader = plan_of(2, name="reader", prompt=[FULL, 0], sampled=[FULL, 0], decode=[[ATTN | 4, 0]])
    knobs_of(config, reader, kv_blocks=10, max_context=99, hash_tokens=16)
    knobs_of(config, swift_kv(model_named("llama-3.1-8b"), group=4), kv_blocks=10, max_context=99, hash_tokens=512)
