"""A model's profile as a page: where FFNs hardly move the stream, what a gate makes of it, what a batch saves."""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from sim.plans.strategies.ffn import similarity_profile
from sim.study.html import Section, page
from sim.study.pictures import percent
from sim.study.pictures.style import DASHES, FAMILIES, MARKERS, themed


def profile_page(profile: Mapping[str, Any], provenance: Mapping[str, object]) -> str:
    """The self-contained HTML page of a profile."""
    name = str(profile["model"])
    sections = [
        Section(
            "How much each FFN moves the stream",
            "The cosine between the residual stream before and after each FFN, over generated tokens of the calibrate"
            " split. A gate leaves FFNs out where it is high. Published: Llama-2-7B-chat, stretched to this depth.",
            similarity_figure(profile),
        ),
        Section(
            "What the gates leave out", "Share of generated tokens that skip each layer's FFN.", gate_figure(profile)
        ),
        Section(
            "What a batch saves of it",
            "A layer's FFN weights stay unread only where every row skips it in the same step. Dotted: what rows that"
            " decide independently would save (the layer's rate to the power of the batch).",
            batch_figure(profile),
        ),
    ]
    return page(f"FFN similarity of {name}", str(profile["source"]), sections, provenance)


def similarity_figure(profile: Mapping[str, Any]) -> go.Figure:
    """Cosine by layer: this model's mean, its spread over tokens, and the published profile."""
    mean, spread = profile["ffn_similarity"], profile["ffn_similarity_std"]
    layers = list(range(len(mean)))
    look = FAMILIES["ffn_skip"]
    figure = go.Figure()
    figure.add_scatter(
        x=layers,
        y=mean,
        name="this model, mean ± standard deviation",
        mode="lines+markers",
        line={"color": look.colour},
        error_y={"type": "data", "array": spread},
    )
    published = similarity_profile(len(mean)).tolist()
    grey = FAMILIES["dense"].colour
    figure.add_scatter(x=layers, y=published, name="published", mode="lines", line={"dash": "dash", "color": grey})
    for nth, gate in enumerate(g for g in profile["gates"] if "threshold" in g):
        name = f"threshold for {percent(gate['target'])}"
        line = {"dash": DASHES[1 + nth], "width": 1, "color": look.colour}
        figure.add_scatter(x=layers, y=[gate["threshold"]] * len(layers), name=name, mode="lines", line=line)
    themed(figure, "How little does each FFN change?", height=420)
    figure.update_xaxes(title="layer", dtick=1)
    figure.update_yaxes(title="cosine before and after the FFN")
    return figure


def gate_figure(profile: Mapping[str, Any]) -> go.Figure:
    """Skip rate by layer, one line per gate."""
    figure, look = go.Figure(), FAMILIES["ffn_skip"]
    for nth, gate in enumerate(g for g in profile["gates"] if "skip" in g):
        figure.add_scatter(
            y=gate["skip"],
            name=f"{percent(gate['target'])} of FFNs, threshold {gate['threshold']:.3f}, run {gate['run_length']}",
            mode="lines+markers",
            line={"color": look.colour, "dash": DASHES[nth]},
            marker={"symbol": MARKERS[nth]},
        )
    themed(figure, "Which layers' FFNs are left out?", height=380)
    figure.update_xaxes(title="layer", dtick=1)
    figure.update_yaxes(title="tokens that skip it", tickformat=".0%", rangemode="tozero")
    return figure


def batch_figure(profile: Mapping[str, Any]) -> go.Figure:
    """FFN reads saved over the batch size: measured, and as if rows were independent."""
    figure, look = go.Figure(), FAMILIES["ffn_skip"]
    for nth, gate in enumerate(g for g in profile["gates"] if "joint" in g):
        rows = [j["rows"] for j in gate["joint"]]
        for name, dash, width in (("measured", "solid", 3), ("independent", "dot", 1)):
            figure.add_scatter(
                x=rows,
                y=[j[name] for j in gate["joint"]],
                name=f"{percent(gate['target'])}, {name}",
                mode="lines+markers",
                line={"color": look.colour, "dash": dash, "width": width},
                marker={"symbol": MARKERS[nth]},
            )
    ticks = sorted({j["rows"] for gate in profile["gates"] for j in gate.get("joint", [])})
    themed(figure, "How much of the skipping survives a batch?", height=420)
    figure.update_xaxes(title="rows in the step", type="log", tickvals=ticks, ticktext=[str(t) for t in ticks])
    figure.update_yaxes(title="FFN weight reads saved", tickformat=".0%", rangemode="tozero")
    return figure
