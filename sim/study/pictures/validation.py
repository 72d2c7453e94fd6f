"""How far predictions are from measurements: against load, figure by figure, and beside what others publish."""

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.pictures.style import FAINT, INK, LIMIT, MARKERS, themed

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#c76a9f", "#8c6d31", "#7b57b8", "#6b7280")
METRICS = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "throughput": "throughput"}


def error_by_load(errors: pl.DataFrame) -> go.Figure:
    """Error of each point over its load, one panel per metric, one colour and marker per engine.

    Columns: family (ttft, tpot, e2e, throughput), engine, load_share (of capacity), error (a share), label (hover).
    """
    families = [name for name in METRICS if name in set(errors["family"])]
    engines = list(dict.fromkeys(errors.sort("engine")["engine"]))
    titles = [METRICS[f] for f in families]
    figure = make_subplots(
        rows=len(families), cols=1, shared_xaxes=True, vertical_spacing=0.05, subplot_titles=titles
    )
    for row, name in enumerate(families, 1):
        for i, engine in enumerate(engines):
            some = errors.filter((pl.col("family") == name) & (pl.col("engine") == engine))
            if len(some):
                figure.add_trace(_cloud(some, engine, i, legend=engine not in _seen(figure)), row=row, col=1)
        figure.add_hline(y=0, line={"color": INK, "width": 1}, row=row, col=1)
        figure.update_yaxes(title="error (%)", range=[-100, 100], row=row, col=1)
    figure.add_vline(x=100, line={"color": LIMIT, "width": 1, "dash": "dot"})
    themed(figure, "Where are the predictions wrong?", height=120 + 230 * len(families))
    figure.update_xaxes(type="log", tickvals=[2, 5, 10, 20, 50, 100, 200, 500])  # sweeps beyond capacity go far
    figure.update_xaxes(title="load (% of the capacity that the simulator finds)", row=len(families), col=1)
    figure.update_annotations(x=0, xanchor="left", font={"size": 14}, selector={"showarrow": False})
    return figure


def predicted_over_measured(errors: pl.DataFrame) -> go.Figure:
    """Predicted over measured on two logarithmic axes, one panel per metric; the diagonal is a perfect prediction.

    Columns as in `error_by_load`, with measured and predicted.
    """
    families = [name for name in METRICS if name in set(errors["family"])]
    engines = list(dict.fromkeys(errors.sort("engine")["engine"]))
    figure = make_subplots(rows=1, cols=len(families), subplot_titles=[METRICS[f] for f in families])
    for column, name in enumerate(families, 1):
        panel = errors.filter((pl.col("family") == name) & (pl.col("predicted") > 0))
        low, high = float(panel["measured"].min()), float(panel["measured"].max())  # type: ignore[arg-type]
        diagonal = go.Scatter(x=[low, high], y=[low, high], mode="lines", line={"color": FAINT}, hoverinfo="skip")
        figure.add_trace(diagonal.update(showlegend=False), row=1, col=column)
        for i, engine in enumerate(engines):
            some = panel.filter(pl.col("engine") == engine)
            if len(some):
                trace = _cloud(some, engine, i, legend=engine not in _seen(figure), y="predicted", x="measured")
                figure.add_trace(trace, row=1, col=column)
    themed(figure, "Predicted over measured", height=420)
    figure.update_xaxes(type="log", title="measured")
    figure.update_yaxes(type="log")
    figure.update_yaxes(title="predicted", row=1, col=1)
    return figure


def beside_others(errors: pl.DataFrame) -> go.Figure:
    """Bars of published errors, one group per metric. Columns: who, metric (TTFT, TPOT, E2E), error (percent)."""
    figure = go.Figure()
    for i, who in enumerate(dict.fromkeys(errors["who"])):
        some = errors.filter(pl.col("who") == who)
        figure.add_trace(
            go.Bar(
                x=some["metric"].to_list(),
                y=some["error"].to_list(),
                name=who,
                marker={"color": COLOURS[i % len(COLOURS)]},
                text=[f"{e:.1f}" for e in some["error"]],
                hovertemplate="%{x}: %{y:.1f} %<extra>%{fullData.name}</extra>",
            )
        )
    themed(figure, "How far off are simulators of LLM serving, by their own or our count?", height=400)
    figure.update_yaxes(title="error (%)", rangemode="tozero")
    figure.update_layout(barmode="group")
    return figure


def _cloud(
    some: pl.DataFrame, engine: str, number: int, *, legend: bool, x: str = "load_share", y: str = "error"
) -> go.Scatter:
    scale = 100 if y == "error" else 1
    return go.Scatter(
        x=(some[x] * (100 if x == "load_share" else 1)).to_list(),
        y=(some[y] * scale).to_list(),
        mode="markers",
        name=engine,
        legendgroup=engine,
        showlegend=legend,
        text=some["label"].to_list(),
        hovertemplate="%{text}<br>%{y:.3g}<extra>%{fullData.name}</extra>",
        marker={
            "color": COLOURS[number % len(COLOURS)],
            "symbol": MARKERS[number % len(MARKERS)],
            "size": 6,
            "opacity": 0.7,
        },
    )


def _seen(figure: go.Figure) -> set[str]:
    return {trace.name for trace in figure.data if trace.showlegend and trace.name}
