"""INV-37, INV-34: the compiled loop is the interpreted one bit for bit, and a run is its seed."""

from dataclasses import replace
from io import BytesIO
from itertools import cycle

import numpy as np
import polars as pl
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.cost.work import work_done
from sim.plans.model import ModelShape
from sim.plans.strategies import cross_layer_kv, dense, early_exit, skip_decode, static_depth, swift_kv
from sim.run.compiled import compiled_advance
from sim.run.flow import flow_for
from sim.run.log import drained, iterations_of, joined
from sim.run.replica import FULL, IDLE
from sim.run.result import Result
from sim.run.simulate import Simulation, with_strategy
from tests.gen import models, scheduler_configs, strategy_plans, workloads
from tests.planted import Planted, Uneven
from tests.sim.cost.steps import deployments
from tests.sim.run.cases import CONTEXT, replay, simulations


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


def long_answers(simulation: Simulation, more: int, share: float = 1.0) -> Simulation:
    """The same with answers longer by so many tokens, and memory for a share of them: most iterations only decode."""
    work, block = simulation.workload, simulation.config.block_tokens
    tokens = work.prompt_tokens + work.output_tokens + more
    blocks = 1 + max(int(tokens.sum() * share), int(tokens.max())) // block
    return replace(
        simulation,
        workload=replace(work, output_tokens=work.output_tokens + more),
        deployment=replace(
            simulation.deployment, kv_blocks=-(-blocks * simulation.plan.caches.size // simulation.plan.layers)
        ),
        max_context=CONTEXT + more,
        times=Uneven(),
    )


@given(simulations(policies=("chunked",), max_requests=6), st.integers(1, 90), st.floats(0.2, 1))
def test_runs_of_decode_steps_are_their_steps(simulation: Simulation, more: int, share: float) -> None:
    """INV-37 where several iterations are priced and logged at once, and memory ends in the middle of them."""
    long = long_answers(simulation, more, share)
    assert_equal(long.run(), long.run(stepwise=True))


@given(simulations(policies=("chunked",), loops=False, frontend=False), st.integers(1, 40), st.data())
def test_who_comes_as_an_iteration_ends_is_in_the_next(simulation: Simulation, more: int, data: st.DataObject) -> None:
    """INV-37 at one nanosecond: requests come exactly when iterations of the same run without them end."""
    long = long_answers(simulation, more)
    n = len(long.workload)
    assume(n > 1)
    late = data.draw(st.integers(1, n - 1))
    frame = replace(long, workload=long.workload.take(n - late)).run().iterations
    ends = (frame["start_ns"] + frame["duration_ns"]).to_list() or [0]
    arrivals = long.workload.arrival_ns.copy()
    arrivals[n - late :] = sorted(data.draw(st.lists(st.sampled_from(ends), min_size=late, max_size=late)))
    met = replace(long, workload=replace(long.workload, arrival_ns=np.maximum.accumulate(arrivals)))
    assert_equal(met.run(), met.run(stepwise=True))


@given(
    simulations(policies=("chunked",), max_requests=6),
    st.integers(0, 40),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.integers(2, 6),
)
def test_where_the_loop_is_stopped_does_not_matter(
    simulation: Simulation, more: int, stops: list[int], room: int
) -> None:
    """INV-37: a fleet lets its replicas advance from arrival to arrival; buffers are drained where they are full."""
    long = long_answers(simulation, more)
    whole = long.run()
    replica = long._replica(long.times or Planted())
    replica = replica._replace(log=replica.log[:room], trace=replica.trace[: 8 - room])
    flow = flow_for(
        replica.tables, replica.live_units, len(long.workload), long.config.max_num_seqs, long.config.block_tokens
    )
    parts, now, after_ns = [], 0, cycle(int(whole.makespan_s * 1e6) * stop + 1 for stop in stops)  # in thousandths
    while (why := compiled_advance()(replica, flow, now)) != IDLE:
        if why == FULL:
            parts.append(drained(replica))
        else:
            now += next(after_ns)
    parts.append(drained(replica))
    log = joined(parts)
    assert np.array_equal(iterations_of(log), whole.log)
    assert sorted(log.gaps_ns.tolist()) == sorted(whole.logged.gaps_ns.tolist())
    assert work_done(replica.tables, replica.scratch) == whole.work
    assert np.array_equal(replica.state.last_token_ns, whole.state.last_token_ns)


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
