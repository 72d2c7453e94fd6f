"""The Gantt chart of a run: who waits, reads a prompt and decodes, and which iteration did it."""

from typing import Protocol

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.pictures.style import FAINT, themed

ITERATIONS, LANES = 400, 60  # most that are drawn
PHASES = {
    "waiting": ("arrival_ns", "scheduled_ns", "#9aa3ad", 2, "dot"),
    "prompt": ("scheduled_ns", "first_token_ns", "#d55e00", 7, "solid"),
    "decode": ("first_token_ns", "last_token_ns", "#1f4e79", 3, "solid"),
}
ROWS = {"prompt_tokens": ("prompt tokens", "#d55e00"), "decode_rows": ("decoding sequences", "#1f4e79")}


class Run(Protocol):
    """What the chart needs of a `sim.run.result.Result`."""

    @property
    def iterations(self) -> pl.DataFrame: ...

    @property
    def requests(self) -> pl.DataFrame: ...


def gantt(result: Run, start_s: float | None = None) -> go.Figure:
    """Iterations from `start_s` on, at most 400, and the requests whose prompt they read, at most 60, one lane each.

    Without `start_s` it begins before the longest queue, or where the batch is fullest. Above, a request is a thin
    dotted line while it waits, a thick one while its prompt is read, and a solid one while it decodes. Below, each
    iteration is as wide as it lasted and as high as it had rows. All share one zoomable axis.
    """
    steps = _window(result.iterations, start_s)
    begin = int(steps["start_ns"][0])
    ends = steps["start_ns"] + steps["duration_ns"]
    shown = (
        result.requests.drop_nulls("last_token_ns")
        .filter(pl.col("scheduled_ns") < ends[-1], pl.col("first_token_ns") > begin)
        .sort("scheduled_ns", "request")
        .head(LANES)
    )
    end = int(ends[-1])
    if len(shown) == LANES:
        end = min(end, int(shown["first_token_ns"].max()))  # type: ignore[arg-type]
        steps = steps.filter(pl.col("start_ns") < end)
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.04, row_heights=[3, 1, 1])
    for phase in PHASES:
        figure.add_trace(_lanes(shown, phase, begin, end), row=1, col=1)
    for i, column in enumerate(ROWS, 2):
        figure.add_trace(_bars(steps, column), row=i, col=1)
        figure.update_yaxes(title=ROWS[column][0].replace(" ", "<br>"), nticks=4, row=i, col=1)
    themed(figure, "Who is in which iteration?", height=380 + 7 * len(shown))
    figure.update_yaxes(title="requests,<br>by admission", showticklabels=False, showgrid=False, row=1, col=1)
    figure.update_yaxes(zeroline=False, row=1, col=1)
    figure.update_xaxes(range=[begin / 1e9, end / 1e9])
    figure.update_xaxes(title="time since the first arrival (s)", row=3, col=1)
    figure.update_layout(bargap=0, legend={"traceorder": "normal"})
    return figure


def _window(iterations: pl.DataFrame, start_s: float | None) -> pl.DataFrame:
    """The iterations from a moment on."""
    if start_s is None:
        queue = iterations["waiting"].to_numpy()
        rows = queue if queue.any() else iterations["decode_rows"].to_numpy()
        first = max(0, int(np.argmax(rows)) - ITERATIONS // 4)
    else:
        ends = iterations["start_ns"] + iterations["duration_ns"]
        first = min(int((ends <= start_s * 1e9).sum()), len(iterations) - 1)
    return iterations[first : first + ITERATIONS]


def _lanes(requests: pl.DataFrame, phase: str, begin: int, end: int) -> go.Scatter:
    """One phase of every request, cut to the window; gaps between lanes are missing points."""
    first, last, colour, width, dash = PHASES[phase]
    x: list[float | None] = []
    y: list[int | None] = []
    said: list[str] = []
    for lane, row in enumerate(requests.iter_rows(named=True)):
        a, b = max(row[first], begin), min(row[last], end)
        if b > a:
            x += [a / 1e9, b / 1e9, None]
            y += [lane, lane, None]
            text = (
                f"request {row['request']}: {phase} {(row[last] - row[first]) / 1e6:,.1f} ms<br>"
                f"{row['prompt_tokens']:,} in, {row['output_tokens']:,} out"
            )
            said += [text, text, ""]
    line = {"color": colour, "width": width, "dash": dash}
    return go.Scatter(x=x, y=y, mode="lines", name=phase, line=line, text=said, hovertemplate="%{text}<extra></extra>")


def _bars(steps: pl.DataFrame, column: str) -> go.Bar:
    name, colour = ROWS[column]
    seconds = (steps["duration_ns"] / 1e9).to_numpy()
    kinds = steps["kind"].cast(pl.String).to_list()
    return go.Bar(
        x=(steps["start_ns"] / 1e9).to_list(),
        y=steps[column].to_list(),
        width=seconds.tolist(),
        offset=0,
        name=name,
        showlegend=False,
        marker={"color": colour, "line": {"color": FAINT, "width": 0.5}},
        customdata=list(zip(kinds, (1e3 * seconds).round(2))),
        hovertemplate="%{customdata[0]}, %{customdata[1]} ms: %{y:,} " + name + "<extra></extra>",
    )
