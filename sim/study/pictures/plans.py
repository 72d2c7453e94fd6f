"""The picture of a plan: which layer does what for which token."""

from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from sim.plans.plan import ATTN, FFN, KV, Flags, SkipPlan
from sim.study.pictures.style import FAINT, label, themed

STATES = ("full", "FFN gated", "shared cache", "attention only", "FFN only", "KV only", "skipped")
COLOURS = ("#1f4e79", "#7db0de", "#2f8577", "#e08e2b", "#b0567a", "#f6d58e", "rgba(128,128,128,0.10)")


_EDGES = [i / len(STATES) for i in range(len(STATES) + 1)]
CELLS = {  # how a heatmap shows states
    "zmin": -0.5, "zmax": len(STATES) - 0.5, "showscale": False, "xgap": 1, "ygap": 1,
    "colorscale": [(edge, c) for c, *edges in zip(COLOURS, _EDGES, _EDGES[1:]) for edge in edges],
}  # fmt: skip


class Column(NamedTuple):
    """One column of the table: tokens in a row that do the same."""

    name: str
    flags: Flags  # [L]
    generated: bool  # whether an FFN gate applies


def plan_table(plan: SkipPlan) -> go.Figure:
    """A table of layers by tokens (prompt, sampled, generated), the colour saying what the token does in the layer.

    Generated tokens that do the same share a column, headed by the first of them. An owner's cache that a layer reads
    instead of its own is "shared cache"; FFNs that an input-adaptive gate leaves out for some tokens are "FFN gated".
    """
    columns = _columns(plan)
    states = np.stack([states_of(plan, column) for column in columns], axis=1)
    figure = go.Figure(_cells(plan, columns, states))
    for state in np.unique(states):
        figure.add_trace(legend_entry(int(state)))
    themed(figure, f"What does a token do in each layer? {label(plan.name)}", height=190 + min(14 * plan.layers, 640))
    step = max(1, plan.layers // 16)
    figure.update_yaxes(title="layer (0 is next to the input)", showgrid=False, tick0=0, dtick=step, zeroline=False)
    figure.update_xaxes(title="token: prompt, sampled (the prompt's last),<br>then generated token t", showgrid=False)
    figure.update_xaxes(type="category", tickangle=0, nticks=12)
    return figure


def _columns(plan: SkipPlan) -> list[Column]:
    starts = [0, *(1 + np.flatnonzero((plan.decode[1:] != plan.decode[:-1]).any(axis=1)))]
    given = [Column("prompt", plan.prompt, generated=False), Column("sampled", plan.sampled, generated=False)]
    names = [f"t = {t}" for t in starts[:-1]] + [f"t ≥ {starts[-1]}"]
    return given + [Column(name, plan.decode[t], generated=True) for name, t in zip(names, starts)]


def states_of(plan: SkipPlan, column: Column) -> NDArray[np.int64]:
    """What the tokens of a column do in each layer: an index into STATES, [L]."""
    attends, feeds, writes = ((column.flags & bit) > 0 for bit in (ATTN, FFN, KV))
    shares = plan.kv_owner != np.arange(plan.layers)
    gated = (plan.gate.skip > 0) if plan.gate and column.generated else np.zeros(plan.layers, dtype=bool)
    both = attends & feeds
    cases = [both & shares, both & gated, both, attends, feeds, writes]
    return np.select(cases, [STATES.index(s) for s in _CASES], default=STATES.index("skipped"))


_CASES = ("shared cache", "FFN gated", "full", "attention only", "FFN only", "KV only")


def _cells(plan: SkipPlan, columns: list[Column], states: NDArray[np.int64]) -> go.Heatmap:
    return go.Heatmap(
        z=states,
        x=[column.name for column in columns],
        y=np.arange(plan.layers),
        **CELLS,
        text=[[_explained(plan, column, layer, STATES[states[layer, i]]) for i, column in enumerate(columns)]
              for layer in range(plan.layers)],
        hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _explained(plan: SkipPlan, column: Column, layer: int, state: str) -> str:
    where = f"layer {layer}, {column.name}: {state}"
    owner, source = int(plan.kv_owner[layer]), int(plan.kv_input[layer])
    if state == "FFN gated" and plan.gate:
        where += f"<br>FFN left out for {100 * plan.gate.skip[layer]:.0f}% of the tokens"
    if owner != layer and state != "skipped":
        where += f"<br>reads the cache of layer {owner}"
    if source != layer and column.flags[layer] & KV:
        where += f"<br>K and V projected from the stream that enters layer {source}"
    return where


def legend_entry(state: int) -> go.Scatter:
    """A trace without points that names a state in the legend."""
    marker = {"symbol": "square", "size": 12, "color": COLOURS[state], "line": {"width": 1, "color": FAINT}}
    return go.Scatter(x=[None], y=[None], mode="markers", name=STATES[state], marker=marker, hoverinfo="skip")
