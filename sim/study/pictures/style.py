"""One visual language: a colour, dash, marker and pattern per strategy family, and numbers as people write them."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import plotly.graph_objects as go

from sim.study.numerals import percent

INK = "#3d4450"  # text on paper; the report's stylesheet recolours it in dark mode
FAINT = "rgba(128,128,128,0.28)"  # grid lines, readable on light and dark ground
LIMIT = "#d64541"  # an SLO


@dataclass(frozen=True)
class Style:
    """How a strategy looks everywhere: colour for screens; dash, marker and pattern for greyscale."""

    colour: str
    dash: str
    marker: str
    pattern: str


FAMILIES = {
    "dense": Style("#6b7280", "solid", "circle", ""),
    "skip_decode": Style("#d55e00", "dash", "square", "/"),
    "ffn_skip": Style("#d99a00", "dot", "triangle-up", "."),
    "swift_kv": Style("#0072b2", "solid", "diamond", "\\"),
    "across_kv": Style("#45a5db", "longdash", "bowtie", "-"),
    "composition": Style("#009e73", "dashdot", "star", "x"),
    "unified_skip": Style("#c76a9f", "longdashdot", "pentagon", "|"),
    "static_depth": Style("#8c6d31", "dash", "triangle-down", "+"),
    "early_exit": Style("#7b57b8", "dot", "hexagon", "/"),
    "self_speculative": Style("#b0457f", "dashdot", "cross", "\\"),
    "cross_layer_kv": Style("#2b8a9d", "longdash", "x", "|"),
    "other": Style("#7a8f00", "longdashdot", "hourglass", "+"),
}
NAMES = {
    "dense": "Dense",
    "skip_decode": "SkipDecode",
    "ffn_skip": "FFN skip",
    "swift_kv": "SwiftKV",
    "unified_skip": "Unified skip",
    "static_depth": "Static depth",
    "early_exit": "Early exit",
    "self_speculative": "Self-speculative",
    "cross_layer_kv": "Cross-layer KV",
}
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "star")  # never open: hollow is a missed SLO


def family(strategy: str) -> str:
    """The family that a spec or a label belongs to, a key of FAMILIES; two strategies in one are a composition."""
    plain = re.sub(r"[^a-z0-9]", "", strategy.lower())
    found = [name for name in NAMES if name.replace("_", "") in plain]
    if len(found) > 1:
        return "composition"
    if found == ["swift_kv"] and re.search(r"group[=\s](?!1\b)|across", strategy.lower()):
        return "across_kv"
    return found[0] if found else "other"


def colour(strategy: str) -> str:
    """The colour of a strategy, the same in every picture: "#rrggbb"."""
    return FAMILIES[family(strategy)].colour


def styles(strategies: Iterable[str]) -> dict[str, Style]:
    """A style for each strategy of a picture; members of one family share the colour, not the dash and the marker."""
    result: dict[str, Style] = {}
    members: dict[str, int] = {}
    for strategy in dict.fromkeys(strategies):
        name = family(strategy)
        style, nth = FAMILIES[name], members.get(name, 0)
        members[name] = nth + 1
        if nth:
            dash = DASHES[(DASHES.index(style.dash) + nth) % len(DASHES)]
            start = MARKERS.index(style.marker) if style.marker in MARKERS else 0
            style = replace(style, dash=dash, marker=MARKERS[(start + nth) % len(MARKERS)])
        result[strategy] = style
    return result


def label(strategy: str) -> str:
    """A spec as people say it: "skip_decode:speedup=2" is "SkipDecode 2×"; other text is left as it is."""
    parts = strategy.split("+")
    if not all(part.partition(":")[0] in NAMES for part in parts):
        return strategy
    return " + ".join(_say(*part.partition(":")[::2]) for part in parts)


def _say(name: str, arguments: str) -> str:
    said = []
    for pair in filter(None, arguments.split(",")):
        key, _, value = pair.partition("=")
        if key == "share":
            said.append(f" {percent(float(value))}")
        elif key == "speedup":
            said.append(f" {value}×")
        else:
            said.append(f", {key.replace('_', ' ')}\u00a0{value}")  # a name and its number stay on one line
    return NAMES[name] + "".join(said)


def wrapped(text: str, width: int) -> str:
    """Text broken into lines of about `width` characters with <br>, for tick labels."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


def tick(strategy: str, figures: str = "") -> str:
    """The name of a strategy's bar, with figures on a line of their own: there they fit on a phone, too."""
    return wrapped(label(strategy), 24) + (f"<br>{figures}" if figures else "")


def change(value: float, base: float | None) -> str:
    """ " (+51%)": how much more `value` is than `base`, nothing where there is no base."""
    percents = round(100 * (value / base - 1)) if base else 0
    return "" if not base else f" ({percents:+d}%)".replace("+0%", "±0%").replace("-", "−")


def themed(figure: go.Figure, title: str, *, height: int, legend: bool = True) -> go.Figure:
    """The figure in the house style: transparent ground, faint grid, the legend under the plot."""
    figure.update_layout(
        template="none",
        title={"text": wrapped(title, 80), "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8, "t": 4}},
        font={"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": INK},
        height=height,
        margin={"l": 8, "r": 12, "t": 48, "b": 8, "autoexpand": True},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=legend,
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        hoverlabel={"align": "left"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.6)", "activecolor": INK},
        dragmode="zoom",
    )
    lines = dict.fromkeys(("gridcolor", "linecolor", "zerolinecolor"), FAINT)
    axis = {**lines, "automargin": True, "separatethousands": True, "title": {"standoff": 8}}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def filled(look: Style) -> dict[str, object]:
    """A bar's fill: the colour, with the family's pattern laid over it for greyscale."""
    pattern = {"shape": look.pattern, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.55, "size": 7}
    return {"color": look.colour, "pattern": {**pattern, "solidity": 0.18}}


def log_ticks(values: Iterable[float | None]) -> dict[str, object]:
    """Settings of a logarithmic axis over positive values: ticks at 1, 2 and 5, or only at powers of ten."""
    found = [math.log10(v) for v in values if v is not None and v > 0] or [0.0]
    low, high = min(found) - 0.06, max(found) + 0.06
    steps = (1, 2, 5) if high - low < 3.2 else (1,)
    ticks = [step * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for step in steps]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": [f"{t:,.10g}" for t in ticks]}


def in_order(strategies: Sequence[str]) -> list[str]:
    """Each strategy once, as they come."""
    return list(dict.fromkeys(strategies))
