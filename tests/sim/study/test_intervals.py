"""INV-40, INV-41. Intervals: each source moves what it should, more doubt is more width, chance is what it does."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.hardware import gpu_named
from sim.cost.profiles import EngineProfile, profile_named
from sim.errors import InputError
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.run.uncertainty import SOURCES, Z90
from sim.study.capacity import Capacity, capacity_of
from sim.study.chance import FEWEST, sampling_sd
from sim.study.intervals import combined, level, mean_sd, students, varied
from sim.study.loads import LengthLoad, NamedLoad
from sim.study.run_intervals import figures_of, run_intervals
from sim.study.search import Bracket
from sim.study.service import Service

LOAD = NamedLoad("azure-conv", 400)
SLO = Slo(500, 30, 90)
SDS = st.dictionaries(st.sampled_from(SOURCES), st.floats(0, 1), min_size=3)


def engine(scatter: float = 0.05, sd: float = 0.1) -> EngineProfile:
    """vLLM with a step and weights of known uncertainty, and servers that scatter alike in every figure."""
    return replace(
        profile_named("vllm-0.11"),
        fitted=("step_ms", "weights"),
        covariance=((sd**2, 0.0), (0.0, sd**2)),
        residual_sd=dict.fromkeys(("ttft", "tpot", "e2e", "throughput"), scatter),
        provenance={"gpus": ["h200"]},
    )


def service(on, spec="dense", load=LOAD, profile=None, **changes):
    profile = profile or engine()
    plan = strategy_named(spec, on.model)
    return Service(load, profile.on(on), plan, profile.config(on.gpu), engine=profile, **changes)


def intervals(one, workload, draws=3):
    result = one.run(workload)
    return run_intervals(one, result, SLO, varied(one, draws=draws))


@given(st.floats(0.01, 1e6), SDS, st.sampled_from(SOURCES), st.floats(0, 1))
def test_more_doubt_is_more_width(value, sds, source, more):
    wider = {**sds, source: sds[source] + more}
    for make in (combined, level):
        narrow, wide = make(value, sds), make(value, wider)
        assert wide.low <= narrow.low <= value <= narrow.high <= wide.high
        assert sum(narrow.shares.values()) == pytest.approx(1) or not any(narrow.shares.values())
    assert 0 <= level(0.5, wider, most=1.0).low <= 0.5 <= level(0.5, wider, most=1.0).high <= 1


@given(st.integers(2, 400))
def test_few_values_know_less_than_many(values):
    assert students(values) >= students(values + 1) >= 1


@pytest.mark.parametrize("draws", [1, -1])
def test_an_interval_needs_two_draws(h200, draws):
    with pytest.raises(InputError, match=f"draws={draws}"):
        varied(service(h200), draws=draws)
    with pytest.raises(InputError, match=f"draws={draws}"):
        capacity_of(service(h200), SLO, draws=draws)


def test_draws_are_the_same_for_every_strategy(h200):
    """The same kernel is off by the same share, the same parameter by the same ratio, whatever is skipped."""
    drawn = [varied(service(h200, spec), draws=3) for spec in ("dense", "swift_kv")]
    for source in ("kernels", "parameters"):
        for one, other in zip(*(both[source] for both in drawn)):
            assert one.deployment == other.deployment
            assert one.times.gemm(64, 4096, 4096, "bf16")[0] == other.times.gemm(64, 4096, 4096, "bf16")[0]
    prices = [one.times.gemm(64, 4096, 4096, "bf16")[0].item() for one in drawn[0]["kernels"]]
    assert len(set(prices)) == 3


def test_what_is_not_fitted_is_not_drawn(h200):
    prior = replace(engine(), fitted=(), covariance=())
    assert not varied(service(h200, profile=prior), draws=2)["parameters"]
    assert not varied(replace(service(h200), engine=None), draws=2)["parameters"]
    assert not any(varied(service(h200), draws=0).values())


@pytest.mark.parametrize("qps", [2.0, 14.0, 60.0])
def test_every_figure_lies_in_its_interval(h200, qps):
    one = service(h200)
    work = one.load.at(qps)
    found = intervals(one, work)
    assert found.keys() == figures_of(one.run(work), SLO).keys()
    for name, each in found.items():
        assert each.low <= each.value <= each.high, name
        assert set(each.by_source) == set(SOURCES)
    assert found["slo_met_share"].high <= 1


@pytest.mark.parametrize(("scatter", "sd", "source"), [(0.3, 0.1, "parameters"), (0.05, 0.5, "parameters")])
def test_less_known_of_the_engine_is_more_width(h200, scatter, sd, source):
    work = service(h200).load.at(8.0)
    usual, vague = (intervals(service(h200, profile=p), work) for p in (engine(), engine(scatter, sd)))
    for name in ("ttft_p90_ms", "tpot_mean_ms", "itl_p50_ms", "e2e_p50_ms"):
        assert vague[name].by_source[source] > usual[name].by_source[source]
        assert vague[name].by_source["sampling"] == usual[name].by_source["sampling"]
        assert vague[name].high / vague[name].low > usual[name].high / usual[name].low


def test_kernels_that_nobody_measured_are_known_less(h200):
    known = service(h200)
    work = known.load.at(2.0)
    unknown = service(replace(h200, gpu=gpu_named("h20")))
    roofline = replace(known, source="roofline")
    usual, *others = (intervals(one, work, draws=6)["tpot_p50_ms"] for one in (known, unknown, roofline))
    for wide in others:
        assert wide.by_source["kernels"] > usual.by_source["kernels"]
        assert wide.high / wide.low > usual.high / usual.low


def test_a_rate_below_the_capacity_does_not_depend_on_the_server(h200):
    """What is not offered cannot be served faster; a full batch is served as fast as the server goes."""
    light, full = (
        intervals(one, work)["output_tokens_per_s"].by_source
        for one in [service(h200, load=LengthLoad(300, 60, 400))]
        for work in (one.load.at(2.0), one.load.together())
    )
    assert light["parameters"] < 0.005
    assert full["parameters"] > 0.04
    assert light["sampling"] > 0.02


def test_more_requests_say_more_of_the_traffic(h200):
    few, many = (service(h200, load=NamedLoad("azure-conv", n)) for n in (100, 6400))
    before, after = (sampling_sd(one.at(6.0), SLO) for one in (few, many))
    for name in ("ttft_p50_ms", "tpot_mean_ms", "e2e_mean_ms", "itl_mean_ms", "output_tokens_per_s", "requests_per_s"):
        assert after[name] < before[name] / 2.5, name


def test_chance_is_what_other_seeds_show(h200):
    """The spread that one run foresees is the spread of the runs of other seeds, figure by figure."""
    one = service(h200, load=NamedLoad("azure-conv", 600))
    runs = [one.at(6.0, seed) for seed in range(40)]
    seen = {name: [figures_of(run, SLO)[name] for run in runs] for name in figures_of(runs[0], SLO)}
    foreseen = [sampling_sd(run, SLO) for run in runs[:10]]
    for name in set(seen) - {"slo_met_share", "goodput_per_s"}:
        ours = np.mean([each[name] for each in foreseen])
        assert 0.55 < ours / np.std(np.log(seen[name])) < 1.8, name


def test_a_handful_of_requests_has_no_interval(h200):
    one = service(h200, load=LengthLoad(100, 20, FEWEST - 1))
    assert intervals(one, one.load.at(1.0)) == {}
    least = replace(one, load=LengthLoad(100, 20, FEWEST))
    assert intervals(least, least.load.at(1.0))["ttft_p50_ms"].high > 0


def capacity(*lows, **known):
    return Capacity(tuple(Bracket(low, low * 1.01, 5) for low in lows), **known)


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=8), st.floats(0, 0.5), st.floats(0, 2), st.floats(0.1, 2))
def test_what_moves_a_capacity_widens_it(logs, scatter, flattery, more):
    lows = (9.0, 10.0, 11.0)
    bare = capacity(*lows).interval
    full = capacity(*lows, drawn={"kernels": tuple(logs)}, scatter=scatter, flattery=flattery).interval
    wider = capacity(*lows, drawn={"kernels": tuple(logs)}, scatter=scatter + more, flattery=flattery + more).interval
    assert wider.low < full.low <= bare.low <= 10.0 <= bare.high <= full.high < wider.high
    only_short = capacity(*lows, flattery=flattery).interval
    assert only_short.high == bare.high
    assert only_short.low == pytest.approx(bare.low / (1 + flattery))


def test_a_capacity_that_a_draw_does_not_have_may_be_none():
    found = capacity(9.0, 11.0, drawn={"kernels": (0.1, -math.inf), "parameters": (0.0, 0.0)})
    assert found.low == 0
    assert math.isfinite(found.high)
    assert capacity(9.0, flattery=math.inf).low == 0


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=8), st.floats(0.5, 2))
def test_what_two_strategies_share_cancels_in_their_ratio(logs, gain):
    moved = {"kernels": tuple(logs), "parameters": tuple(logs)}
    dense, other = (capacity(9.0 * k, 10.0 * k, 11.0 * k, drawn=moved, scatter=0.3) for k in (1.0, gain))
    found = other.ratio_to(dense)
    assert found.value == pytest.approx(gain)
    assert found.high / found.low == pytest.approx(1.01**2)  # the brackets alone
    apart = replace(other, drawn={**moved, "kernels": tuple(x + 0.1 for x in logs)})
    assert apart.ratio_to(dense).high > found.high


def test_a_capacity_is_searched_under_every_draw(h200):
    found = capacity_of(service(h200), SLO, seeds=(0, 1), draws=2)
    assert {source: len(logs) for source, logs in found.drawn.items()} == {"kernels": 2, "parameters": 2}
    assert found.scatter == 0.05
    assert found.low < found.qps < found.high
    vague = capacity_of(service(h200, profile=engine(0.3, 0.5)), SLO, seeds=(0, 1), draws=2)
    assert vague.interval.by_source["parameters"] > 3 * found.interval.by_source["parameters"]
    bare = capacity_of(service(h200), SLO, seeds=(0, 1), draws=0)
    assert bare.qps == found.qps
    assert bare.interval.by_source["kernels"] == bare.interval.by_source["parameters"] == 0


@pytest.mark.parametrize("requests", [150, 400, 1000])
def test_short_traffic_overstates_the_capacity_and_its_interval_says_so(h200, requests):
    truth = capacity_of(service(h200, load=NamedLoad("azure-conv", 12_000)), Slo(), seeds=(0,), draws=0).qps
    short = capacity_of(service(h200, load=NamedLoad("azure-conv", requests)), Slo(), draws=0)
    assert short.low < truth < short.high
    assert short.flattery > 0


def test_mean_sd_is_the_spread_of_the_mean():
    rng = np.random.default_rng(3)
    hits = [abs(values.mean()) <= Z90 * mean_sd(values) for values in rng.standard_normal((2000, 4))]
    assert 0.87 < np.mean(hits) < 0.93
