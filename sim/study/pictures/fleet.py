"""A fleet in pictures: who served over time, and what a policy is worth."""

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.fleet_policies import DEGRADE
from sim.study.numerals import percent
from sim.study.pictures.style import INK, Style, label, styles, themed

LADDER = "the ladder"  # what people call the policy that degrades
CHANGING = Style("#b9bec7", "dot", "circle", "")


def fleet_timeline(watch: pl.DataFrame, strategies: dict[str, str]) -> go.Figure:
    """Replicas that serve, by group, over the requests in the system and waiting, on one time axis.

    Columns: time_s, group, serving, changing, outstanding, waiting; `strategies` gives each group's strategy. Groups
    that never serve are left out.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[1, 1])
    looks = styles(strategies.values())
    for group, strategy in strategies.items():
        mine = watch.filter(pl.col("group") == group)
        name = label(strategy) if group == strategy else f"{group}: {label(strategy)}"
        if mine["serving"].sum():
            figure.add_trace(_layer(mine["time_s"], mine["serving"], name, looks[strategy]), row=1, col=1)
    total = watch.group_by("time_s", maintain_order=True).agg(pl.col("outstanding", "waiting", "changing").sum())
    if total["changing"].sum():
        figure.add_trace(_layer(total["time_s"], total["changing"], "starting or draining", CHANGING), row=1, col=1)
    for column, name, dash in (
        ("outstanding", "requests in the system", "solid"),
        ("waiting", "of these waiting", "dot"),
    ):
        figure.add_trace(
            go.Scatter(x=total["time_s"].to_list(), y=total[column].to_list(), name=name, mode="lines",
                       line={"width": 1.2, "color": INK, "dash": dash, "shape": "hv"}),
            row=2, col=1,
        )  # fmt: skip
    themed(figure, "Who served, and how much there was to do?", height=520)
    figure.update_layout(legend={"traceorder": "normal"})
    figure.update_yaxes(title="replicas", rangemode="tozero", tickformat=",d", row=1, col=1)
    figure.update_yaxes(title="requests", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title="time since the first arrival (s)", row=2, col=1)
    return figure


def _layer(time_s: pl.Series, replicas: pl.Series, name: str, look: Style) -> go.Scatter:
    """Replicas on top of those drawn before, in the strategy's colour and pattern."""
    pattern = {"shape": look.pattern, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.55, "size": 8}
    return go.Scatter(
        x=time_s.to_list(),
        y=replicas.to_list(),
        name=name,
        stackgroup="replicas",
        mode="lines",
        line={"width": 0.5, "color": look.colour, "shape": "hv"},
        fillcolor=look.colour,
        fillpattern={**pattern, "solidity": 0.18},
    )


def _crowded(row: dict[str, float], policies: pl.DataFrame) -> bool:
    """Whether another policy's marker lies where this one's figure would stand to its right."""
    aside, above = pl.col("skipped_share") - row["skipped_share"], pl.col("slo_met_share") - row["slo_met_share"]
    near = 0.3 * max(policies["skipped_share"])  # as wide as a figure on a phone
    return bool(len(policies.filter(aside.is_between(0, near, closed="right"), above.abs() < 0.08)))


def policy_map(policies: pl.DataFrame) -> go.Figure:
    """Requests within the SLO over the share of blocks that were skipped, one marker per policy.

    Columns: policy (a strategy, or "degrade"), skipped_share, slo_met_share; with slo_met_share_{low,high}, intervals.
    """
    figure = go.Figure()
    looks = styles(policies["policy"])
    for row in policies.iter_rows(named=True):
        look, met = looks[row["policy"]], row["slo_met_share"]
        ends = row.get("slo_met_share_low", met), row.get("slo_met_share_high", met)
        figure.add_trace(
            go.Scatter(
                x=[row["skipped_share"]], y=[met], mode="markers+text",
                name=LADDER if row["policy"] == DEGRADE else label(row["policy"]),
                text=[percent(met)], cliponaxis=False,
                textposition="middle left" if _crowded(row, policies) else "middle right",
                error_y={"array": [ends[1] - met], "arrayminus": [met - ends[0]], "thickness": 1.2, "width": 4,
                         "color": look.colour, "visible": ends[1] > ends[0]},
                marker={"symbol": look.marker, "size": 13, "color": look.colour},
            )
        )  # fmt: skip
    themed(figure, "What does a policy skip, and how many requests does it serve within the SLO?", height=420)
    most = max(0.1, *policies["skipped_share"])
    figure.update_xaxes(title="share of blocks skipped", tickformat=".0%", range=[-0.03 * most, 1.15 * most])
    figure.update_yaxes(title="requests within the SLO", tickformat=".0%", range=[-0.03, 1.06], tick0=0, dtick=0.2)
    figure.update_xaxes(zeroline=False)
    return figure
