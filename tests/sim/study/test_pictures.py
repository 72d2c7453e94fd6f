"""Pictures show the numbers they were given, all of them, with a unit on every axis."""

import itertools
from functools import cache

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.times import times_for
from sim.errors import InputError
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.run.simulate import simulate
from sim.serving.config import SchedulerConfig
from sim.study import pictures
from sim.study.operations import operations
from sim.study.pictures.gantt import ITERATIONS, LANES
from sim.study.pictures.plans import STATES
from sim.workload.generate import named_workload
from tests.sim.study import frames
from tests.sim.study.frames import MODEL, SPECS

Costs = list[tuple[float, float | None]]


def figures() -> dict[str, go.Figure]:
    return {
        "plan_table": pictures.plan_table(strategy_named("skip_decode", MODEL)),
        "capacity_bars": pictures.capacity_bars(frames.capacities()),
        "latency_curves": pictures.latency_curves(frames.points(), Slo()),
        "plan_steps": pictures.plan_steps({"swift_kv": strategy_named("swift_kv", MODEL)}, range(0, 64, 8)),
        "waterfall": pictures.waterfall(frames.steps()),
        "ffn_by_batch": pictures.ffn_by_batch(frames.ffn()),
        "skip_decode_by_batch": pictures.skip_decode_by_batch(frames.depth()),
        "single_stream": pictures.single_stream(frames.streams()),
        "cost_quality": pictures.cost_quality(frames.capacities()),
        "attribution": pictures.attribution(frames.seconds()),
        "timeline": pictures.timeline(frames.run(300)),
        "gantt": pictures.gantt(served()),
        "roofline": pictures.roofline(counted(), bytes_per_s=4.8e12, flops_per_s=989e12),
    }


@cache
def served() -> Result:
    """A run in which some wait."""
    on = Deployment(MODEL, gpu_named("h200"))
    work = named_workload("azure-conv", requests=150, qps=40)
    return simulate(work, on, strategy_named("dense", MODEL), SchedulerConfig(max_num_seqs=32))


def counted() -> pl.DataFrame:
    return operations(Deployment(MODEL, gpu_named("h200")), times_for("h200"))


FIGURES = figures()


def values(column: object) -> list[float]:
    return [float(v) for v in column]  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("spec", SPECS)
def test_a_plan_table_tells_every_flag_of_every_token(spec: str) -> None:
    plan = strategy_named(spec, MODEL)
    cells = pictures.plan_table(plan).data[0]
    columns = {tuple(row): i for i, row in enumerate(map(tuple, plan.decode))}
    assert len(cells.x) == 2 + len(columns)
    assert len(set(cells.x)) == len(cells.x)
    shown = np.array(cells.z)
    starts = [i for i, row in enumerate(plan.decode) if i == 0 or (row != plan.decode[i - 1]).any()]
    for column, flags in enumerate([plan.prompt, plan.sampled, *(plan.decode[t] for t in starts)]):
        for layer, flag in enumerate(flags):
            assert STATES[shown[layer, column]] == state_of(plan, layer, int(flag), generated=column > 1)


def state_of(plan: SkipPlan, layer: int, flag: int, *, generated: bool) -> str:
    """The state of a cell in words, by cases."""
    if flag & 3 == 3:
        if plan.kv_owner[layer] != layer:
            return "shared cache"
        return "FFN gated" if generated and plan.gate and plan.gate.skip[layer] > 0 else "full"
    return {0: "skipped", 1: "attention only", 2: "FFN only", 4: "KV only", 5: "attention only", 6: "FFN only"}[flag]


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
    unbeaten = {
        (c, q)
        for c, q in measured
        if not any((d <= c and r > q) or (d < c and r >= q) for d, r in measured)
    }
    lines = [t for t in figure.data if t.mode == "lines"]
    assert {point for t in lines for point in zip(t.x, t.y)} == unbeaten


def test_attribution_adds_up_to_the_seconds_of_the_run() -> None:
    frame = frames.seconds()
    bars = FIGURES["attribution"].data
    assert len(bars) == len(frames.PARTS)
    total = frame.select(pl.sum_horizontal(f"{p}_s" for p in frames.PARTS)).to_series()
    assert [sum(t.x[i] for t in bars) for i in range(len(frame))] == pytest.approx(total.to_list())
    assert [sum(t.customdata[i] for t in bars) for i in range(len(frame))] == pytest.approx([1.0] * len(frame))
    many = pl.concat([frame.with_columns(strategy=pl.lit(s)) for s in frames.STRATEGIES[:2]])
    assert len(set(pictures.attribution(many).data[0].y)) == len(many)


@pytest.mark.parametrize("iterations", [1, 700, 1250, 1251, 30_000])
def test_a_timeline_has_at_most_5000_points_and_says_when_it_groups(iterations: int) -> None:
    run = frames.run(iterations)
    figure = pictures.timeline(run)
    assert sum(len(t.x) for t in figure.data) <= 5000
    by_name = {t.name: t for t in figure.data}
    frame = run.iterations
    assert max(by_name["KV memory in use"].y) == frame["kv_share"].max()
    assert max(by_name["requests waiting"].y) == frame["waiting"].max()
    said = figure.layout.xaxis3.title.text
    if iterations <= 1250:
        assert values(by_name["prompt tokens"].y) == values(frame["prompt_tokens"])
        assert "each point" not in said
    else:
        assert f"each point is {-(-iterations // 1250)} iterations" in said
        assert np.mean(by_name["prompt tokens"].y) == pytest.approx(frame["prompt_tokens"].mean(), rel=0.02)


def test_a_gantt_chart_cuts_a_window_out_of_the_run() -> None:
    result = served()
    steps, frame = result.iterations, result.requests
    whole = pictures.gantt(result, start_s=0.0)
    bars = [t for t in whole.data if t.type == "bar"]
    assert [sum(bar.y) for bar in bars] == [
        steps[c][: len(bars[0].y)].sum() for c in ("prompt_tokens", "decode_rows")
    ]
    assert len(bars[0].y) <= ITERATIONS
    ends = np.array(bars[0].x) + np.array(bars[0].width)
    assert (ends[:-1] <= np.array(bars[0].x)[1:] + 1e-9).all()  # one iteration after the other
    lanes = {t.name: [y for y in t.y if y is not None] for t in whole.data if t.type == "scatter"}
    assert len(set(lanes["prompt"])) <= min(LANES, len(frame))
    first = frame.sort("scheduled_ns", "request").row(0, named=True)
    prompt = next(t for t in whole.data if t.name == "prompt")
    assert [prompt.x[0], prompt.x[1]] == pytest.approx([first["scheduled_ns"] / 1e9, first["first_token_ns"] / 1e9])
    peak = steps.row(int(steps["waiting"].arg_max()), named=True)["start_ns"] / 1e9  # type: ignore[arg-type]
    low, high = FIGURES["gantt"].layout.xaxis3.range
    assert low <= peak <= high


def test_a_roofline_holds_every_operation_and_says_which_were_not_measured() -> None:
    frame = counted()
    ceiling, *traces = FIGURES["roofline"].data
    assert [t.name for t in traces] == list(dict.fromkeys(frame["operation"]))
    for trace, (_, mine) in zip(traces, frame.group_by("operation", maintain_order=True)):
        assert np.array(trace.x) * mine["bytes"].to_numpy() == pytest.approx(mine["flops"].to_numpy())
        assert np.array(trace.y) * mine["ns"].to_numpy() * 1e3 == pytest.approx(mine["flops"].to_numpy())
        assert [not s.endswith("-open") for s in trace.marker.symbol] == mine["measured"].to_list()
    assert ceiling.y[-1] == 989.0
    assert ceiling.y[0] == pytest.approx(4.8 * ceiling.x[0])


@pytest.mark.parametrize("spec", SPECS)
def test_steps_fill_the_plan_in_one_token_at_a_time(spec: str) -> None:
    plan = strategy_named(spec, MODEL)
    tokens = [0, 1, 17, 100, 300]
    figure = pictures.plan_steps({spec: plan}, tokens, seed=5)
    whole = np.array(figure.data[0].z)
    assert len(figure.frames) == len(figure.layout.sliders[0].steps) == whole.shape[1]
    for shown, frame in enumerate(figure.frames, 1):
        z = np.array(frame.data[0].z)
        assert (z[:, :shown] == whole[:, :shown]).all()
        assert np.isnan(z[:, shown:]).all()
    for column, t in enumerate(tokens, whole.shape[1] - len(tokens)):
        flags = plan.decode[min(t, len(plan.decode) - 1)]
        for layer, flag in enumerate(flags):
            state, left = STATES[whole[layer, column]], state_of(plan, layer, int(flag), generated=True)
            assert state in (("full", "attention only") if left == "FFN gated" else (left,))


def test_steps_draw_a_gate_as_its_rule_has_it() -> None:
    plan = strategy_named("ffn_skip:share=0.25", MODEL)
    gate = plan.gate
    assert gate is not None
    tokens = range(gate.warmup_tokens + 12 * gate.cadence)
    drawn = np.array(pictures.plan_steps({"gate": plan}, tokens).data[0].z)[:, -len(tokens) :]
    out = drawn == STATES.index("attention only")
    assert set(out.sum(axis=0)) == {0, gate.run_length}
    assert not out[gate.skip == 0].any()
    assert not out[:, : gate.warmup_tokens].any()
    assert (out[:, gate.warmup_tokens :: gate.cadence] == 0).all()
    assert out[:, gate.warmup_tokens :].mean() == pytest.approx(gate.mean_skip, rel=0.15)
