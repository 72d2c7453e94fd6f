"""Why not twice as fast: from the nominal skip to the realised saving, step by step."""

import math
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.errors import InputError
from sim.study.numerals import percent
from sim.study.pictures.style import FAINT, colour, in_order, label, themed, wrapped

TAKEN, GIVEN = "#a8a29a", "#cfd8a8"
KINDS = ("total", "loss", "result")


def waterfall(steps: pl.DataFrame) -> go.Figure:
    """From the nominal skip to the realised saving, read from top to bottom, one column of bars per strategy.

    Columns: strategy, label, value, kind. `value` is a share (0.5 is 50%): of kind "total" it is where the column
    starts, of kind "loss" it is signed and added (−0.1 takes ten points away), of kind "result" it is where the column
    ends. Steps of one label share a row; what follows ": " in a result's label goes to the head of its column.
    Raises InputError where the steps do not add up, or a kind is another word.
    """
    strategies = in_order(steps["strategy"].to_list())
    panels = {s: list(steps.filter(pl.col("strategy") == s).iter_rows(named=True)) for s in strategies}
    labels = _rows(steps)
    figure = make_subplots(
        rows=1, cols=max(1, len(panels)), shared_yaxes=True, horizontal_spacing=0.012,
        subplot_titles=[_head(s, panels[s]) for s in strategies],
    )  # fmt: skip
    span = _span(panels)
    for i, (strategy, rows) in enumerate(panels.items(), 1):
        levels = _levels(strategy, rows)
        for row, start in zip(rows, levels):
            figure.add_trace(_bar(strategy, row, start), row=1, col=i)
        figure.add_trace(_links(rows, levels, labels), row=1, col=i)
    themed(figure, "Where does the nominal saving go?", height=168 + 38 * len(labels), legend=False)
    order = [_wrap(text) for text in labels]
    figure.update_yaxes(categoryorder="array", categoryarray=order, autorange="reversed", showgrid=False)
    figure.update_yaxes(tickfont={"size": 12})
    low, high = span
    figure.update_xaxes(tickformat=".0%", range=[low, high + 0.55 * (high - low)], nticks=3, tickangle=0, zeroline=True)
    figure.update_layout(bargap=0.25, barmode="overlay", margin={"t": 118})
    figure.update_layout(meta={"min_width": 190 + 118 * len(panels)})
    figure.update_annotations(font={"size": 12}, yanchor="bottom")
    figure.update_xaxes(title="share of the dense model's GPU time", row=1, col=(len(panels) + 1) // 2 or 1)
    return figure


def _levels(strategy: str, rows: list[dict[str, Any]]) -> list[float]:
    """Where each bar begins; raises InputError for steps that do not add up."""
    level, starts = 0.0, []
    for row in rows:
        value, kind = row["value"], row["kind"]
        if kind not in KINDS:
            raise InputError(f"waterfall of {strategy}: kind={kind!r} must be total, loss or result")
        if kind == "result" and not math.isclose(value, level, abs_tol=5e-4):
            raise InputError(f"waterfall of {strategy}: the steps end at {level:.4f}, its result is {value:.4f}")
        starts.append(level if kind == "loss" else 0.0)
        level = starts[-1] + value
    return starts


def _span(panels: dict[str, list[dict[str, Any]]]) -> tuple[float, float]:
    """The lowest and the highest point that any bar touches; zero is always one."""
    ends = [0.0]
    for strategy, rows in panels.items():
        ends += [start + row["value"] for start, row in zip(_levels(strategy, rows), rows)]
    return min(ends), max(max(ends), min(ends) + 0.01)


def _bar(strategy: str, row: dict[str, Any], start: float) -> go.Bar:
    """One step, drawn from left to right so that its text stands right of it, away from the labels."""
    value, whole = row["value"], row["kind"] != "loss"
    text = percent(value) if whole else _signed(value)
    return go.Bar(
        x=[abs(value)],
        base=[min(start, start + value)],
        y=[_wrap(_key(row))],
        orientation="h",
        name=str(row["label"]),
        text=[f"<b>{text}</b>" if whole else text],
        textposition="outside",
        textangle=0,
        cliponaxis=False,
        marker={"color": colour(strategy) if whole else GIVEN if value > 0 else TAKEN},
        hovertemplate=f"{row['label']}: {text}<extra>{label(strategy)}</extra>",
    )


def _signed(share: float) -> str:
    """ "+1.5%", "−3%"; a plain "0%" for what rounds to nothing."""
    text = percent(share)
    return text if share < 0 or text == "0%" else f"+{text}"


def _links(rows: list[dict[str, Any]], starts: list[float], labels: list[str]) -> go.Scatter:
    """Thin lines from where a bar ends to where the next one begins."""
    x: list[float | None] = []
    y: list[str | None] = []
    for before, after, start in zip(rows, rows[1:], starts):
        x += [start + before["value"], start + before["value"], None]
        y += [_wrap(_key(before)), _wrap(_key(after)), None]
    line = {"color": FAINT, "width": 1}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name="levels", showlegend=False)


def _rows(steps: pl.DataFrame) -> list[str]:
    """The labels of the rows, results last."""
    rows = list(steps.iter_rows(named=True))
    return in_order([_key(r) for r in rows if r["kind"] != "result"] + [_key(r) for r in rows if r["kind"] == "result"])


def _key(row: dict[str, Any]) -> str:
    return str(row["label"]).partition(": ")[0] if row["kind"] == "result" else str(row["label"])


def _head(strategy: str, rows: list[dict[str, Any]]) -> str:
    """A column's title: the strategy, and what its result's label says beside the row's name."""
    said = [str(r["label"]).partition(": ")[2] for r in rows if r["kind"] == "result"]
    return f"<b>{wrapped(label(strategy), 15)}</b>" + "".join(f"<br>{wrapped(text, 17)}" for text in said if text)


def _wrap(text: str) -> str:
    return wrapped(text, 27)
