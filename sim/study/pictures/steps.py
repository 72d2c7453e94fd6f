"""Plans token by token: a picture that plays, or is stepped through with its slider."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from sim.plans.plan import SkipPlan
from sim.study.pictures.plans import CELLS, STATES, Column, legend_entry, states_of
from sim.study.pictures.style import label, themed, wrapped

PROMPTS = 3  # columns of prompt tokens before the sampled one
PLAY = {"frame": {"duration": 350, "redraw": True}, "transition": {"duration": 0}, "fromcurrent": True}
STOP: dict[str, Any] = {"frame": {"duration": 0, "redraw": True}, "mode": "immediate"}


def plan_steps(plans: Mapping[str, SkipPlan], tokens: Sequence[int], *, seed: int = 0) -> go.Figure:
    """The layers of each plan (by its name) by tokens, filled one column per step: prompt, sampled, generated `tokens`.

    Where an input-adaptive gate decides, one draw of the seed is shown: a token's run of skipped FFNs begins anywhere
    that its rates allow, its length is the gate's, and every cadence-th token runs in full.
    """
    columns = [f"prompt {i}" for i in range(1, PROMPTS + 1)] + ["sampled"] + [f"t = {t}" for t in tokens]
    grids = [_grid(plan, tokens, np.random.default_rng(seed)) for plan in plans.values()]
    figure = make_subplots(rows=1, cols=len(grids), shared_yaxes=True, horizontal_spacing=0.03,
                           subplot_titles=[wrapped(label(name), 14) for name in plans])  # fmt: skip
    for i, grid in enumerate(grids, 1):
        figure.add_trace(_cells(grid, columns), row=1, col=i)
    for state in np.unique(np.concatenate([grid.ravel() for grid in grids])):
        figure.add_trace(legend_entry(int(state)))
    traces = list(range(len(grids)))
    figure.frames = [
        go.Frame(name=str(step), data=[go.Heatmap(z=_first(grid, step)) for grid in grids], traces=traces)
        for step in range(1, len(columns) + 1)
    ]
    themed(figure, "What does each token do in each layer, one after the other?", height=620)
    figure.update_yaxes(showgrid=False, zeroline=False, dtick=4)
    figure.update_yaxes(title="layer (0 is next to the input)", row=1, col=1)
    figure.update_xaxes(type="category", showgrid=False, tickangle=90, nticks=len(columns) // 2, tickfont={"size": 10})
    figure.update_layout(margin={"b": 190, "t": 70}, sliders=[_slider(columns)], updatemenus=[_buttons()])
    figure.update_layout(meta={"min_width": 96 + 160 * len(grids)})
    return figure


def _grid(plan: SkipPlan, tokens: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices into STATES, [L, tokens]."""
    given = [Column("prompt", plan.prompt, generated=False)] * PROMPTS
    given.append(Column("sampled", plan.sampled, generated=False))
    shown = [states_of(plan, column) for column in given]
    last = plan.decode.shape[0] - 1
    for t in tokens:
        states = states_of(plan, Column("", plan.decode[min(t, last)], generated=True))
        gated = states == STATES.index("FFN gated")
        states[gated] = STATES.index("full")
        states[gated & _left_out(plan, t, rng)] = STATES.index("attention only")
        shown.append(states)
    return np.stack(shown, axis=1)


def _left_out(plan: SkipPlan, token: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """FFNs that one generated token leaves out, [L]."""
    layer = np.arange(plan.layers)
    gate = plan.gate
    if gate is None or token < gate.warmup_tokens or (token - gate.warmup_tokens) % gate.cadence == 0:
        return np.zeros(plan.layers, dtype=bool)
    may = np.flatnonzero(gate.skip)
    start = rng.integers(may[0], max(may[0], may[-1] + 1 - gate.run_length) + 1)
    return (layer >= start) & (layer < start + gate.run_length)


def _cells(grid: NDArray[np.int64], columns: Sequence[str]) -> go.Heatmap:
    text, hover = np.array(STATES)[grid], "layer %{y}, %{x}: %{text}<extra></extra>"
    return go.Heatmap(z=grid.astype(np.int8), x=list(columns), text=text.tolist(), hovertemplate=hover, **CELLS)


def _first(grid: NDArray[np.int64], columns: int) -> NDArray[np.float32]:
    """The grid's first columns; the others are there, and empty."""
    return np.where(np.arange(grid.shape[1]) < columns, grid, np.nan).astype(np.float32)


def _slider(names: Sequence[str]) -> dict[str, Any]:
    steps = [{"args": [[str(i)], STOP], "label": name, "method": "animate"} for i, name in enumerate(names, 1)]
    return {
        "steps": steps, "active": len(steps) - 1, "x": 0.16, "len": 0.84, "y": -0.22, "pad": {"t": 10},
        "currentvalue": {"prefix": "token: ", "xanchor": "left", "font": {"size": 13}},
        "ticklen": 0, "font": {"size": 1},
    }  # fmt: skip


def _buttons() -> dict[str, Any]:
    play = {"label": "▶", "method": "animate", "args": [None, PLAY]}
    stop = {"label": "❚❚", "method": "animate", "args": [[None], STOP]}
    return {
        "type": "buttons", "direction": "right", "buttons": [play, stop], "showactive": False,
        "x": 0, "xanchor": "left", "y": -0.22, "yanchor": "top", "pad": {"t": 18},
    }  # fmt: skip
