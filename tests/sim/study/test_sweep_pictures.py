"""A sweep's pictures hold the frame's figures, and its page draws in a browser without a complaint."""

import polars as pl
import pytest

from sim.study.pictures.sweeps import axis_title, front_picture, side_by_side, tornado
from sim.study.points.effects import effects
from sim.study.points.objectives import HIGHER, LOWER, pareto
from sim.study.points.report import report
from sim.study.points.table import SCHEMA
from tests.browser import ask

COST, TPOT = "dollars_per_million_output_tokens", "tpot_p50_ms"
AXES = ["strategy", "keep", "tp"]
POINTS = [
    {"strategy": s, "keep": k, "tp": tp, "plan": s.format(keep=k), "feasible": (k, tp) != (8, 2), "note": "",
     COST: 1.0 / (k or 8) * tp, TPOT: 20.0 + (k or 32) / tp, "quality": 1.0 if k is None else 0.9}
    for s, k in (("dense", None), ("swift_kv:keep={keep}", 8), ("swift_kv:keep={keep}", 16))
    for tp in (1, 2)
]  # fmt: skip


@pytest.fixture(scope="module")
def points():
    schema = {"strategy": pl.String, "keep": pl.Int64, "tp": pl.Int64} | SCHEMA
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in POINTS], schema=schema)


def test_a_front_picture_has_every_feasible_point_and_the_front(points):
    front = pareto(points, (COST, TPOT))
    line, *families = front_picture(points, front, COST, TPOT).data
    assert list(line.x) == front[COST].to_list()
    drawn = {(x, y) for trace in families for x, y in zip(trace.x, trace.y)}
    assert drawn == {(row[COST], row[TPOT]) for row in POINTS if row["feasible"]}
    assert [trace.name for trace in families] == ["Dense", "SwiftKV"]


def test_bars_reach_from_the_lowest_to_the_highest_factor(points):
    found = effects(points, AXES, COST)
    for bar, axis in zip(tornado(found, COST).data, found["axis"].unique(maintain_order=True)):
        mine = found.filter(axis=axis)["factor"]
        assert bar.base[0] == pytest.approx(100 * (mine.min() - 1))
        assert bar.base[0] + bar.x[0] == pytest.approx(100 * (mine.max() - 1))
    spreads = [bar.x[0] for bar in tornado(found, COST).data]
    assert spreads == sorted(spreads, reverse=True)


def test_side_by_side_has_an_axis_for_each_setting_and_blue_for_the_best(points):
    dimensions, line = (side_by_side(points, AXES, COST).data[0][name] for name in ("dimensions", "line"))
    assert [d.label for d in dimensions] == [*AXES, axis_title(COST)]
    assert [len(d["values"]) for d in dimensions] == [5] * 4
    assert list(dimensions[0].ticktext) == ["Dense", "SwiftKV"]
    assert list(dimensions[1].ticktext) == ["—", "8", "16"]
    assert list(line.colorscale[0]) == [0, "#0072b2"]
    assert list(side_by_side(points, AXES, "quality").data[0].line.colorscale[-1]) == [1, "#0072b2"]


def test_every_objective_has_a_title_without_underscores():
    assert not [name for name in (*LOWER, *HIGHER) if "_" in axis_title(name)]


def test_the_report_draws_without_a_complaint(points, tmp_path):
    page = report(points, AXES, COST, {"source": "test"})
    script = "return document.querySelectorAll('.plot .main-svg, .plot canvas').length"
    drawn, problems = ask(page, script, tmp_path)
    assert problems == []
    assert drawn > 4
