"""Prediction intervals: each source varies what it should, variances add, and planted truths are covered."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.perturbed import Perturbed
from sim.cost.profiles import EngineProfile, profile_named
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.strategies import dense
from sim.run.simulate import Simulation
from sim.run.uncertainty import (
    SOURCES,
    Z90,
    Interval,
    interval,
    predict,
    resampled,
    run_figures,
    spread_normals,
    variations,
    with_profile,
)
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload

MODEL = model_named("opt-125m")


def workload(n: int = 60, seed: int = 0) -> Workload:
    rng = np.random.default_rng(seed)
    return Workload(
        arrival_ns=np.concatenate([[0], np.cumsum(rng.exponential(2e6, n - 1))]).astype(np.int64),
        prompt_tokens=rng.integers(10, 200, n),
        output_tokens=rng.integers(5, 40, n),
    )


def simulation(gpu: str = "h100", seed: int = 0) -> Simulation:
    config = SchedulerConfig(max_num_seqs=16, max_num_batched_tokens=512)
    return Simulation(workload(seed=seed), Deployment(MODEL, gpu_named(gpu)), dense(MODEL), config, max_context=256)


def profile(**changes: object) -> EngineProfile:
    known = {
        "fitted": ("step_ms", "row_us"),
        "covariance": ((0.04, 0.0), (0.0, 0.04)),
        "residual_sd": {"ttft": 0.1, "tpot": 0.05, "e2e": 0.05, "throughput": 0.05},
        "provenance": {"gpus": ["h100"]},
    }
    return replace(profile_named("vllm-0.11"), **{**known, **changes})  # type: ignore[arg-type]


def test_the_centre_is_the_run_under_the_profile() -> None:
    found = predict(simulation(), profile(), draws=2)
    plain = run_figures(with_profile(simulation(), profile()))
    assert {name: one.value for name, one in found.items()} == plain
    assert {"ttft_mean_ms", "tpot_p99_ms", "e2e_p50_ms", "requests_per_s"} <= set(found)
    assert all(one.low < one.value < one.high for one in found.values())


def test_each_source_varies_one_thing() -> None:
    under = with_profile(simulation(), profile())
    for one in variations(under, profile(), draws=2):
        new = one.simulation
        assert (new.workload is not under.workload) == (one.source == "sampling")
        assert (new.deployment != under.deployment) == (one.source == "parameters")
        assert isinstance(new.times, Perturbed) == (one.source == "kernels")


def test_the_same_seed_gives_the_same_interval() -> None:
    first, again, other = (predict(simulation(), profile(), draws=2, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_intervals_widen_where_nothing_was_measured() -> None:
    """On a GPU that only a roofline prices, and that no server of the engine had.

    At light load: how far traffic makes figures scatter depends on how near saturation is, not on what was measured.
    """
    model = model_named("llama-3.1-8b")
    light = Workload(arrival_ns=np.arange(12) * 10**9, prompt_tokens=np.full(12, 2000), output_tokens=np.full(12, 40))
    config = SchedulerConfig(max_num_seqs=16, max_num_batched_tokens=2048)
    known, unknown = (
        predict(
            Simulation(light, Deployment(model, gpu_named(gpu)), dense(model), config, max_context=2050),
            profile(),
            draws=4,
        )
        for gpu in ("h100", "h20")
    )
    for name in ("tpot_mean_ms", "ttft_mean_ms"):
        for source in ("kernels", "parameters"):
            assert unknown[name].by_source[source] > known[name].by_source[source]
        width = [np.log(one[name].high / one[name].low) for one in (known, unknown)]
        assert width[1] > 1.3 * width[0]


def test_a_custom_measure_gets_an_interval() -> None:
    """A capacity search is one: any function of a simulation."""
    found = predict(simulation(), profile(), draws=2, measure=lambda s: {"gpus": 100 / s.run().makespan_s})
    value, low, high = found["gpus"].whole()
    assert low <= value <= high


@given(
    st.floats(0.1, 1e4),
    st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=5),
    st.floats(0.0, 0.5),
)
def test_variances_add(value: float, logs: list[float], residual: float) -> None:
    drawn = {source: [value * float(np.exp(x)) for x in logs] for source in SOURCES}
    found = interval(value, drawn, residual)
    sd = np.sqrt(4 * np.mean(np.square(logs)) + residual**2)  # the sampling source counts twice
    assert found.high / found.value == pytest.approx(np.exp(Z90 * sd))
    assert found.value / found.low == pytest.approx(np.exp(Z90 * sd))
    assert sum(found.shares.values()) == pytest.approx(1.0) or sd < 1e-9


@given(st.integers(2, 12), st.integers(0, 5), st.integers(0, 99))
def test_few_draws_still_have_the_right_spread(draws: int, columns: int, seed: int) -> None:
    z = spread_normals(draws, columns, np.random.default_rng(seed))
    assert z.shape == (draws, columns)
    assert np.allclose(np.mean(z**2, axis=0), 1.0)
    assert np.allclose(np.mean(z, axis=0), 0.0)


def test_nothing_drawn_is_no_width() -> None:
    assert interval(3.0, {source: [3.0, 3.0] for source in SOURCES}, 0.0) == Interval(
        3.0, 3.0, 3.0, dict.fromkeys(SOURCES, 0.0)
    )


def test_planted_servers_are_covered_nine_times_in_ten() -> None:
    """Servers drawn from the profile's own uncertainty, measured once each on traffic of the same kind."""
    base = profile(residual_sd=dict.fromkeys(("ttft", "tpot", "e2e", "throughput"), 1e-09))
    rng = np.random.default_rng(7)
    found = predict(simulation(), base, draws=12)
    hits = []
    for number in range(60):
        truth = with_profile(simulation(seed=100 + number), base.drawn(rng))
        assert truth.times is not None
        seen = run_figures(replace(truth, times=Perturbed(truth.times, 10_000 + number)))
        hits.append(found["tpot_mean_ms"].low <= seen["tpot_mean_ms"] <= found["tpot_mean_ms"].high)
    assert 0.75 <= np.mean(hits) <= 1.0


@given(st.integers(2, 40), st.integers(0, 5))
def test_resampling_keeps_the_kind_of_traffic(n: int, seed: int) -> None:
    before = workload(n, seed)
    after = resampled(before, np.random.default_rng(seed))
    assert len(after) == n
    assert set(zip(after.prompt_tokens, after.output_tokens)) <= set(zip(before.prompt_tokens, before.output_tokens))
    assert set(np.diff(after.arrival_ns)) <= set(np.diff(before.arrival_ns))


def test_resampling_keeps_whose_prefix_is_whose() -> None:
    offsets = np.array([0, 2, 3, 6])
    before = Workload(
        arrival_ns=np.array([0, 5, 9]), prompt_tokens=np.array([20, 10, 40]), output_tokens=np.array([1, 2, 3]),
        hash_ids=np.array([7, 8, 7, 1, 2, 3]), hash_offsets=offsets, hash_block_tokens=16,
    )  # fmt: skip
    owner = {int(p): tuple(ids) for p, ids in zip(before.prompt_tokens, before.hashes())}
    after = resampled(before, np.random.default_rng(3))
    assert all(owner[int(p)] == tuple(ids) for p, ids in zip(after.prompt_tokens, after.hashes()))


def test_too_few_draws_are_refused() -> None:
    with pytest.raises(InputError, match="draws=1"):
        predict(simulation(), profile(), draws=1)
