"""Capacity: what counts as sustainable, what the interval covers, and how figures move with the question."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.errors import CapacityError, InputError
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.study.capacity import Capacity, capacity_of, replicas_for
from sim.study.intervals import mean_sd
from sim.study.loads import LengthLoad, NamedLoad, TraceLoad
from sim.study.search import Bracket
from sim.study.service import Service
from sim.study.sustained import is_stable, meets, sustains
from sim.workload.workload import Workload

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def dense(h200):
    return Service(NamedLoad("azure-conv", 600), h200, strategy_named("dense", h200.model))


@given(st.floats(0.5, 50), st.floats(0.1, 60), st.integers(200, 600))
def test_a_constant_stay_is_stable(qps, stay_s, n):
    arrival = np.rint(np.arange(n) / qps * SECOND).astype(np.int64)
    assume(stay_s < arrival[-1] / SECOND / 4)
    assert is_stable(arrival, arrival + int(stay_s * SECOND))


@given(st.floats(0.5, 50), st.floats(0.05, 1.0), st.integers(500, 900))
def test_an_overload_piles_up(qps, excess, n):
    """Work comes in at 1 + excess times the rate at which it leaves."""
    arrival = np.rint(np.arange(n) / qps * SECOND).astype(np.int64)
    leave = np.rint(np.arange(1, n + 1) / qps * (1 + excess) * SECOND).astype(np.int64)
    assert not is_stable(arrival, leave)


@given(st.integers(0, 2**32), st.floats(1, 50), st.floats(0.1, 10), st.integers(200, 3000))
def test_chance_is_no_overload(seed, qps, stay_s, n):
    """Independent users whom nobody delays: a system without a queue is hardly ever called unstable."""
    rng = np.random.default_rng(seed)
    assume(n / qps > 10 * stay_s)
    verdicts = []
    for _ in range(10):
        arrival = np.cumsum(rng.exponential(SECOND / qps, n)).astype(np.int64)
        verdicts.append(is_stable(arrival, arrival + rng.exponential(stay_s * SECOND, n).astype(np.int64)))
    assert sum(verdicts) >= 9


def test_requests_at_once_are_no_stable_load():
    assert not is_stable(np.zeros(10, np.int64), np.full(10, SECOND))


@given(st.floats(0.001, 1e6), st.floats(0.001, 1e4))
def test_replicas_cover_the_demand_and_not_one_too_many(demand, qps):
    n = replicas_for(demand, qps)
    assert n * qps >= demand * (1 - 1e-12)
    assert (n - 1) * qps < demand


@pytest.mark.parametrize("demand", [0.0, -1.0, math.nan, math.inf])
def test_a_demand_is_a_positive_number(demand):
    with pytest.raises(InputError, match="demand"):
        replicas_for(demand, 1.0)


@given(st.lists(st.floats(1, 100), min_size=1, max_size=10), st.floats(0.001, 0.1))
def test_the_interval_holds_the_capacity_and_every_bracket_of_one_seed(lows, width):
    capacity = Capacity(tuple(Bracket(low, low * (1 + width), 5) for low in lows))
    assert 0 <= capacity.low <= capacity.qps * (1 + 1e-12) <= capacity.high * (1 + 1e-9)
    own = capacity.ratio_to(capacity)
    assert own.low == own.high == pytest.approx(1.0)


def test_the_traffics_part_is_students():
    """t with two degrees of freedom is 2.920 for 90 %, two-sided, where a normal quantile is 1.645."""
    assert mean_sd(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.920 / 1.645 / math.sqrt(3))
    assert mean_sd(np.array([4.0])) == 0.0
    assert mean_sd(np.arange(10.0)) > mean_sd(np.arange(11.0)) * 0.9  # no step where the table ends


def test_the_bracket_is_what_the_simulator_says(dense):
    slo = Slo(500, 30, 90)
    found = capacity_of(dense, slo, seeds=(0, 1))
    for seed, bracket in enumerate(found.brackets):
        assert sustains(dense.at(bracket.low, seed), slo)
        assert not sustains(dense.at(bracket.high, seed), slo)
        assert bracket.width <= 0.02


def test_what_limits_is_the_slo_unless_it_is_loose(dense, h200):
    assert capacity_of(dense, Slo(500, 15, 90), seeds=(0,)).limited_by == "slo"
    long = Service(LengthLoad(200, 400, 3000, 0.5), h200, strategy_named("dense", h200.model))
    loose = capacity_of(long, Slo(15_000, 500, 50), seeds=(0,))
    assert loose.limited_by == "queue"
    assert meets(long.at(loose.brackets[0].high), Slo(15_000, 500, 50))


def test_a_short_sample_says_so_and_so_does_a_single_seed(h200):
    few, many = (Service(LengthLoad(500, 50, n), h200, strategy_named("dense", h200.model)) for n in (400, 4000))
    assert "raise --requests" in capacity_of(few, Slo(300, 50), seeds=(0, 1), draws=0).note
    assert capacity_of(many, Slo(300, 50), seeds=(0, 1), draws=0).note == ""
    assert "give --seeds 2" in capacity_of(many, Slo(300, 50), seeds=(0,), draws=0).note


def test_a_trace_whose_first_half_comes_at_once_has_a_capacity(dense):
    rng = np.random.default_rng(5)
    arrival = np.concatenate([np.zeros(280), np.cumsum(rng.exponential(SECOND, 220))]).astype(np.int64)
    trace = Workload(arrival, rng.integers(100, 900, 500), rng.integers(20, 90, 500))
    found = capacity_of(replace(dense, load=TraceLoad(trace)), Slo(900, 50, 50), seeds=(0,), draws=0)
    assert found.low < found.qps < found.high


def test_a_stricter_slo_never_carries_more(dense):
    rates = [capacity_of(dense, Slo(500, tpot, 90), seeds=(0,)).brackets for tpot in (40, 20, 12)]
    assert rates[0][0].high > rates[1][0].low > rates[2][0].low


def test_capacity_without_a_binding_slo_is_about_the_throughput(h200):
    """Requests cannot be carried much faster than they are worked off when all are there."""
    service = Service(LengthLoad(500, 50, 2000, 0.9), h200, strategy_named("dense", h200.model))
    together = service.run(service.load.together())
    found = capacity_of(service, Slo(2000, 200, 90), seeds=(0,))
    most = len(together.requests) / together.makespan_s
    assert 0.85 * most < found.qps < 1.25 * most  # the whole run includes the emptying of the last batch


def test_an_slo_that_no_load_meets_names_the_best(dense):
    with pytest.raises(CapacityError, match=r"no load meets TTFT ≤ 1 ms .* takes \d+\.\d ms and \d+\.\d ms"):
        capacity_of(dense, Slo(1, 1, 90))


def test_requests_that_never_fit_are_named_as_the_reason(h200):
    load = LengthLoad(3000, 10, 200, range_ratio=0.9)
    service = Service(load, h200, strategy_named("dense", h200.model), max_context=3000, oversized="refuse")
    with pytest.raises(CapacityError, match="can never fit"):
        capacity_of(service, Slo())


def test_a_sample_too_small_to_show_a_limit_is_refused(h200):
    service = Service(LengthLoad(16, 4, 20), h200, strategy_named("dense", h200.model))
    with pytest.raises(CapacityError, match="raise --requests"):
        capacity_of(service, Slo(10_000, 1000, 90))


@pytest.mark.parametrize(("seeds", "tolerance"), [((), 0.02), (tuple(range(11)), 0.02), ((0,), 0.0), ((0,), math.nan)])
def test_seeds_and_tolerance_are_checked(dense, seeds, tolerance):
    with pytest.raises(InputError):
        capacity_of(dense, Slo(), seeds=seeds, tolerance=tolerance)
