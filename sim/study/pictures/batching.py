"""What batching does to skipping: the nominal saving beside the realised one, over the size of the batch."""

import itertools

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.pictures.style import Style, in_order, label, styles, themed

DASHES = ("solid", "dot"), ("dash", "longdashdot")  # of what is realised, of what is promised: by policy


def ffn_by_batch(frame: pl.DataFrame) -> go.Figure:
    """Nominal and realised saving of weight traffic over the batch size, for strategies that gate the FFN per token.

    Columns: strategy, batch (sequences per step), nominal, realised (shares).
    """
    title = "Does FFN skipping still save weight reads when many sequences share a step?"
    return _by_batch(frame.with_columns(policy=pl.lit("")), title)


def skip_decode_by_batch(frame: pl.DataFrame) -> go.Figure:
    """Nominal and realised saving of weight traffic over the batch size, one line per strategy and scheduling policy.

    Columns: strategy, batch (sequences per step), nominal, realised (shares), policy (any text); where there is a
    column `model`, each model has its own panel.
    """
    return _by_batch(frame, "Does SkipDecode still save weight reads when sequences of different ages share a step?")


def _by_batch(frame: pl.DataFrame, title: str) -> go.Figure:
    models = in_order(frame["model"].to_list()) if "model" in frame.columns else [""]
    figure = make_subplots(
        rows=len(models), cols=1, shared_xaxes=True, vertical_spacing=0.12, subplot_titles=models if models[1:] else []
    )
    looks = styles(frame["strategy"])
    dashes = dict(zip(in_order(frame["policy"].to_list()), itertools.cycle(zip(*DASHES))))
    for i, model in enumerate(models, 1):
        part = frame.filter(pl.col("model") == model) if model else frame
        for trace in _lines(part, looks, dashes):
            trace.showlegend = i == 1
            figure.add_trace(trace, row=i, col=1)
    themed(figure, title, height=200 + 280 * len(models))
    ticks = sorted(set(frame["batch"].to_list()))
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{b:,}" for b in ticks])
    figure.update_xaxes(title="sequences in the step (batch size)", row=len(models), col=1)
    figure.update_yaxes(title="weight bytes saved", tickformat=".0%", rangemode="tozero")
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    if len(looks) == 1:
        figure.update_layout(legend={"title": {"text": label(next(iter(looks))), "side": "top"}})
    return figure


def _lines(frame: pl.DataFrame, looks: dict[str, Style], dashes: dict[str, tuple[str, str]]) -> list[go.Scatter]:
    """Realised savings as thick lines with markers; a nominal one, thin, where no other line shows it already."""
    lines: list[go.Scatter] = []
    drawn: set[tuple[object, ...]] = set()
    for (strategy, policy), part in frame.group_by("strategy", "policy", maintain_order=True):
        mine, look, name = part.sort("batch"), looks[str(strategy)], label(str(strategy))
        batches, promise = mine["batch"].to_list(), mine["nominal"].to_list()
        name = ", ".join(filter(None, (name if looks.keys() - {strategy} else "", str(policy)))) or name
        solid, broken = dashes[str(policy)]
        if (strategy, *promise) not in drawn:
            thin = {"color": look.colour, "width": 1.2, "dash": broken}
            lines.append(_line(batches, promise, f"{name}: nominal", line=thin, mode="lines+markers"))
            lines[-1].marker = {"symbol": look.marker, "size": 5}
            drawn.add((strategy, *promise))
        thick = {"color": look.colour, "width": 2.5, "dash": solid}
        lines.append(_line(batches, mine["realised"].to_list(), f"{name}: realised", line=thick, mode="lines+markers"))
        lines[-1].marker = {"symbol": look.marker, "size": 9}
    return lines


def _line(x: list[int], y: list[float], name: str, *, line: dict[str, object], mode: str) -> go.Scatter:
    hover = f"batch %{{x}}: %{{y:.3p}}<extra>{name}</extra>"
    return go.Scatter(x=x, y=y, name=name, line=line, mode=mode, hovertemplate=hover)
