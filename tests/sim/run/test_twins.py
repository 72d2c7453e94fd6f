"""INV-37, INV-34: the compiled loop is the interpreted one bit for bit, and a run is its seed."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from sim.plans.model import ModelShape
from sim.plans.strategies import cross_layer_kv, dense, early_exit, skip_decode, static_depth, swift_kv
from sim.run.result import Result
from sim.run.simulate import Simulation, with_strategy
from tests.gen import models, scheduler_configs, strategy_plans, workloads
from tests.planted import Planted
from tests.sim.cost.steps import deployments
from tests.sim.run.cases import replay, simulations


def assert_equal(one: Result, other: Result) -> None:
    """The same in every number that either of them holds."""
    for name in one.state._fields:
        if name not in ("running", "queue", "front", "row_request", "row_start", "row_tokens", "admitted"):
            assert np.array_equal(getattr(one.state, name), getattr(other.state, name)), name
    assert np.array_equal(one.asked.arrival_ns, other.asked.arrival_ns)
    assert np.array_equal(one.log, other.log)
    assert one.work == other.work
    assert sorted(one.logged.gaps_ns.tolist()) == sorted(other.logged.gaps_ns.tolist())
    assert one.requests.equals(other.requests)
    assert one.iterations.equals(other.iterations)
    left, right = (dict(result.summary(), wall_s=0) for result in (one, other))
    assert repr(left) == repr(right)


def parquet(frame: pl.DataFrame) -> bytes:
    file = BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


@given(simulations())
def test_slow_path_and_fast_path_agree_bit_for_bit(simulation: Simulation) -> None:
    assert_equal(simulation.run(), simulation.run(stepwise=True))


@given(simulations(policies=("chunked",), of=strategy_plans, max_requests=24))
def test_requests_that_decode_as_sums_are_the_requests_that_decode_in_rows(simulation: Simulation) -> None:
    """INV-37 where the fast path leaves the rows: many requests, and room for most of them."""
    config = replace(simulation.config, max_num_seqs=8, max_num_batched_tokens=32)
    blocks = 3 * (simulation.deployment.kv_blocks or 1)
    on = replace(simulation.deployment, kv_blocks=blocks)
    roomy = replace(simulation, config=config, deployment=on)
    assert_equal(roomy.run(), roomy.run(stepwise=True))


@given(simulations())
def test_the_loop_by_hand_is_the_run(simulation: Simulation) -> None:
    """SimPy adds nothing to the iterations but their times."""
    steps, log = replay(simulation), simulation.run().iterations
    assert log["start_ns"].to_list() == [step.start_ns for step in steps]
    assert log["duration_ns"].to_list() == [step.end_ns - step.start_ns for step in steps]


@given(simulations())
def test_the_same_seed_is_the_same_file(simulation: Simulation) -> None:
    """INV-34: byte for byte, in requests and in iterations."""
    one, other = simulation.run(), replace(simulation).run()
    assert parquet(one.requests) == parquet(other.requests)
    assert parquet(one.iterations) == parquet(other.iterations)


@given(st.data(), models(max_layers=4), scheduler_configs())
def test_neutral_plans_run_as_the_dense_model(data: st.DataObject, model: ModelShape, config: object) -> None:
    """INV-4, in time: a strategy at its neutral setting changes no nanosecond."""
    work = data.draw(workloads(max_requests=5))
    on = replace(data.draw(deployments(model)), kv_blocks=46)
    base = Simulation(work, on, dense(model), config, times=Planted(), max_context=64)  # type: ignore[arg-type]
    expected = base.run()
    neutral = [
        swift_kv(model, keep=model.layers),
        skip_decode(model, speedup=1),
        early_exit(model, at=model.layers),
        static_depth(model, drop=0),
        cross_layer_kv(model, group=1),
    ]
    plan = data.draw(st.sampled_from(neutral))
    result = with_strategy(base, plan).run()
    assert_equal(replace(expected, plan=plan), result)
    assert all(share == 0 for share in result.realised.values())
