"""A fleet in pictures: who served over time, and what a policy is worth."""

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from sim.study.numerals import percent
from sim.study.pictures.style import INK, colour, label, styles, themed, tick


def fleet_timeline(watch: pl.DataFrame, strategies: dict[str, str]) -> go.Figure:
    """Replicas that serve, by group, over the requests in the system and waiting, on one time axis.

    Columns: time_s, group, serving, changing, outstanding, waiting; `strategies` gives each group's strategy.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[1, 1])
    for group, strategy in strategies.items():
        mine = watch.filter(pl.col("group") == group)
        name = label(strategy) if group == strategy else f"{group}: {label(strategy)}"
        figure.add_trace(
            go.Scatter(
                x=mine["time_s"].to_list(), y=mine["serving"].to_list(), name=name,
                stackgroup="serving", mode="lines", line={"width": 0.5, "color": colour(strategy), "shape": "hv"},
            ),
            row=1, col=1,
        )  # fmt: skip
    total = watch.group_by("time_s", maintain_order=True).agg(pl.col("outstanding", "waiting", "changing").sum())
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
    figure.update_yaxes(title="replicas", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="requests", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title="time (s)", row=2, col=1)
    return figure


def policy_map(policies: pl.DataFrame) -> go.Figure:
    """Requests within the SLO over the share of blocks that were skipped, one marker per policy.

    Columns: policy (a strategy, or "degrade"), skipped_share, slo_met_share.
    """
    figure = go.Figure()
    looks = styles(policies["policy"])
    for row in policies.iter_rows(named=True):
        name = label(row["policy"])
        figure.add_trace(
            go.Scatter(
                x=[row["skipped_share"]], y=[row["slo_met_share"]], mode="markers+text", name=name,
                text=[tick(row["policy"], percent(row["slo_met_share"]))], textposition="top center",
                marker={"symbol": looks[row["policy"]].marker, "size": 13, "color": looks[row["policy"]].colour},
            )
        )  # fmt: skip
    themed(figure, "What does a policy skip, and how many requests does it serve within the SLO?", height=420)
    figure.update_xaxes(title="share of blocks skipped", tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(title="requests within the SLO", tickformat=".0%", rangemode="tozero")
    return figure
