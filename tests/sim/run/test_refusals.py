"""A request that can never run is named with its remedy, or refused and counted; it is never lost."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.errors import CapacityError, InputError
from sim.plans.catalogue import model_named
from sim.plans.strategies import dense, swift_kv
from sim.run.simulate import Simulation, simulate
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload
from tests.planted import Planted
from tests.sim.cost.steps import GPU

MODEL = model_named("opt-125m")
CONFIG = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=32, block_tokens=4)


def asking(*lengths: tuple[int, int], **columns: object) -> Workload:
    prompts, outputs = (np.array(column) for column in zip(*lengths))
    return Workload(np.zeros(len(lengths), np.int64), prompts, outputs, **columns)  # type: ignore[arg-type]


def simulation(work: Workload, blocks: int = 10, **changes: object) -> Simulation:
    on = Deployment(MODEL, GPU, kv_blocks=blocks)
    return Simulation(work, on, dense(MODEL), CONFIG, times=Planted(), **changes)  # type: ignore[arg-type]


def test_more_than_memory_holds_is_named_with_the_remedy() -> None:
    work = asking((8, 8), (30, 12), (41, 1))
    with pytest.raises(InputError, match=r"request 1 \(30 prompt \+ 12 output tokens\).*40 tokens in all; choose a"):
        simulation(work).run()


def test_more_than_the_context_is_named_with_the_remedy() -> None:
    work = asking((8, 8), (30, 12))
    with pytest.raises(InputError, match=r"request 1 .* exceeds the context of 40 tokens \(1 such requests\).*refuse"):
        simulation(work, blocks=99, max_context=40).run()


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=1, max_size=8), st.integers(0, 3))
def test_refused_requests_are_counted_and_nobody_waits_for_them(lengths: list[tuple[int, int]], clients: int) -> None:
    """INV-32: the last token is never stored, so 41 tokens fit into room for 40."""
    work = asking(*lengths, concurrency=clients)
    result = simulation(work, max_context=50, oversized="refuse").run()
    fits = [p + o - 1 <= 40 and p + o <= 50 for p, o in lengths]
    assert (result.requests["status"] == "done").to_list() == fits
    assert (result.requests["status"] == "refused").to_list() == [not fit for fit in fits]
    summary = result.summary()
    assert (summary["completed"], summary["failed"]) == (sum(fits), len(fits) - sum(fits))
    if all(fits):
        simulation(work, max_context=50).run()
    else:
        with pytest.raises(InputError, match="choose a model or GPU that holds it"):
            simulation(work, max_context=50).run()


def test_a_plan_with_fewer_caches_serves_what_the_dense_model_refuses() -> None:
    work = asking((50, 8))
    base = simulation(work, oversized="refuse")
    assert base.run().summary()["failed"] == 1
    assert replace(base, plan=swift_kv(MODEL, keep=6, group=6)).run().summary()["completed"] == 1


def test_weights_that_do_not_fit_are_a_capacity_error() -> None:
    big = model_named("opt-13b")
    with pytest.raises(CapacityError, match="leaves no KV memory"):
        simulate(asking((1, 1)), Deployment(big, GPU), dense(big), times=Planted())


def test_block_ids_need_not_be_dense() -> None:
    """Ids are names: a trace that hashes to 60 bits once asked for as many places."""
    far = 2**60
    shared = {"hash_offsets": np.array([0, 2, 4]), "hash_block_tokens": 8}
    near = asking((16, 2), (16, 2), hash_ids=np.array([0, 1, 0, 2]), **shared)
    wide = asking((16, 2), (16, 2), hash_ids=np.array([0, 5, 0, far]), **shared)
    one, other = (
        replace(simulation(work), config=replace(CONFIG, prefix_caching=True)).run() for work in (near, wide)
    )
    assert one.requests.equals(other.requests)


def test_times_count_from_the_first_arrival() -> None:
    late = Workload(np.array([10**9, 10**9]), np.array([4, 4]), np.array([3, 3]))
    soon = replace(late, arrival_ns=np.zeros(2, np.int64))
    one, other = simulation(late).run(), simulation(soon).run()
    assert one.makespan_s == other.makespan_s
    assert one.summary()["requests_per_s"] == other.summary()["requests_per_s"]


def test_the_latest_arrival_that_a_workload_may_have_is_served() -> None:
    end = Workload(np.array([0, 2**62]), np.array([4, 4]), np.array([3, 3]))
    for stepwise in (False, True):
        result = simulation(end).run(stepwise=stepwise)
        assert result.summary()["completed"] == 2
        first, second = result.requests["ttft_ms"].to_list()
        assert first == second


def test_memory_in_use_leaves_out_what_may_be_evicted() -> None:
    """Prefixes that nobody holds are cache, not load."""
    ids = {"hash_ids": np.arange(8), "hash_offsets": np.array([0, 4, 8]), "hash_block_tokens": 8}
    work = replace(asking((32, 2), (32, 2), **ids), arrival_ns=np.array([0, 10**12]))
    result = replace(simulation(work, blocks=20), config=replace(CONFIG, prefix_caching=True)).run()
    assert result.iterations["kv_share"].to_list() == pytest.approx([0.4, 0.45, 0.4, 0.45])
