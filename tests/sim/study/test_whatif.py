"""The grid behind the sliders: strengths turn a strategy the right way, capacities are those that a search finds."""

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.plans.spec import strategy_named
from sim.plans.strategies import STRATEGIES
from sim.run.metrics import Slo
from sim.study.capacity import capacity_of
from sim.study.loads import NamedLoad
from sim.study.service import Service
from sim.study.strength import STRENGTHS, variants
from sim.study.whatif import TOLERANCE, Limits, Rung, anchored, capacity_at, ladder, limits_for, what_if
from tests.sim.study import frames
from tests.sim.study.frames import MODEL, SPECS

FIXED = ("dense", "self_speculative", "cross_layer_kv")


def skipped(spec: str) -> list[float]:
    """Share of blocks and caches left out at each strength, weakest first."""
    plans = variants(strategy_named(spec, MODEL), MODEL)
    assert list(plans) == sorted(plans)
    kept = [p.gate.mean_skip if p.gate else 0.0 for p in plans.values()]
    return [p.prompt_skip + p.nominal_skip + gate for p, gate in zip(plans.values(), kept)]


@pytest.mark.parametrize("spec", SPECS)
def test_a_strategy_skips_more_the_stronger_it_is_turned(spec: str) -> None:
    plan = strategy_named(spec, MODEL)
    plans = variants(plan, MODEL)
    assert plans[1.0] == plan
    several = skipped(spec)
    assert several == sorted(several)
    assert len(set(several)) == len(several)
    alone = spec in FIXED or "/" in spec
    assert (len(plans) == 1) == alone
    assert alone or len(plans) >= 4


def test_half_the_strength_is_half_the_skip() -> None:
    for name in STRATEGIES:
        if name not in FIXED:
            plans = variants(strategy_named(name, MODEL), MODEL)
            half, whole = plans[0.5], plans[1.0]
            for skip in ("prompt_skip", "nominal_skip"):
                assert getattr(half, skip) == pytest.approx(getattr(whole, skip) / 2, abs=0.02), name


def test_a_strength_beyond_the_model_is_left_out() -> None:
    plans = variants(strategy_named("skip_decode:speedup=4", MODEL), MODEL)
    assert set(plans) == {s for s in STRENGTHS if s * 0.75 < 1}
    assert set(variants(strategy_named("ffn_skip:share=0.5", MODEL), MODEL)) == {0.5, 0.75, 1.0}


def planted(limits: Limits, most: float, decay: float) -> Callable[[float], Rung]:
    """Runs of a server whose TTFT is 50 ms / (1 - load) times a spread, and whose queue grows beyond `most`."""

    def run(qps: float) -> Rung:
        load = min(qps / most, 0.999)
        ttft = 50 / (1 - load) * np.exp(decay * np.linspace(-1, 1, 101))
        tpot = np.full(101, 5 + 20 * load)
        met = [[limits.own.__class__(t, p, 90).met(ttft, tpot).mean() for p in limits.tpot_ms] for t in limits.ttft_ms]
        return Rung(qps, qps < most, np.array(met), 1.0, 1.0, 0.0)

    return run


@given(st.floats(2, 200), st.floats(0.1, 1.0), st.floats(0.3, 3))
def test_a_planted_capacity_is_found_and_looser_limits_carry_no_less(most: float, decay: float, scale: float) -> None:
    slo = Slo(ttft_ms=700, tpot_ms=24)
    limits = limits_for(slo)
    rungs = ladder(planted(limits, most, decay), limits, most * scale)
    assert [r.qps for r in rungs] == sorted(r.qps for r in rungs)
    places = np.ndindex(len(limits.ttft_ms), len(limits.tpot_ms))
    known = np.array([capacity_at(rungs, limits, at) or 0.0 for at in places]).reshape(len(limits.ttft_ms), -1)
    assert (np.diff(known, axis=0) >= -1e-9).all()
    assert (np.diff(known, axis=1) >= -1e-9).all()
    if rungs[0].qps < 0.5 * most:
        p90 = np.exp(decay * 0.8)
        truth = most * min(1 - 50 * p90 / slo.ttft_ms, (slo.tpot_ms - 5) / 20)
        assert known[limits.home] == pytest.approx(truth, rel=2 * TOLERANCE)
        assert known.max() == pytest.approx(most, rel=2 * TOLERANCE)


def test_limits_that_nobody_meets_have_no_capacity() -> None:
    limits = limits_for(Slo(ttft_ms=40))
    rungs = ladder(planted(limits, 10.0, 0.1), limits, 10.0)
    assert capacity_at(rungs, limits, limits.home) is None


CAPACITY = st.none() | st.floats(0.1, 1000)


@given(st.lists(CAPACITY, min_size=len(frames.STRATEGIES), max_size=len(frames.STRATEGIES)))
def test_a_grid_on_the_scale_of_the_table_keeps_its_order_and_holds_the_table(table: list[float | None]) -> None:
    """INV-43."""
    raw, slo = {"whatif": frames.whatif(), "ladder": frames.ladder()}, Slo()
    found = dict(zip(frames.STRATEGIES, table))
    grid = anchored(raw, found, slo)
    own = (pl.col("slo_ttft_ms") == slo.ttft_ms) & (pl.col("slo_tpot_ms") == slo.tpot_ms) & (pl.col("strength") == 1)
    assert dict(grid["whatif"].filter(own).select("strategy", "max_qps").iter_rows()) == found
    for strategy in found:
        mine = pl.col("strategy") == strategy
        old, new = (one["whatif"].filter(mine & ~own)["max_qps"].to_numpy() for one in (raw, grid))
        climbed, climbs = (one["ladder"].filter(strategy=strategy)["qps"].to_numpy() for one in (raw, grid))
        by = climbs / climbed
        assert by == pytest.approx(by[0])
        assert new == pytest.approx(by[0] * old, nan_ok=True)
    assert grid["whatif"].drop("max_qps").equals(raw["whatif"].drop("max_qps"))


def test_the_grid_holds_what_a_search_finds(h200) -> None:
    slo, load = Slo(), NamedLoad("azure-conv", 600)
    service = Service(load, h200, strategy_named("swift_kv", h200.model))
    bracket = capacity_of(service, slo, seeds=(3,)).brackets[0]
    cells, rungs = what_if(service, "swift_kv:keep=16", 1.0, limits_for(slo), 0.7 * bracket.low, 3)
    home = cells.filter(pl.col("slo_ttft_ms") == slo.ttft_ms, pl.col("slo_tpot_ms") == slo.tpot_ms)
    assert home["max_qps"].item() == pytest.approx(bracket.low, rel=2 * TOLERANCE)
    assert rungs["qps"].is_sorted()
    at = service.at(rungs["qps"][3], 3)
    assert rungs["ttft_ms"][3] == at.summary()["ttft_ms"]["p90"]
    assert rungs["extrapolated_share"][3] == pytest.approx(at.summary()["extrapolated_share"])
