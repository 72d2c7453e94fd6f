"""Pictures of a run add up to it: its seconds, its iterations, its requests, its operations."""

import numpy as np
import polars as pl
import pytest

from sim.study import pictures
from sim.study.pictures.gantt import ITERATIONS, LANES
from tests.sim.study import frames
from tests.sim.study.gallery import FIGURES, counted, served, values


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
    assert [sum(bar.y) for bar in bars] == [steps[c][: len(bars[0].y)].sum() for c in ("prompt_tokens", "decode_rows")]
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
