"""The grid is complete where the simulator asks, coarse before fine, and counts bytes as the simulator does."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibration.grid import TIERS, Limits, axis, items_of, kernels, plans_of
from calibration.items import Burst, Item, item
from calibration.matrices import Asked, matrices
from calibration.measure_buffers import Buffers
from calibration.measure_ops import KERNELS
from engine.config import config_of
from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.lower import lower
from sim.plans.catalogue import MODELS, model_named
from sim.plans.model import ModelShape
from sim.plans.spec import strategy_named
from sim.serving.config import SchedulerConfig

TINY = ModelShape("tiny", "llama", 8, 64, 4, 2, 16, 128, 384, 512, True, False)
SMALL = Limits(64, 8, 256, 1e8, (1, 2), 1 << 20, 64)
BURSTS = (Burst(1, 8, 16, 4), Burst(8, 8, 16, 4))


@given(least=st.integers(1, 64), factor=st.integers(1, 200))
def test_an_axis_has_both_ends_coarsely_and_every_power_between(least, factor):
    most = least * factor
    tiers = axis(least, most)
    assert tiers[least] == tiers[most] == 0
    assert all(least <= value <= most for value in tiers)
    assert set(tiers.values()) <= set(range(TIERS))
    fine = [value for value, tier in tiers.items() if tier < 2]
    assert all(high <= 2 * low + 2 for low, high in pairwise(fine))


@pytest.mark.parametrize("name", ["llama-3.1-8b", "opt-1.3b", "opt-6.7b"])
def test_whoever_stops_early_has_everything_coarsely(name):
    shape, limits = model_named(name), Limits(context=min(32768, model_named(name).max_context))
    made = items_of(shape, limits, plans=plans_of(shape), bursts=BURSTS, graphs=True)
    keys = [one.key for one in made]
    assert len(set(keys)) == len(keys)
    tiers = {one.key: tier for one, tier in kernels(shape, limits, plans_of(shape))}
    order = [tiers[key] for key in keys if key in tiers]
    assert order == sorted(order)
    first_step = next(i for i, one in enumerate(made) if one.op == "step")
    plain = {one.op for one in made} - {"step", "masked_ffn", "mixed_attention"}
    assert {one.op for one in made[:first_step]} == plain
    assert made[first_step]["plan"] == "dense"


@pytest.mark.parametrize("name", [*MODELS][:6])
def test_every_product_that_the_simulator_prices_is_in_the_grid(name):
    shape = model_named(name)
    plans = plans_of(shape)
    measured = {(one["n"], one["k"]) for one, _ in kernels(shape, Limits(), plans) if one.op == "gemm"}
    for plan in plans:
        asked = Asked()
        config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=8)
        lower(strategy_named(plan, shape), Deployment(shape, gpu_named("h200")), asked, config, max_context=8)
        assert set(asked.products) <= measured, plan


@pytest.mark.parametrize("shape", [TINY, ModelShape("o", "opt", 8, 64, 4, 4, 16, 128, 384, 512, False, True)])
def test_bytes_are_those_that_the_simulator_asks_about(shape):
    buffers = Buffers(config_of(shape), device=torch.device("cpu"), dtype=torch.float32, cache_bytes=0)
    asked, rows = Asked(), 3
    config = SchedulerConfig(max_num_seqs=1, max_num_batched_tokens=rows)
    lower(strategy_named("swift_kv", shape), Deployment(shape, gpu_named("h200")), asked, config, max_context=8)
    counted = {
        one.op: KERNELS[one.op](buffers, one).bytes_moved
        for op in ("norm", "keys", "activation", "embed", "sample")
        for one in [item(op, rows=rows)]
    }
    assert set(counted.values()) <= asked.bytes_moved, counted
    # layers 5 to 8 leave their keys from the stream that enters layer 5, whose own are priced with its queries
    bulk = KERNELS["bulk_keys"](buffers, item("bulk_keys", rows=rows, layers=3))
    assert bulk.bytes_moved in asked.bytes_moved


@given(st.sampled_from(list(kernels(TINY, SMALL, plans_of(TINY)))))
def test_keys_do_not_depend_on_the_order_of_sizes(pair):
    one, _ = pair
    assert Item(one.op, one.sizes[::-1]).key == one.key


def test_a_burst_is_its_item():
    burst = Burst(12, 4, 40, 16, mixed=True, policy="static")
    assert Burst.of(burst.item("dense")) == burst
    assert np.unique(burst.outputs).size > 1
    assert all(8 <= n <= 24 for n in burst.outputs)
    assert burst.longest == 40 + max(burst.outputs)


def test_plans_without_room_are_left_out():
    assert all(strategy_named(spec, TINY) for spec in plans_of(TINY))
    found = items_of(TINY, SMALL, plans=["dense", "swift_kv:keep=99"], bursts=BURSTS, graphs=False)
    assert {one["plan"] for one in found if one.op == "step"} == {"dense"}
    assert not [one for one in found if one.op == "replay"]


def test_products_are_named():
    names = matrices(model_named("llama-3.1-8b"), ["dense", "swift_kv"])
    assert names[6144, 4096] == "qkv"
    assert names[28672, 4096] == "up"
    assert names[16 * 2048, 4096] == "kv_16"
