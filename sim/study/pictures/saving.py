"""Why not twice as fast: from the nominal skip to the realised saving, and what batching does to it."""

import math

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.errors import InputError
from sim.study.pictures.style import FAINT, colour, human, in_order, label, percent, styles, themed, wrapped

LOSS = "#a8a29a"


def waterfall(steps: pl.DataFrame) -> go.Figure:
    """From the nominal skip to the realised saving, one panel per strategy, read from top to bottom.

    Columns: strategy, label, value, kind. `value` is a share (0.5 is 50 %): of kind "total" it is where the panel
    starts, of kind "loss" it is signed and added (−0.1 takes ten points away), of kind "result" it is where the panel
    ends. Raises InputError where the steps do not add up, or a kind is another word.
    """
    strategies = in_order(steps["strategy"].to_list())
    panels = {s: list(steps.filter(pl.col("strategy") == s).iter_rows(named=True)) for s in strategies}
    heights = [len(rows) for rows in panels.values()]
    total = sum(34 * h + 62 for h in heights)
    figure = make_subplots(
        rows=max(1, len(panels)), cols=1, shared_xaxes="all", row_heights=heights or None,
        vertical_spacing=62 / max(total, 1), subplot_titles=[f"<b>{label(s)}</b>" for s in strategies],
    )  # fmt: skip
    for i, (strategy, rows) in enumerate(panels.items(), 1):
        for trace in _panel(strategy, rows):
            figure.add_trace(trace, row=i, col=1)
    themed(figure, "Where does the nominal saving go?", height=100 + total, legend=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(tickformat=".0%", range=_range(steps), zeroline=True, showticklabels=True)
    figure.update_xaxes(title="share of the dense model's step", row=len(panels), col=1)
    figure.update_layout(barmode="overlay", bargap=0.3)
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    return figure


def ffn_by_batch(frame: pl.DataFrame) -> go.Figure:
    """Nominal and realised saving of weight traffic over the batch size, for strategies that gate the FFN per token.

    Columns: strategy, batch (rows per step), nominal, realised (shares).
    """
    return _by_batch(
        frame.with_columns(policy=pl.lit("")),
        "Does FFN skipping still save weight reads when many sequences share a step?",
        "weight bytes saved",
    )


def skip_decode_by_batch(frame: pl.DataFrame) -> go.Figure:
    """Nominal and realised saving over the batch size, one line per strategy and scheduling policy.

    Columns: strategy, batch (sequences per step), nominal, realised (shares), policy (any text).
    """
    return _by_batch(
        frame, "Does SkipDecode still save when sequences of different ages share a step?", "weight bytes saved"
    )


def _panel(strategy: str, rows: list[dict[str, object]]) -> list[go.Bar]:
    """One bar per step, each from where the one before ended."""
    bars = []
    level = 0.0
    for row in rows:
        value, kind = float(str(row["value"])), row["kind"]
        if kind not in ("total", "loss", "result"):
            raise InputError(f"waterfall of {strategy}: kind={kind!r} must be total, loss or result")
        if kind == "result" and not math.isclose(value, level, abs_tol=5e-3):
            raise InputError(f"waterfall of {strategy}: the steps end at {level:.4f}, its result is {value:.4f}")
        start = level if kind == "loss" else 0.0
        level = level + value if kind == "loss" else value
        bars.append(_step(strategy, row, start, value))
    return bars


def _step(strategy: str, row: dict[str, object], start: float, value: float) -> go.Bar:
    whole = row["kind"] != "loss"
    text = percent(value) if whole else f"{'+' if value > 0 else ''}{percent(value)}"
    fill = {"color": colour(strategy)} if whole else {"color": LOSS, "pattern": {"shape": "/", "solidity": 0.2}}
    return go.Bar(
        x=[value],
        base=[start],
        y=[wrapped(str(row["label"]), 26)],
        orientation="h",
        name=str(row["label"]),
        text=[f"<b>{text}</b>" if whole else text],
        textposition="outside",
        cliponaxis=False,
        marker=fill,
        hovertemplate=f"{text}<extra>{row['label']}</extra>",
    )


def _range(steps: pl.DataFrame) -> list[float]:
    ends, level = [0.0], 0.0
    for kind, value in zip(steps["kind"], steps["value"]):
        level = level + value if kind == "loss" else value
        ends.append(level)
    span = max(ends) - min(ends) or 1.0
    return [min(ends) - (0.15 * span if min(ends) < 0 else 0.02 * span), max(ends) + 0.15 * span]


def _by_batch(frame: pl.DataFrame, title: str, what: str) -> go.Figure:
    figure = go.Figure()
    looks = styles(frame["strategy"])
    policies = in_order(frame["policy"].to_list())
    dashes = ("solid", "dot", "dash", "dashdot")
    for (strategy, policy), part in frame.group_by("strategy", "policy", maintain_order=True):
        mine, look = part.sort("batch"), looks[str(strategy)]
        name = label(str(strategy)) + (f", {policy}" if policy else "")
        for column, width in (("nominal", 1.0), ("realised", 2.5)):
            real = column == "realised"
            figure.add_trace(
                go.Scatter(
                    x=mine["batch"].to_list(),
                    y=mine[column].to_list(),
                    mode="lines+markers" if real else "lines",
                    name=f"{name}: {column}",
                    line={"color": look.colour, "width": width,
                          "dash": dashes[policies.index(policy) % 4] if real else "longdash"},
                    marker={"symbol": look.marker, "size": 9},
                    hovertemplate=f"batch %{{x}}: %{{y:.1%}} {column}<extra>{name}</extra>",
                )
            )  # fmt: skip
    themed(figure, title, height=460)
    batches = sorted(set(frame["batch"].to_list()))
    figure.update_xaxes(title="sequences in the step (batch size)", type="log", tickvals=batches,
                        ticktext=[human(b) for b in batches])  # fmt: skip
    figure.update_yaxes(title=what, tickformat=".0%", rangemode="tozero", zeroline=True, zerolinecolor=FAINT)
    return figure
