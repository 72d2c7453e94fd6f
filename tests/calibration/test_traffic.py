"""The requests of a point: as many, as long and as dense as its load generator sent them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.importers.published_sources import AVERAGES
from calibration.points import Load, Point, offline
from calibration.traffic import JITTER, PER_SLOT, closed, traffic_of
from sim.errors import InputError

POINT = Point("here", {"tpot_mean_ms": 8.0}, load=Load("concurrency", 16), isl=1000, osl=100)


@given(st.integers(1, 64), st.integers(1, 4))
def test_a_closed_loop_sends_so_many_per_slot_and_replicas_share(slots: int, replicas: int) -> None:
    point = replace(POINT, load=Load("concurrency", slots * replicas))
    work = traffic_of(point, replicas=replicas).workload
    assert work.concurrency == slots
    assert len(work) == PER_SLOT * slots


def test_lengths_that_are_called_fixed_stay_within_the_jitter_and_keep_their_mean() -> None:
    work = traffic_of(replace(POINT, requests=4000)).workload
    assert work.prompt_tokens.min() >= 1000 * (1 - JITTER) - 1
    assert work.prompt_tokens.max() <= 1000 * (1 + JITTER) + 1
    assert work.prompt_tokens.mean() == pytest.approx(1000, rel=0.005)
    assert len(set(work.output_tokens)) > 1


def test_given_bounds_are_drawn_between() -> None:
    work = traffic_of(replace(POINT, isl_range=(800, 1000), requests=2000)).workload
    assert (work.prompt_tokens.min(), work.prompt_tokens.max()) == (800, 1000)


def test_averages_of_a_data_set_spread_round_ones_do_not() -> None:
    point = replace(POINT, isl=467, osl=256, notes=(AVERAGES,), requests=2000)
    work = traffic_of(point).workload
    assert work.prompt_tokens.std() > 0.6 * 467
    assert work.prompt_tokens.mean() == pytest.approx(467, rel=0.02)
    assert work.output_tokens.std() < 0.05 * 256


def test_offline_requests_are_equal_and_all_there_at_once() -> None:
    work = traffic_of(replace(POINT, load=offline(), requests=50)).workload
    assert set(work.prompt_tokens) == {1000}
    assert work.arrival_ns.max() == 0
    assert work.concurrency == 0


@given(st.floats(0.5, 200))
def test_an_open_loop_has_its_rate(qps: float) -> None:
    point = replace(POINT, load=Load("qps", qps, max_concurrency=40, arrivals="poisson"), requests=2000)
    traffic = traffic_of(point)
    rate = 1999 / (traffic.workload.arrival_ns[-1] / 1e9)
    assert rate == pytest.approx(qps, rel=1e-6)
    gaps = np.diff(traffic.workload.arrival_ns)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.15)
    assert traffic.cap == 40
    assert closed(traffic).concurrency == 40
    constant = traffic_of(replace(point, load=Load("qps", qps, arrivals="constant"))).workload
    assert np.ptp(np.diff(constant.arrival_ns)) <= 1


def test_prompts_that_recur_share_their_blocks_where_the_server_caches() -> None:
    point = replace(POINT, distinct_prompts=3, requests=9, flags={"prefix_caching": True})
    work = traffic_of(point).workload
    ids = list(work.hashes())
    same, other = ids[0], ids[1]
    shared = min(len(same), len(ids[3]))
    assert same[:shared].tolist() == ids[3][:shared].tolist()
    assert not set(same) & set(other)
    assert traffic_of(replace(point, flags={"prefix_caching": False})).workload.hash_ids is None


def test_a_static_batch_decodes_at_least_once() -> None:
    work = traffic_of(replace(POINT, load=Load("static_batch", 4), osl=0)).workload
    assert len(work) == 4
    assert set(work.output_tokens) == {2}


def test_a_point_without_load_is_refused() -> None:
    with pytest.raises(InputError, match="here"):
        traffic_of(replace(POINT, load=None))
