"""Sweeps: what is to be had for what, which setting matters how much, and all settings side by side."""

import re
from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl

from sim.study.numerals import human
from sim.study.pictures.style import FAMILIES, INK, NAMES, family, label, themed
from sim.study.points.objectives import LOWER

COLOURS = ("#0072b2", "#009e73", "#d99a00", "#d55e00")  # from the best to the worst
TITLES = {
    "max_qps": "requests/s per replica",
    "max_qps_per_gpu": "requests/s per GPU",
    "gpus": "GPUs for the demand",
    "slo_met_share": "share of requests within the SLO",
    "output_tokens_per_s_per_gpu": "output tokens/s per GPU",
    "dollars_per_million_output_tokens": "$ per million output tokens",
    "kwh_per_million_output_tokens": "kWh per million output tokens",
    "quality": "share of the dense model's quality",
}

SEVERAL = {"across_kv": "SwiftKV, AcrossKV", "composition": "Compositions"}  # families that NAMES has not


def axis_title(column: str) -> str:
    """A column of a sweep as an axis says it: "TPOT p50 (ms)"."""
    metric, *rest = column.split("_")
    return TITLES.get(column, f"{metric.upper()} {rest[0]} (ms)" if len(rest) == 2 else column.replace("_", " "))


def front_picture(points: pl.DataFrame, front: pl.DataFrame, x: str, y: str) -> go.Figure:
    """A marker per feasible point, coloured by the family of its plan, and a line through the points that none beats.

    Columns of both frames: plan, x, y; those left out are shown by hovering.
    """
    known = points.filter("feasible").drop_nulls([x, y])
    figure = go.Figure()
    if len(front):
        figure.add_trace(_line(front, x, y))
    families = known["plan"].map_elements(family, return_dtype=pl.String)
    for name in families.unique(maintain_order=True):
        figure.add_trace(_markers(known.filter(families == name), name, x, y))
    themed(figure, f"What is to be had of {axis_title(y)} for {axis_title(x)}?", height=420)
    figure.update_xaxes(title=axis_title(x))
    figure.update_yaxes(title=axis_title(y))
    return figure


def tornado(effects: pl.DataFrame, objective: str) -> go.Figure:
    """Bars from the smallest to the largest factor by which each axis moves the objective, everything else equal.

    Columns: axis, value, factor, as of `sim.study.points.effects`; the widest bar comes first.
    """
    figure = go.Figure()
    axes = effects["axis"].unique(maintain_order=True).to_list()
    for axis in axes:
        mine = effects.filter(pl.col("axis") == axis).sort("factor")
        low, high = mine.row(0, named=True), mine.row(-1, named=True)
        ends = f"{_short(low['value'])} {_change(low['factor'])} … {_short(high['value'])} {_change(high['factor'])}"
        figure.add_trace(
            go.Bar(
                x=[100 * (high["factor"] - low["factor"])],
                base=[100 * (low["factor"] - 1)],
                y=[f"<b>{axis}</b><br>{ends.replace(' … ', ' …<br>')}"],
                orientation="h",
                marker={"color": COLOURS[0]},
                hovertemplate=f"{axis}: {ends}<extra></extra>",
            )
        )
    themed(figure, f"What moves {axis_title(objective)}?", height=120 + 64 * len(axes), legend=False)
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_xaxes(title="% off the mean,<br>everything else equal", ticksuffix=" %", nticks=6, tickangle=0)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(bargap=0.45)
    return figure


def side_by_side(points: pl.DataFrame, axes: Sequence[str], objective: str) -> go.Figure:
    """One line per feasible point across all axes to the objective, whose value is its colour.

    Columns: the axes (numbers or text; null where a point has no use for one) and the objective.
    """
    known = points.filter("feasible").drop_nulls(objective)
    values = known[objective].cast(pl.Float64).to_list()
    dimensions = [_dimension(known[axis]) for axis in axes] + [{"label": axis_title(objective), "values": values}]
    best_first = COLOURS if objective in LOWER else COLOURS[::-1]
    scale = [[i / (len(COLOURS) - 1), colour] for i, colour in enumerate(best_first)]
    line = {"color": values, "colorscale": scale}
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, labelfont={"color": INK}))
    themed(figure, "All settings side by side", height=440, legend=False)
    figure.update_layout(margin={"l": 120, "r": 110, "t": 84, "b": 24}, meta={"min_width": 130 * len(dimensions)})
    return figure


def _line(front: pl.DataFrame, x: str, y: str) -> go.Scatter:
    return go.Scatter(
        x=front[x].to_list(),
        y=front[y].to_list(),
        mode="lines",
        name="none is better in both",
        line={"color": INK, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
    )


def _markers(points: pl.DataFrame, name: str, x: str, y: str) -> go.Scatter:
    look = FAMILIES[name]
    said = label(points["plan"][0]) if points["plan"].n_unique() == 1 else SEVERAL.get(name) or NAMES.get(name, "Other")
    return go.Scatter(
        x=points[x].to_list(),
        y=points[y].to_list(),
        mode="markers",
        name=said,
        marker={"symbol": look.marker, "size": 8, "color": look.colour, "opacity": 0.75},
        text=[label(plan) for plan in points["plan"]],
        hovertemplate="%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
    )


def _dimension(values: pl.Series) -> dict[str, object]:
    """One axis of the picture: numbers on a scale where each point has one, else one place per value."""
    if values.dtype.is_numeric() and not values.null_count():
        return {"label": values.name, "values": values.to_list()}
    texts = values.cast(pl.String).fill_null("—").to_list()
    places = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    ticks = {"tickvals": list(places.values()), "ticktext": [_short(text) for text in places]}
    return {"label": values.name, "values": [places[text] for text in texts], **ticks}


def _short(setting: str) -> str:
    """A setting for a tick: strategies without the parameters that vary, long names cut."""
    text = label(re.sub(r"[:,]\w+=\{\w+\}", "", setting))
    return text if len(text) <= 22 else text[:21] + "…"


def _change(factor: float) -> str:
    return f"({human(100 * (factor - 1))} %)" if factor < 1 else f"(+{human(100 * (factor - 1))} %)"
