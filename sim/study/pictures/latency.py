"""Latency against load: the curves with the SLO line, and one stream beside a mixed load."""

import math
from typing import Protocol

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.numerals import human
from sim.study.pictures.style import (
    INK,
    LIMIT,
    Style,
    change,
    family,
    filled,
    in_order,
    label,
    log_ticks,
    styles,
    themed,
    tick,
)

METRICS = (("ttft", "TTFT"), ("tpot", "TPOT"))


class Limits(Protocol):
    """Latency limits, as `sim.run.metrics.Slo` has them."""

    @property
    def ttft_ms(self) -> float: ...

    @property
    def tpot_ms(self) -> float: ...


def latency_curves(points: pl.DataFrame, slo: Limits) -> go.Figure:
    """TTFT and TPOT over the request rate, one line per strategy, with the SLO; buttons choose p90 or p50.

    Columns: strategy, qps (requests per second), {ttft,tpot}_{p50,p90}_ms, within_slo (bool); optional
    {ttft,tpot}_{p50,p90}_ms_{low,high} or {ttft,tpot}_{p50,p90}_{low,high}_ms draw an interval band. Points that miss
    the SLO are hollow. Both scales of time are logarithmic.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    looks = styles(points["strategy"])
    owners: list[str] = []
    for quantile in ("p90", "p50"):
        for strategy, look in looks.items():
            mine = points.filter(pl.col("strategy") == strategy).sort("qps")
            for i, (metric, _) in enumerate(METRICS):
                traces = _curve(mine, look, strategy, f"{metric}_{quantile}", legend=i == 0)
                for trace in traces:
                    trace.visible = quantile == "p90"
                    figure.add_trace(trace, row=i + 1, col=1)
                    owners.append(quantile)
    for i, (metric, name) in enumerate(METRICS):
        limit = getattr(slo, f"{metric}_ms")
        _limit_line(figure, i + 1, limit)
        seen = [limit, *points[f"{metric}_p90_ms"], *points[f"{metric}_p50_ms"]]
        figure.update_yaxes(title=f"{name} (ms)", **log_ticks(seen), row=i + 1, col=1)
    figure.add_trace(_hollow(), row=1, col=1)
    owners.append("")
    themed(figure, "How does latency grow with load?", height=760)
    figure.update_xaxes(title="requests per second per GPU", row=2, col=1)
    figure.update_layout(updatemenus=[_switch(owners)], hovermode="closest")
    return figure


def single_stream(frame: pl.DataFrame) -> go.Figure:
    """TTFT and TPOT of one request alone and under load, bars per strategy, labelled with the change against dense.

    Columns: strategy, load (what runs beside: any text), ttft_ms, tpot_ms.
    """
    loads, strategies = in_order(frame["load"].to_list()), in_order(frame["strategy"].to_list())
    panels = [(metric, name, load) for metric, name in METRICS for load in loads]
    height = 70 + 44 * len(strategies)
    figure = make_subplots(
        rows=len(panels), cols=1, vertical_spacing=60 / (len(panels) * height),
        subplot_titles=[f"<b>{name}</b>, {load}" for _, name, load in panels],
    )  # fmt: skip
    looks = styles(strategies)
    for i, (metric, _, load) in enumerate(panels):
        part = frame.filter(pl.col("load") == load)
        values = dict(zip(part["strategy"], part[f"{metric}_ms"]))
        base = next((v for s, v in values.items() if family(s) == "dense"), None)
        for strategy, value in values.items():
            bar = _stream_bar(strategy, value, None if family(strategy) == "dense" else base, looks[strategy])
            figure.add_trace(bar, row=i + 1, col=1)
        top = max((v for v in values.values() if v is not None), default=1.0)
        figure.update_xaxes(ticksuffix=" ms", nticks=6, range=[0, 1.05 * top], row=i + 1, col=1)
    themed(figure, "What does skipping do for one request alone, and under load?",
           height=40 + len(panels) * height, legend=False)  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    return figure


def _curve(mine: pl.DataFrame, look: Style, strategy: str, column: str, *, legend: bool) -> list[go.Scatter]:
    x = mine["qps"].to_list()
    inside = mine["within_slo"].to_list()
    hollow = look.marker.removesuffix("-open")
    symbols = [look.marker if ok else f"{hollow}-open" for ok in inside]
    line = go.Scatter(
        x=x,
        y=mine[f"{column}_ms"].to_list(),
        mode="lines+markers",
        name=label(strategy),
        legendgroup=strategy,
        showlegend=legend,
        line={"color": look.colour, "dash": look.dash, "width": 2},
        marker={"symbol": symbols, "size": 8},
        hovertemplate="%{x:.3g} requests/s: %{y:.4g} ms<extra>" + label(strategy) + "</extra>",
    )
    ends = _interval(mine, column)
    return [line] if ends is None else [_band(x, *ends, look, strategy), line]


def _limit_line(figure: go.Figure, row: int, limit_ms: float) -> None:
    """The SLO across a panel whose axis is logarithmic: shapes take the value there, annotations its logarithm."""
    line = {"color": LIMIT, "width": 1.5, "dash": "dash"}
    figure.add_shape(type="line", x0=0, x1=1, xref="x domain", y0=limit_ms, y1=limit_ms, line=line, row=row, col=1)
    figure.add_annotation(
        text=f"SLO {limit_ms:,g} ms", x=0, xref="x domain", y=math.log10(limit_ms), row=row, col=1,
        xanchor="left", yanchor="bottom", showarrow=False, font={"color": LIMIT},
    )  # fmt: skip


def _hollow() -> go.Scatter:
    marker = {"symbol": "circle-open", "size": 8, "color": INK}
    return go.Scatter(x=[None], y=[None], mode="markers", name="hollow: misses the SLO", marker=marker)


def _interval(mine: pl.DataFrame, column: str) -> tuple[list[float], list[float]] | None:
    for low, high in ((f"{column}_ms_low", f"{column}_ms_high"), (f"{column}_low_ms", f"{column}_high_ms")):
        if low in mine.columns and high in mine.columns:
            return mine[low].to_list(), mine[high].to_list()
    return None


def _band(x: list[float], low: list[float], high: list[float], look: Style, strategy: str) -> go.Scatter:
    red, green, blue = (int(look.colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=x + x[::-1],
        y=high + low[::-1],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="lines",
        legendgroup=strategy,
        showlegend=False,
        hoverinfo="skip",
        name=f"{label(strategy)}, 90 % interval",
    )


def _switch(owners: list[str]) -> dict[str, object]:
    buttons = [
        {"label": text, "method": "restyle", "args": [{"visible": [o in (quantile, "") for o in owners]}]}
        for quantile, text in (("p90", "p90"), ("p50", "median"))
    ]
    return {
        "type": "buttons", "direction": "right", "buttons": buttons, "showactive": True,
        "x": 0.5, "xanchor": "center", "y": 1.01, "yanchor": "bottom", "pad": {"t": 0, "b": 2},
    }  # fmt: skip


def _stream_bar(strategy: str, value: float, base: float | None, look: Style) -> go.Bar:
    return go.Bar(
        x=[value],
        y=[tick(strategy, f"<b>{human(value)}</b> ms{change(value, base)}")],
        orientation="h",
        name=label(strategy),
        marker=filled(look),
        hovertemplate="%{x:.4g} ms<extra>" + label(strategy) + "</extra>",
    )
