"""Every operation on the roofline: what it attains, beside what the datasheet allows."""

import numpy as np
import plotly.graph_objects as go
import polars as pl

from sim.study.pictures.style import INK, MARKERS, in_order, log_ticks, themed

COLOURS = {"matrix product": "#1f4e79", "attention": "#5aa9c9", "pass over memory": "#e9b872"}
SIZES = (6.0, 15.0)  # pixels of a marker at the fewest and at the most rows


def roofline(operations: pl.DataFrame, *, bytes_per_s: float, flops_per_s: float) -> go.Figure:
    """FLOP/s attained over FLOPs per byte, both logarithmic; the line is the datasheet's ceiling.

    Columns: operation, kind, rows, flops, bytes, ns, measured. One trace per operation, its sizes joined, larger
    markers for more rows; hollow ones are priced outside the measured domain.
    """
    frame = operations.with_columns(
        intensity=pl.col("flops") / pl.col("bytes"), attained=pl.col("flops") / pl.col("ns") / 1e3
    )
    low, high = float(frame["intensity"].min()), float(frame["intensity"].max())  # type: ignore[arg-type]
    ridge = flops_per_s / bytes_per_s
    x = [0.7 * low, ridge, max(1.5 * high, 2 * ridge)]
    figure = go.Figure()
    ceiling = [min(i * bytes_per_s, flops_per_s) / 1e12 for i in x]
    line = {"color": INK, "width": 1.5}
    figure.add_trace(go.Scatter(x=x, y=ceiling, mode="lines", name="datasheet", line=line, hoverinfo="skip"))
    for number, name in enumerate(in_order(frame["operation"].to_list())):
        mine = frame.filter(pl.col("operation") == name).sort("rows")
        figure.add_trace(_trace(mine, name, MARKERS[number % len(MARKERS)], bytes_per_s, flops_per_s))
    figure.add_annotation(
        x=np.log10(ridge), y=np.log10(flops_per_s / 1e12), text=f"ridge: {ridge:,.0f} FLOPs per byte",
        showarrow=False, yanchor="bottom", xanchor="right", font={"size": 12},
    )  # fmt: skip
    themed(figure, "How near to the datasheet does each operation come?", height=620)
    figure.update_xaxes(title="FLOPs per byte moved", **log_ticks(x))
    figure.update_yaxes(title="TFLOP/s attained", **log_ticks([*ceiling, *frame["attained"]]))
    return figure


def _trace(mine: pl.DataFrame, name: str, marker: str, bytes_per_s: float, flops_per_s: float) -> go.Scatter:
    colour = COLOURS[mine["kind"][0]]
    rows = np.log2(mine["rows"].to_numpy() + 1.0)
    least, most = SIZES
    ceiling = np.minimum(mine["intensity"].to_numpy() * bytes_per_s, flops_per_s) / 1e12
    share = mine["attained"].to_numpy() / ceiling
    return go.Scatter(
        x=mine["intensity"].to_list(),
        y=mine["attained"].to_list(),
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 1, "dash": "dot"},
        marker={
            "symbol": [marker if known else f"{marker}-open" for known in mine["measured"]],
            "size": (least + (most - least) * rows / max(rows.max(), 1)).round(1).tolist(),
            "color": colour,
        },
        customdata=list(zip(mine["rows"], (100 * share).round(1), (mine["ns"] / 1e3).round(1))),
        hovertemplate=f"<b>{name}</b>, %{{customdata[0]:,}} rows: %{{customdata[2]:,}} µs, %{{y:.3g}} TFLOP/s,"
        " %{customdata[1]}% of the ceiling<extra></extra>",
    )
