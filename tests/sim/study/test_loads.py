"""Loads: one seed is one set of requests, whatever the rate; seeds of a trace resample it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.study.loads import LengthLoad, NamedLoad, TraceLoad
from sim.workload.workload import Workload

LOADS = (NamedLoad("azure-conv", 200), LengthLoad(100, 20, 200, 0.5), LengthLoad(100, 20, 200, 0.5, "gamma:cv=2"))


@pytest.fixture(scope="module")
def trace():
    rng = np.random.default_rng(3)
    arrival = np.cumsum(rng.integers(1, 1000, 300)) * 1_000_000
    return Workload(arrival - arrival[0], rng.integers(1, 500, 300), rng.integers(1, 99, 300), name="recorded")


@given(st.sampled_from(LOADS), st.floats(0.1, 100), st.floats(1.1, 10), st.integers(0, 9))
def test_rates_of_a_seed_stretch_the_same_requests(load, qps, factor, seed):
    slow, fast = load.at(qps, seed), load.at(qps * factor, seed)
    assert (slow.prompt_tokens == fast.prompt_tokens).all()
    assert (slow.output_tokens == fast.output_tokens).all()
    np.testing.assert_allclose(slow.arrival_ns / factor, fast.arrival_ns, rtol=1e-6, atol=2)


@pytest.mark.parametrize("load", LOADS)
def test_seeds_differ_and_repeat(load):
    one, again, other = (load.at(1.0, seed) for seed in (0, 0, 1))
    assert (one.arrival_ns == again.arrival_ns).all()
    assert (one.prompt_tokens != other.prompt_tokens).any()


def test_seed_0_is_the_trace_itself(trace):
    work = TraceLoad(trace).at(2.0, 0)
    assert (work.prompt_tokens == trace.prompt_tokens).all()
    assert work.stats()["qps"] == pytest.approx(2.0)


def test_other_seeds_are_made_of_the_traces_blocks(trace):
    work = TraceLoad(trace).at(2.0, 1)
    assert len(work) == len(trace)
    pairs = set(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist()))
    assert set(zip(work.prompt_tokens.tolist(), work.output_tokens.tolist())) <= pairs
    assert (work.prompt_tokens != trace.prompt_tokens).any()
    assert work.arrival_ns[0] == 0
    gaps = [np.diff(TraceLoad(trace).at(2.0, seed).arrival_ns).min() for seed in range(1, 9)]
    assert min(gaps) > 0  # where a block wraps around, the first request gets the mean gap


def test_prefix_hashes_keep_their_order(trace):
    hashed = Workload(
        trace.arrival_ns, trace.prompt_tokens, trace.output_tokens,
        hash_ids=np.arange((-(-trace.prompt_tokens // 512)).sum()),
        hash_offsets=np.concatenate([[0], np.cumsum(-(-trace.prompt_tokens // 512))]),
        hash_block_tokens=512,
    )  # fmt: skip
    assert (TraceLoad(hashed).at(1.0, 5).prompt_tokens == trace.prompt_tokens).all()


def test_given_arrivals_replace_the_recorded_ones(trace):
    work = TraceLoad(trace, "constant").at(4.0, 0)
    assert set(np.diff(work.arrival_ns)) == {250_000_000}
    assert (work.output_tokens == trace.output_tokens).all()


@pytest.mark.parametrize("load", LOADS)
def test_alone_is_one_at_a_time(load):
    work = load.alone(7)
    assert len(work) == 7
    assert work.concurrency == 1


def test_bad_rates_and_loops_are_refused():
    with pytest.raises(InputError, match="qps"):
        LOADS[0].at(0.0)
    with pytest.raises(InputError, match="concurrency"):
        LOADS[0].in_loop(0)
