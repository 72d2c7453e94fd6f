"""INV-39: TTFT, TPOT, ITL, E2E and goodput mean what their definitions say, computed again from a list of events."""

import math
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.run.bootstrap import resampled
from sim.run.metrics import Slo, spread, tpot_ns, weighted_spread
from sim.run.simulate import Simulation
from tests.sim.run.cases import replay, simulations

QUANTILES = (50, 90, 99)
positive = st.floats(1e-3, 1e6)


def events(simulation: Simulation) -> dict[int, list[tuple[int, int]]]:
    """(time of delivery, tokens) of each request, as its client sees them come."""
    seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for step in replay(simulation):
        for request, tokens in step.emitted.items():
            seen[request].append((step.delivered_ns, tokens))
    return seen


@given(simulations())
def test_every_request_is_measured_as_its_client_would(simulation: Simulation) -> None:
    seen, frame = events(simulation), simulation.run().requests
    for row in frame.iter_rows(named=True):
        if row["status"] != "done":
            assert row["request"] not in seen
            assert row["ttft_ms"] is row["tpot_ms"] is row["e2e_ms"] is None
            continue
        times = seen[row["request"]]
        first, last, tokens = times[0][0], times[-1][0], sum(n for _, n in times)
        assert tokens == row["output_tokens"]
        assert row["ttft_ms"] == (first - row["arrival_ns"]) / 1e6
        assert row["e2e_ms"] == (last - row["arrival_ns"]) / 1e6
        if tokens == 1:
            assert row["tpot_ms"] is None
        else:
            assert row["tpot_ms"] == pytest.approx((last - first) / (tokens - 1) / 1e6, rel=1e-12)


@given(simulations())
def test_gaps_between_tokens_are_those_of_the_events(simulation: Simulation) -> None:
    """Pooled over requests; tokens that come together are one arrival."""
    gaps = sorted(
        (later - sooner) / 1e6
        for times in events(simulation).values()
        for (sooner, _), (later, _) in pairwise(times)
    )
    itl = simulation.run().itl()
    if not gaps:
        assert all(math.isnan(value) for value in itl.values())
        return
    assert itl["mean"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-9)
    for q in QUANTILES:
        assert itl[f"p{q}"] == gaps[math.ceil(q / 100 * len(gaps) - 1e-9) - 1]


@given(simulations(frontend=False), positive, positive)
def test_goodput_counts_who_meets_every_limit(simulation: Simulation, ttft_ms: float, tpot_ms: float) -> None:
    """A refused request meets none, one of a single token has no TPOT to miss."""
    result = simulation.run()
    rows = result.requests.rows(named=True)
    scale = max((row["e2e_ms"] or 0 for row in rows), default=1.0) / 1e3 or 1.0
    slo = Slo(ttft_ms=ttft_ms * scale, tpot_ms=tpot_ms * scale)
    served = [row for row in rows if row["status"] == "done"]
    met = sum(row["ttft_ms"] <= slo.ttft_ms and (row["tpot_ms"] or 0) <= slo.tpot_ms for row in served)
    per_s, share = result.goodput(slo)
    assert share == met / len(rows)
    if served:
        span = (max(row["last_token_ns"] for row in served) - min(row["arrival_ns"] for row in rows)) / 1e9
        assert per_s == pytest.approx(met / span)
        assert result.makespan_s == pytest.approx(span)
    assert result.goodput(replace(slo, tpot_ms=2 * slo.tpot_ms))[1] >= share


@given(simulations())
def test_a_summary_adds_up(simulation: Simulation) -> None:
    result = simulation.run()
    summary, frame = result.summary(), result.requests
    assert summary["requests"] == summary["completed"] + summary["failed"] == len(frame)  # type: ignore[operator]
    assert 0 <= summary["kv_peak_share"] <= 1  # type: ignore[operator]
    assert 0 <= summary["prefix_hit_share"] <= 1  # type: ignore[operator]
    seconds = result.attribution().drop("kind", "iterations").sum_horizontal().sum()
    assert seconds == pytest.approx(result.iterations["duration_ns"].sum() / 1e9)
    if summary["completed"]:
        assert 0 < summary["busy_share"] <= 1 + 1e-12  # type: ignore[operator]
        assert 0 <= summary["extrapolated_share"] <= 1 + 1e-9  # type: ignore[operator]
        span = summary["makespan_s"]
        done = frame.filter(frame["status"] == "done")
        assert summary["output_tokens_per_s"] == pytest.approx(done["output_tokens"].sum() / span)  # type: ignore[operator]
        both = done["output_tokens"].sum() + done["prompt_tokens"].sum()
        assert summary["total_tokens_per_s"] == pytest.approx(both / span)  # type: ignore[operator]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1))
def test_weighted_figures_are_those_of_the_values_written_out(pairs: list[tuple[int, int]]) -> None:
    values, weights = np.array([v for v, _ in pairs], dtype=float), np.array([w for _, w in pairs])
    found, written = weighted_spread(values, weights), np.sort(np.repeat(values, weights))
    if not written.size:
        assert all(math.isnan(value) for value in found.values())
        return
    assert found["mean"] == pytest.approx(written.mean())
    for q in QUANTILES:
        assert found[f"p{q}"] == np.percentile(written, q, method="inverted_cdf")


@given(st.lists(st.integers(0, 40), min_size=6, max_size=1500), st.integers(2, 6), st.integers(0, 99))
def test_figures_of_a_draw_are_those_of_its_values_written_out(values: list[int], batches: int, seed: int) -> None:
    sample = np.array(values) / 7
    picks = np.random.default_rng(seed).integers(0, batches, (3, batches))
    times = np.stack([np.bincount(pick, minlength=batches) for pick in picks])
    parts = np.array_split(sample, batches)
    for pick, found in zip(picks, resampled(sample, QUANTILES, times)):
        written = np.concatenate([parts[i] for i in pick])
        assert found == pytest.approx([*np.percentile(written, QUANTILES), written.mean()], rel=1e-12)


@given(st.lists(st.integers(1, 10**9), min_size=3, max_size=3), st.integers(1, 100))
def test_tpot_divides_by_the_gaps(times: list[int], tokens: int) -> None:
    first, last = sorted(times)[:2]
    (value,) = tpot_ns(np.array([first]), np.array([last]), np.array([tokens]))
    assert math.isnan(value) if tokens == 1 else value == (last - first) / (tokens - 1)


def coverage(draw: object, truths: dict[str, float], runs: int = 120) -> dict[str, float]:
    """How often the 90 % interval of each figure covers its true value."""
    hits = dict.fromkeys(truths, 0)
    for seed in range(runs):
        figures = spread(draw(np.random.default_rng(seed)), seed=seed)  # type: ignore[operator]
        for name, truth in truths.items():
            hits[name] += figures[f"{name}_low"] <= truth <= figures[f"{name}_high"]
    return {name: count / runs for name, count in hits.items()}


def test_intervals_cover_independent_requests() -> None:
    truths = {"mean": 1.0, "p50": math.log(2), "p90": math.log(10)}
    found = coverage(lambda rng: rng.exponential(1.0, 900), truths)
    assert all(0.8 <= share <= 0.98 for share in found.values()), found


def test_intervals_know_that_neighbours_queue_together() -> None:
    """Correlated over some ten requests: resampling single requests would cover half as often."""

    def draw(rng: np.random.Generator) -> np.ndarray:
        return 10 + np.convolve(rng.normal(size=3000), np.ones(10), mode="valid")

    found = coverage(draw, {"mean": 10.0, "p50": 10.0})
    assert all(0.8 <= share <= 0.98 for share in found.values()), found


def test_an_interval_surrounds_its_figure_and_is_its_seeds() -> None:
    values = np.random.default_rng(5).gamma(2.0, size=500)
    figures = spread(values, seed=3)
    assert figures == spread(values, seed=3)
    for name in ("p50", "p90", "p99", "mean"):
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]
    assert "p50_low" not in spread(values[:59])
    assert math.isnan(spread(np.array([np.nan]))["p50"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"ttft_ms": 0.0}, "ttft_ms=0.0"), ({"tpot_ms": math.nan}, "tpot_ms=nan"), ({"percentile": 101}, "percentile")],
)
def test_limits_are_checked(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Slo(**wrong)
