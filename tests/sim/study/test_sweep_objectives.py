"""INV-85, INV-86: fronts that nothing beats, planted effects found again, a search that finds a planted best point."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError, UnknownName
from sim.study.points.effects import effects
from sim.study.points.objectives import HIGHER, LOWER, best_of, objective_named, pareto
from sim.study.points.optimiser import search, shortfall
from sim.study.points.space import space_of

COST, SPEED = "dollars_per_million_output_tokens", "max_qps_per_gpu"
FEW = st.one_of(st.none(), st.integers(1, 5).map(float))
ROWS = st.lists(st.tuples(FEW, FEW, st.booleans()), max_size=12)


def frame(rows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={COST: pl.Float64, SPEED: pl.Float64, "feasible": pl.Boolean}, orient="row")


def beats(a, b) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(ROWS)
def test_a_front_is_what_no_feasible_point_beats(rows):
    kept = pareto(frame(rows), (COST, SPEED)).rows()
    able = [row for row in rows if row[2] and None not in row]
    assert sorted(kept) == sorted(row for row in able if not any(beats(other, row) for other in able))


@given(ROWS)
def test_the_best_point_is_feasible_and_none_is_better(rows):
    best = best_of(frame(rows), SPEED)
    able = [row[1] for row in rows if row[2] and row[1] is not None]
    assert (best is None) == (not able)
    assert best is None or best[SPEED] == max(able)


def test_an_objective_is_named_or_refused():
    assert objective_named("Max-QPS-per-GPU") == SPEED
    with pytest.raises(UnknownName, match="did you mean 'gpus'"):
        objective_named("gpu")
    with pytest.raises(InputError, match="two columns"):
        pareto(frame([]), (COST, COST))
    assert not set(LOWER) & set(HIGHER)


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_planted_effects_are_found_even_where_points_are_missing(seed, missing):
    rng = np.random.default_rng(seed)
    planted = {"gpu": rng.normal(size=3), "tp": rng.normal(size=2), "seqs": rng.normal(size=4)}
    rows = [
        {"gpu": f"g{i}", "tp": j, "seqs": k, "feasible": True, COST: math.exp(a + b + c)}
        for i, a in enumerate(planted["gpu"])
        for j, b in enumerate(planted["tp"])
        for k, c in enumerate(planted["seqs"])
    ]
    table = pl.DataFrame(rows).sample(len(rows) - missing, seed=seed % 1000, shuffle=True)
    found = effects(table, ["gpu", "tp", "seqs"], COST)
    for axis, logs in planted.items():
        names = [f"g{i}" if axis == "gpu" else str(i) for i in range(len(logs))]
        mine = dict(found.filter(axis=axis).select("value", "factor").rows())
        known = [i for i, name in enumerate(names) if name in mine]
        for i in known[1:]:
            ratio = mine[names[i]] / mine[names[known[0]]]
            assert ratio == pytest.approx(math.exp(logs[i] - logs[known[0]]))
    assert found["points"].sum() == 3 * len(table)


def test_effects_of_nothing_and_of_many_numbers():
    empty = pl.DataFrame({"x": [1], COST: [None], "feasible": [False]}, schema_overrides={COST: pl.Float64})
    assert effects(empty, ["x"], COST).is_empty()
    x = np.arange(1, 101)
    table = pl.DataFrame({"x": x, COST: x.astype(float), "feasible": [True] * 100})
    found = effects(table, ["x"], COST)
    assert found["points"].to_list() == [25, 25, 25, 25]
    assert found["factor"].is_sorted()


def planted(settings):
    """A cost with its least at speedup 2, on the strategy with a parameter; a demand that forbids the cheapest GPU."""
    dear = {"a": 0.1, "b": 1.0, "c": 2.0}[settings["gpu"]]
    off = 3.0 if settings["speedup"] is None else abs(settings["speedup"] - 2)
    return dear + off, {"slo": 1.0 if settings["gpu"] == "a" else 0.0, "quality": -0.5}


def searched(batch=8, trials=80, seed=0):
    vary = {"gpu": ["a", "b", "c"], "speedup": "1.0..4.0", "strategy": ["dense", "skip_decode:speedup={speedup}"]}
    space, asked = space_of(vary), []

    def judge(some):
        asked.append(list(some))
        return [planted(settings) for settings in some]

    search(space, judge, trials=trials, batch=batch, seed=seed)
    return asked


def test_a_search_finds_the_best_point_within_the_demands():
    asked = [s for batch in searched() for s in batch]
    able = [planted(s)[0] for s in asked if planted(s)[1]["slo"] <= 0]
    assert min(able) < 1.15
    assert np.median([planted(s)[0] for s in asked[40:]]) < 1.6
    assert sum(planted(s)[1]["slo"] <= 0 for s in asked[40:]) > 25


def test_a_search_depends_on_its_seed_and_batch_alone():
    assert searched() == searched()
    assert [len(batch) for batch in searched(batch=30)] == [30, 30, 20]
    assert searched(seed=1) != searched()


def test_a_search_respects_ranges_and_asks_only_for_what_a_strategy_has():
    space = space_of(
        {"strategy": ["dense", "swift_kv:keep={keep}"], "keep": "8..29:8", "max_num_seqs": "16..512:log",
         "slo_tpot_ms": "20..40", "tp": [1, 2, 4], "host_overlap": [True, False]}
    )  # fmt: skip
    asked = []
    search(space, lambda some: asked.extend(some) or [(1.0, {}) for _ in some], trials=40, batch=40, seed=3)
    assert {s["keep"] for s in asked if s["strategy"] != "dense"} <= {8, 16, 24}
    assert all((s["keep"] is None) == (s["strategy"] == "dense") for s in asked)
    assert all(16 <= s["max_num_seqs"] <= 512 and 20 <= s["slo_tpot_ms"] <= 40 for s in asked)
    assert {s["tp"] for s in asked} == {1, 2, 4}
    assert [list(s) for s in asked] == [list(space.axes)] * 40


def test_counts_that_are_none_are_refused():
    with pytest.raises(InputError, match="--search 0"):
        searched(trials=0)
    with pytest.raises(InputError, match="--batch 0"):
        searched(batch=0)


def test_what_is_not_known_misses_a_floor_and_what_is_above_it_does_not():
    assert shortfall({"within_slo": True, "quality": None}, None) == {"slo": 0.0, "quality": 0.0}
    assert shortfall({"within_slo": None, "quality": None}, 0.9) == {"slo": 1.0, "quality": 1.0}
    assert shortfall({"within_slo": True, "quality": 0.95}, 0.9)["quality"] < 0
    assert shortfall({"within_slo": True, "quality": 0.85}, 0.9)["quality"] == pytest.approx(0.05)
