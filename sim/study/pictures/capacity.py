"""What a GPU carries and what that costs: capacity bars, and cost against quality."""

from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.numerals import human
from sim.study.pictures.style import FAMILIES, INK, Style, change, family, filled, label, styles, themed, tick


def capacity_bars(study: pl.DataFrame) -> go.Figure:
    """Bars of the highest request rate per GPU that meets the SLO, one per strategy, with the search's interval.

    Columns: strategy, max_qps_per_gpu, max_qps_low, max_qps_high (requests per second per GPU; the interval may be
    null). Each bar is labelled with its figure and with its gain over the dense model, where that is in the frame.
    """
    figure = go.Figure()
    rows = list(study.iter_rows(named=True))
    base = next((row["max_qps_per_gpu"] for row in rows if family(row["strategy"]) == "dense"), None)
    for row in rows:
        figure.add_trace(_bar(row, base))
    title = "How many requests per second does one GPU carry within the SLO?"
    themed(figure, title, height=100 + 56 * len(rows), legend=False)
    figure.update_xaxes(title="requests/s per GPU", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(bargap=0.4)
    return figure


def cost_quality(study: pl.DataFrame) -> go.Figure:
    """Quality over cost, one marker per strategy; strategies whose quality nobody measured lie on their own strip.

    Columns: strategy, dollars_per_million_output_tokens, quality (a score, higher is better; null: not measured).
    The line joins the strategies that no other beats in both.
    """
    known = study.filter(pl.col("quality").is_not_null())
    unknown = study.filter(pl.col("quality").is_null())
    heights = [260 if len(known) else 0, 34 * len(unknown) + 30 if len(unknown) else 0]
    shown = [h for h in heights if h] or [100]
    titles = [t for t, h in zip(("", "quality not measured"), heights) if h]
    figure = make_subplots(
        rows=len(shown), cols=1, shared_xaxes=True, row_heights=shown, vertical_spacing=0.12, subplot_titles=titles
    )
    looks = styles(study["strategy"])
    if len(known):
        figure.add_trace(_frontier(known), row=1, col=1)
        figure.update_yaxes(title="quality (higher is better)", row=1, col=1)
    for row in study.sort("dollars_per_million_output_tokens").iter_rows(named=True):
        place = 1 if row["quality"] is not None else len(shown)
        figure.add_trace(_marker(row, looks[row["strategy"]]), row=place, col=1)
    themed(figure, "What does a million output tokens cost, and at what quality?", height=150 + sum(shown))
    figure.update_xaxes(rangemode="tozero")
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    figure.update_xaxes(title="$ per million output tokens", row=len(shown), col=1)
    return figure


def _bar(row: dict[str, Any], base: float | None) -> go.Bar:
    strategy, value, low, high = (row[c] for c in ("strategy", "max_qps_per_gpu", "max_qps_low", "max_qps_high"))
    error = None
    if low is not None and high is not None:
        error = {"type": "data", "array": [high - value], "arrayminus": [value - low], "color": INK, "thickness": 1.5}
    gain = "" if family(strategy) == "dense" else change(value, base)
    return go.Bar(
        x=[value],
        y=[tick(strategy, f"<b>{human(value)}</b>{gain}")],
        orientation="h",
        name=label(strategy),
        marker=filled(FAMILIES[family(strategy)]),
        error_x=error,
        hovertemplate="%{x:.3g} requests/s per GPU<extra>" + label(strategy) + "</extra>",
    )


def _marker(row: dict[str, Any], look: Style) -> go.Scatter:
    measured, name = row["quality"] is not None, label(row["strategy"])
    return go.Scatter(
        x=[row["dollars_per_million_output_tokens"]],
        y=[row["quality"] if measured else tick(row["strategy"])],
        mode="markers",
        name=name,
        showlegend=measured,
        marker={"symbol": look.marker, "size": 13, "color": look.colour},
        hovertemplate="%{x:$.3g} per million output tokens, %{y}<extra>" + name + "</extra>",
    )


def _frontier(known: pl.DataFrame) -> go.Scatter:
    kept = (
        known.sort("dollars_per_million_output_tokens", "quality", descending=[False, True])
        .with_columns(pl.col("quality").cum_max().shift(1).alias("before"))
        .filter(pl.col("before").is_null() | (pl.col("quality") > pl.col("before")))
    )
    return go.Scatter(
        x=kept["dollars_per_million_output_tokens"].to_list(),
        y=kept["quality"].to_list(),
        mode="lines",
        name="none is both cheaper and better",
        line={"color": INK, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )
