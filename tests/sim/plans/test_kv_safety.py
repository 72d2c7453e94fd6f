"""INV-1: whenever a token attends at a layer, every position up to its own has left keys in that layer's owner."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import PlanError
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FULL, KV, SkipPlan, plan_of
from tests.gen import frayed_tables, models, plans


def first_hole(flags: Callable[[int], np.ndarray], owner: np.ndarray, positions: int) -> tuple[int, int] | None:
    """(position, layer) of the first attention that misses a key, by keeping every key in a set."""
    written: set[tuple[int, int]] = set()
    for position in range(positions):
        for layer, flag in enumerate(flags(position)):
            if flag & KV:
                written.add((layer, position))
            if flag & ATTN and any((owner[layer], p) not in written for p in range(position + 1)):
                return position, layer
    return None


@given(st.data(), st.integers(1, 8))
def test_a_table_is_refused_exactly_when_a_dictionary_cache_meets_a_hole(data: st.DataObject, layers: int) -> None:
    table = data.draw(frayed_tables(layers))
    rows = [table["prompt"], table["sampled"], *table["decode"], table["decode"][-1]]
    hole = first_hole(rows.__getitem__, table["kv_owner"], len(rows))
    if hole is None:
        SkipPlan(**table)
    else:
        with pytest.raises(PlanError, match="breaks KV-safety"):
            SkipPlan(**table)


@given(st.data(), models(), st.integers(1, 4), st.integers(0, 20))
def test_no_plan_meets_a_hole(data: st.DataObject, model: ModelShape, prompt_tokens: int, generated: int) -> None:
    plan = data.draw(plans(model))
    assert first_hole(lambda p: plan.flags_at(p, prompt_tokens), plan.kv_owner, prompt_tokens + generated) is None


@given(st.data(), models(), st.integers(1, 3))
def test_a_dead_cache_is_never_read_again(data: st.DataObject, model: ModelShape, prompt_tokens: int) -> None:
    plan = data.draw(plans(model))
    tokens = plan.decode.shape[0] + 3
    for t in range(tokens):
        live = set(plan.caches[plan.live[min(t, len(plan.live) - 1)]].tolist())
        assert len(live) == plan.live_caches[min(t + 1, plan.live_caches.size - 1)]
        for later in range(t, tokens):
            reads = (plan.flags_at(prompt_tokens + later, prompt_tokens) & ATTN) > 0
            assert set(plan.kv_owner[reads].tolist()) <= live


def test_the_refusal_names_token_layer_and_remedy() -> None:
    decode = np.full((2, 3), FULL)
    decode[0, 1] = 0
    with pytest.raises(PlanError, match=r"generated token 1 attends at layer 1.*no keys in layer 1; set KV there"):
        plan_of(3, name="holed", decode=decode, monotone=False)


def test_keys_from_a_shared_owner_count_there_and_only_there() -> None:
    decode = np.full((1, 2), FULL)
    decode[0, 0] &= ~KV
    with pytest.raises(PlanError, match="no keys in layer 0"):
        plan_of(2, name="leaderless", decode=decode, kv_owner=[0, 0])
