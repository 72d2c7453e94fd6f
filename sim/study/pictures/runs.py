"""One run in pictures: where its time went, and what it held from moment to moment."""

from typing import Protocol

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.pictures.style import label, themed, wrapped

PARTS = {
    "weights": ("weights", "#1f4e79", ""),
    "kv": ("KV cache", "#5aa9c9", "\\"),
    "compute": ("compute", "#d55e00", ""),
    "pointwise": ("pointwise", "#e9b872", "/"),
    "communication": ("communication", "#8a5ab0", "x"),
    "launch": ("launch", "#9aa3ad", "."),
    "host": ("host", "#5d6670", "-"),
}
POINTS = 5000
OVERLAY = {"fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.45, "size": 6, "solidity": 0.15}


class Run(Protocol):
    """What a timeline needs of a `sim.run.result.Result`."""

    @property
    def iterations(self) -> pl.DataFrame: ...


def attribution(frame: pl.DataFrame) -> go.Figure:
    """Seconds per kind of iteration, stacked by what the time was spent on.

    Columns: kind, iterations, {weights,kv,compute,pointwise,communication,launch,host}_s, as `Result.attribution()`
    has them; an optional `strategy` column gives each strategy its own bars.
    """
    many = "strategy" in frame.columns
    keys = [
        wrapped(f"{label(r['strategy'])}: {r['kind']}" if many else str(r["kind"]), 28)
        + f"<br>{r['iterations']:,} iteration{'' if r['iterations'] == 1 else 's'}"
        for r in frame.iter_rows(named=True)
    ]
    totals = frame.select(pl.sum_horizontal(f"{p}_s" for p in PARTS)).to_series().to_list()
    figure = go.Figure()
    for part, (name, fill, pattern) in PARTS.items():
        values = frame[f"{part}_s"].to_list()
        shares = [v / t if t else 0.0 for v, t in zip(values, totals)]
        figure.add_trace(
            go.Bar(
                x=values,
                y=keys,
                orientation="h",
                name=name,
                text=[f"{s:.0%}" if s >= 0.1 else "" for s in shares],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                marker={"color": fill, "pattern": {**OVERLAY, "shape": pattern}},
                customdata=shares,
                hovertemplate="%{x:.3g} s, %{customdata:.1%} of this bar<extra>" + name + "</extra>",
            )
        )
    themed(figure, "What does the time of an iteration go into?", height=190 + 44 * len(keys))
    figure.update_layout(barmode="stack", bargap=0.3, legend={"traceorder": "normal"})
    figure.update_layout(uniformtext={"minsize": 9, "mode": "hide"})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="seconds of the whole run")
    return figure


def timeline(result: Run) -> go.Figure:
    """Batch composition, KV share and queue over time, sharing one zoomable axis, in at most 5,000 points.

    A longer run is drawn in groups of consecutive iterations, and the figure says so: the mean of the rows, the peak of
    KV share and queue.
    """
    frame, grouped = _thinned(result.iterations, POINTS // 4)
    time = frame["time_s"].to_list()
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[3, 2, 2])
    rows = (("prompt_tokens", "prompt tokens", "#d55e00"), ("decode_rows", "decoding sequences", "#1f4e79"))
    for column, name, fill in rows:
        figure.add_trace(
            go.Scatter(
                x=time, y=frame[column].to_list(), name=name, stackgroup="rows", mode="lines",
                line={"width": 0.5, "color": fill},
                hovertemplate="%{x:.4g} s: %{y:.4g}<extra>" + name + "</extra>",
            ),
            row=1, col=1,
        )  # fmt: skip
    for i, (column, name, fill) in enumerate(
        (("kv_share", "KV memory in use", "#0072b2"), ("waiting", "requests waiting", "#6b7280")), 2
    ):
        figure.add_trace(
            go.Scatter(x=time, y=frame[column].to_list(), name=name, mode="lines", fill="tozeroy",
                       line={"width": 1, "color": fill, "shape": "hv"}),
            row=i, col=1,
        )  # fmt: skip
    themed(figure, "What did the GPU hold from moment to moment?", height=640)
    figure.update_yaxes(title="rows in the step", row=1, col=1)
    figure.update_yaxes(title="KV memory", tickformat=".0%", range=[0, 1.02], row=2, col=1)
    figure.update_yaxes(title="queue", rangemode="tozero", row=3, col=1)
    figure.update_layout(legend={"traceorder": "normal"})
    note = "" if grouped == 1 else f"<br>each point is {grouped:,} iterations:<br>mean rows, peak KV and queue"
    figure.update_xaxes(title="time since the first arrival (s)" + note, row=3, col=1)
    return figure


def _thinned(iterations: pl.DataFrame, points: int) -> tuple[pl.DataFrame, int]:
    """At most `points` rows, and how many iterations each stands for."""
    size = -(-len(iterations) // points) or 1
    frame = (
        iterations.with_row_index("i")
        .group_by(pl.col("i") // size, maintain_order=True)
        .agg(
            (pl.col("start_ns").first() / 1e9).alias("time_s"),
            pl.col("prompt_tokens").mean(),
            pl.col("decode_rows").mean(),
            pl.col("kv_share").max(),
            pl.col("waiting").max(),
        )
    )
    return frame, size


