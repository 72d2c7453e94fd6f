"""What a GPU carries and what that costs: capacity bars, and cost against quality."""

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.pictures.style import FAMILIES, INK, family, human, label, styles, themed, wrapped

NARROW = 24  # characters of a tick label's line


def capacity_bars(study: pl.DataFrame) -> go.Figure:
    """Bars of the highest request rate per GPU that meets the SLO, one per strategy, with the search's interval.

    Columns: strategy, max_qps_per_gpu, max_qps_low, max_qps_high (requests per second per GPU; the interval may be
    null). Each bar is labelled with its figure and with its gain over the dense model, where that is in the frame.
    """
    figure = go.Figure()
    base = next((r["max_qps_per_gpu"] for r in study.iter_rows(named=True) if family(r["strategy"]) == "dense"), None)
    rows = list(study.iter_rows(named=True))
    for row in rows:
        figure.add_trace(_bar(row))
        end = max(row["max_qps_high"] or 0.0, row["max_qps_per_gpu"])
        gain = row["max_qps_per_gpu"] / base - 1 if base and family(row["strategy"]) != "dense" else None
        text = f"<b>{human(row['max_qps_per_gpu'])}</b>" + (f"  ({_signed(gain)})" if gain is not None else "")
        figure.add_annotation(
            x=end, y=_tick(row["strategy"]), text=text, showarrow=False, xanchor="left", xshift=8, align="left"
        )
    themed(figure, "How many requests per second does one GPU carry within the SLO?",
           height=110 + 46 * len(rows), legend=False)  # fmt: skip
    ends = [max(r["max_qps_high"] or 0.0, r["max_qps_per_gpu"]) for r in rows]
    figure.update_xaxes(title="requests per second per GPU", range=[0, 1.35 * max(ends, default=1.0) or 1.0])
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(barmode="overlay", bargap=0.35)
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
        measured = row["quality"] is not None
        y = row["quality"] if measured else _tick(row["strategy"])
        look = looks[row["strategy"]]
        figure.add_trace(
            go.Scatter(
                x=[row["dollars_per_million_output_tokens"]],
                y=[y],
                mode="markers",
                name=label(row["strategy"]),
                showlegend=measured,
                marker={"symbol": look.marker, "size": 13, "color": look.colour},
                hovertemplate="%{x:$.3g} per million output tokens, %{y}<extra>" + label(row["strategy"]) + "</extra>",
            ),
            row=1 if measured else len(shown),
            col=1,
        )
    themed(figure, "What does a million output tokens cost, and at what quality?", height=150 + sum(shown))
    figure.update_xaxes(rangemode="tozero")
    figure.update_xaxes(title="dollars per million output tokens", row=len(shown), col=1)
    return figure


def _bar(row: dict[str, object]) -> go.Bar:
    strategy = str(row["strategy"])
    look = FAMILIES[family(strategy)]
    value, low, high = (row[c] for c in ("max_qps_per_gpu", "max_qps_low", "max_qps_high"))
    assert isinstance(value, float | int)
    error = None
    if isinstance(low, float | int) and isinstance(high, float | int):
        error = {"type": "data", "array": [high - value], "arrayminus": [value - low], "color": INK, "thickness": 1.5}
    return go.Bar(
        x=[value],
        y=[_tick(strategy)],
        orientation="h",
        name=label(strategy),
        marker={"color": look.colour, "pattern": {"shape": look.pattern, "size": 6, "solidity": 0.25}},
        error_x=error,
        hovertemplate="%{x:.3g} requests/s per GPU<extra>" + label(strategy) + "</extra>",
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
        name="nobody cheaper and better",
        line={"color": INK, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )


def _tick(strategy: str) -> str:
    return wrapped(label(strategy), NARROW)


def _signed(gain: float) -> str:
    return f"{100 * gain:+.0f} %".replace("-", "−")
