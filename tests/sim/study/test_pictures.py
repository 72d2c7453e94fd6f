"""Pictures show the numbers they were given, all of them, with a unit on every axis."""

import itertools

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.run.metrics import Slo
from sim.study import pictures
from tests.sim.study import frames
from tests.sim.study.gallery import FIGURES

Costs = list[tuple[float, float | None]]


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_of_numbers_says_its_unit_and_every_title_speaks(name: str) -> None:
    figure = FIGURES[name]
    layout = figure.layout
    for kind in ("x", "y"):
        axes = {a: layout[f"{kind}axis{a[1:]}"] for a in {getattr(t, f"{kind}axis") or kind for t in figure.data}}
        told = {a for a, axis in axes.items() if axis.title.text or axis.ticksuffix}
        for a, axis in axes.items():
            drawn = [getattr(t, kind) for t in figure.data if (getattr(t, f"{kind}axis") or kind) == a]
            words = any(isinstance(v, str) for column in drawn if column is not None for v in column)
            shared = axis.matches in told or any(layout[f"{kind}axis{b[1:]}"].matches == a for b in told)
            same_kind = axis.tickformat == ".0%" and told  # columns of one waterfall share a title
            assert words or a in told or shared or same_kind, f"{kind} axis {a} of {name} has no unit"
    title = layout.title.text
    assert "?" in title
    assert " " in title


def test_capacity_bars_hold_each_figure_and_its_interval() -> None:
    frame = frames.capacities()
    bars = FIGURES["capacity_bars"].data
    assert len(bars) == len(frame)
    for bar, row in zip(bars, frame.iter_rows(named=True)):
        value = row["max_qps_per_gpu"]
        assert list(bar.x) == [value]
        assert bar.marker.color == pictures.colour(row["strategy"])
        assert pictures.human(value) in bar.y[0]
        if row["max_qps_low"] is None:
            assert bar.error_x.array is None
        else:
            assert value - bar.error_x.arrayminus[0] == pytest.approx(row["max_qps_low"])
            assert value + bar.error_x.array[0] == pytest.approx(row["max_qps_high"])
    assert "(+51%)" in bars[3].y[0]
    assert "%" not in bars[0].y[0]


@pytest.mark.parametrize("bands", [False, True])
def test_latency_curves_hold_every_point_and_the_slo(bands: bool) -> None:
    frame, slo = frames.points(bands=bands), Slo(ttft_ms=700.0, tpot_ms=40.0)
    figure = pictures.latency_curves(frame, slo)
    lines = [t for t in figure.data if t.mode == "lines+markers"]
    assert len(lines) == 2 * 2 * len(frames.STRATEGIES)
    assert sum(t.fill == "toself" for t in figure.data) == (len(lines) if bands else 0)
    expected = [
        (pictures.label(s), frame.filter(strategy=s)[f"{metric}_{quantile}_ms"].to_list())
        for quantile, s, metric in itertools.product(("p90", "p50"), frames.STRATEGIES, ("ttft", "tpot"))
    ]
    assert [(t.name, list(t.y)) for t in lines] == expected
    specs = {pictures.label(s): s for s in frames.STRATEGIES}
    for line, (name, _) in zip(lines, expected):
        mine = frame.filter(strategy=specs[name])
        assert [not symbol.endswith("-open") for symbol in line.marker.symbol] == mine["within_slo"].to_list()
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [40.0, 700.0]
    marks = [a.y for a in figure.layout.annotations]
    assert sorted(10**y for y in marks) == pytest.approx([40.0, 700.0])


def test_the_buttons_show_one_quantile_at_a_time() -> None:
    figure = FIGURES["latency_curves"]
    p90, median = ([bool(v) for v in b.args[0]["visible"]] for b in figure.layout.updatemenus[0].buttons)
    assert len(p90) == len(median) == len(figure.data)
    curves = [i for i, t in enumerate(figure.data) if t.mode == "lines+markers"]
    assert all(p90[i] != median[i] for i in curves)
    assert [i for i in curves if p90[i]] == [i for i in curves if figure.data[i].visible]


def test_a_waterfall_starts_at_the_total_and_each_step_where_the_last_one_ended() -> None:
    frame = frames.steps()
    figure = FIGURES["waterfall"]
    for i, (_, rows) in enumerate(frame.group_by("strategy", maintain_order=True), 1):
        bars = [t for t in figure.data if t.type == "bar" and t.xaxis == f"x{'' if i == 1 else i}"]
        assert len(bars) == len(rows)
        level = 0.0
        for bar, value, kind in zip(bars, rows["value"], rows["kind"]):
            before = level if kind == "loss" else 0.0
            level = before + value
            ends = sorted((before, level))
            assert [bar.base[0], bar.base[0] + bar.x[0]] == pytest.approx(ends)
        assert level == pytest.approx(rows["value"][-1])


@settings(max_examples=settings.default.max_examples // 5)  # plotly takes its time
@given(st.floats(0.01, 1), st.lists(st.floats(-0.3, 0.3), min_size=1, max_size=5), st.floats(0.001, 0.5))
def test_a_waterfall_that_does_not_add_up_is_refused(total: float, losses: list[float], error: float) -> None:
    rows = [("x", "start", total, "total"), *(("x", f"step {i}", v, "loss") for i, v in enumerate(losses))]
    end = total + sum(losses)
    names = ["strategy", "label", "value", "kind"]
    good = pl.DataFrame([*rows, ("x", "end", end, "result")], schema=names, orient="row")
    assert sum(t.type == "bar" for t in pictures.waterfall(good).data) == len(good)
    with pytest.raises(InputError, match="end at"):
        pictures.waterfall(pl.DataFrame([*rows, ("x", "end", end + error, "result")], schema=names, orient="row"))
    with pytest.raises(InputError, match="must be total, loss or result"):
        pictures.waterfall(good.with_columns(kind=pl.lit("gain")))


def test_batching_curves_hold_every_saving_and_each_promise_once() -> None:
    frame = frames.ffn()
    lines = FIGURES["ffn_by_batch"].data
    realised = [t for t in lines if t.name.endswith("realised")]
    assert [v for t in realised for v in t.y] == frame["realised"].to_list()
    assert len(lines) == 2 * len(realised) == 2 * frame["strategy"].n_unique()
    frame = frames.depth()
    figure = FIGURES["skip_decode_by_batch"]
    realised = [t for t in figure.data if t.name.endswith("realised")]
    assert [v for t in realised for v in t.y] == frame["realised"].to_list()
    assert len(figure.data) - len(realised) == frame["model"].n_unique()
    assert [a.text for a in figure.layout.annotations] == ["llama-3.1-8b", "llama-2-7b"]
    assert len({t.line.dash for t in realised}) == frame["policy"].n_unique()


def test_single_stream_bars_hold_each_latency_and_the_change_against_dense() -> None:
    frame = frames.streams()
    bars = FIGURES["single_stream"].data
    assert sorted(v for t in bars for v in t.x) == sorted(frame["ttft_ms"].to_list() + frame["tpot_ms"].to_list())
    said = {t.y[0].rpartition("<br>")[2] for t in bars}
    assert {"<b>54.0</b> ms (−43%)", "<b>7.10</b> ms (±0%)", "<b>95.0</b> ms"} <= said


COST_AND_QUALITY = st.tuples(st.sampled_from([0.5, 1.0, 2.5]), st.none() | st.sampled_from([0.2, 0.6, 0.7]))  # ties


@settings(max_examples=settings.default.max_examples // 2)
@given(st.lists(COST_AND_QUALITY, min_size=1, max_size=8))
def test_cost_and_quality_show_all_strategies_and_the_line_joins_the_unbeaten(rows: Costs) -> None:
    frame = pl.DataFrame(
        {
            "strategy": [f"strategy {i}" for i in range(len(rows))],
            "dollars_per_million_output_tokens": [cost for cost, _ in rows],
            "quality": pl.Series([quality for _, quality in rows], dtype=pl.Float64),
        }
    )
    figure = pictures.cost_quality(frame)
    markers = [t for t in figure.data if t.mode == "markers"]
    assert sorted((t.name, t.x[0]) for t in markers) == sorted((f"strategy {i}", c) for i, (c, _) in enumerate(rows))
    measured = [(c, q) for c, q in rows if q is not None]
    assert sorted(t.y[0] for t in markers if not isinstance(t.y[0], str)) == sorted(q for _, q in measured)
    unbeaten = {(c, q) for c, q in measured if not any((d <= c and r > q) or (d < c and r >= q) for d, r in measured)}
    lines = [t for t in figure.data if t.mode == "lines"]
    assert {point for t in lines for point in zip(t.x, t.y)} == unbeaten
