"""The report's sliders: what becomes of GPUs, cost and latency when the question changes."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from sim.study.html import Section
from sim.study.numerals import human
from sim.study.pictures.style import colour, label

SCRIPT = "whatif.js"
STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # of a decade
FLOORS = (0.0, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 1.0)
COLUMNS = (
    ("strategy", "Strategy"),
    ("qps", "Requests/s per GPU"),
    ("gpus", "GPUs"),
    ("gain", "Capacity vs dense"),
    ("dollars_per_hour", "$ per hour"),
    ("dollars", "$ per million output tokens"),
    ("ttft", "TTFT (ms)"),
    ("tpot", "TPOT (ms)"),
    ("quality", "Quality"),
)
TEXT = """Move a slider; the table answers from simulations that were run with this report. Cheapest first.

Limits and strengths are those that were simulated: the sliders snap to them. Between two simulated rates, the share \
of requests within the limits, and the logarithm of a latency, are taken to lie on a straight line. Demand, price and \
GPUs are arithmetic on that."""


def what_if_section(frames: Mapping[str, pl.DataFrame], question: Mapping[str, Any]) -> list[Section]:
    """The section with the sliders; none for a study that did not ask what if."""
    grid = frames["whatif"]
    if grid.is_empty():
        return []
    percentile = f"{question['slo']['percentile']:g}"
    note = (
        f"Simulated with one seed, {question['grid_seed']}; each strategy's rates are stretched by one factor, so that"
        " at the study's own question the sliders say what the table above found over all seeds. It also has the"
        " intervals; these figures are known no better. Latencies"
        f" are those that {percentile} % of the requests stay within, at the rate that each replica then serves. GPUs"
        " are whole replicas with requests spread evenly; dollars are for all of them at this demand, at"
        f" {human(question['output_tokens_mean'])} output tokens per request."
    )
    return [Section("What if?", TEXT, body=_body(grid, question), note=note)]


def _body(grid: pl.DataFrame, question: Mapping[str, Any]) -> str:
    heads = "".join(
        f'<th scope="col"{"" if name == "strategy" else " class=number"} aria-sort="none" data-column="{name}">'
        f'<button type="button">{text}</button></th>'
        for name, text in COLUMNS
    )
    looks = {plan: [label(plan), colour(plan)] for plan in sorted({*grid["plan"], *grid["strategy"]})}
    return (
        f'<div id="whatif" data-looks="{html.escape(json.dumps(looks))}">'
        f'<form class="sliders" autocomplete="off">{"".join(_sliders(grid, question))}'
        '<p><button type="reset">Back to the study’s question</button></p></form>'
        "<noscript><p>The sliders need JavaScript.</p></noscript>"
        '<p class="answer" aria-live="polite"></p>'
        '<div class="scroll" tabindex="0" role="region" aria-label="What if: table">'
        f"<table><thead><tr>{heads}</tr></thead><tbody></tbody></table></div>"
        '<p class="download"><a download="what-if.csv">Download this table as CSV</a></p></div>'
    )


def _sliders(grid: pl.DataFrame, question: Mapping[str, Any]) -> list[str]:
    slo, price = question["slo"], question["dollars_per_gpu_hour"]
    floor = question["quality_floor"] or 0.0
    return [
        _slider("demand", "Demand", _around(question["demand_qps"]), question["demand_qps"], " requests/s"),
        _slider("ttft", "TTFT limit", sorted(set(grid["slo_ttft_ms"])), slo["ttft_ms"], " ms"),
        _slider("tpot", "TPOT limit", sorted(set(grid["slo_tpot_ms"])), slo["tpot_ms"], " ms"),
        _slider("strength", "Skip strength, of what was asked", sorted(set(grid["strength"])), 1.0, "×"),
        _slider("price", "Price per GPU-hour", _prices(price), price, "$"),
        _slider("floor", "Quality floor, share of dense", sorted({*FLOORS, floor}), floor, ""),
    ]


def _slider(name: str, text: str, positions: Sequence[float], home: float, unit: str) -> str:
    """A range over the places of a list; one of a single place cannot be moved."""
    return (
        f'<div><label for="w-{name}">{text}</label><output for="w-{name}"></output>'
        f'<input type="range" id="w-{name}" name="{name}" min="0" max="{max(1, len(positions) - 1)}" step="1"'
        f' value="{positions.index(home)}" data-positions="{json.dumps(positions)}" data-unit="{unit}"'
        f"{' disabled' if len(positions) < 2 else ''}></div>"
    )


def _around(demand: float) -> list[float]:
    """Round rates from a fiftieth of the demand to fifty times as much, and the demand."""
    rates = [float(f"{step * 10.0**k:.3g}") for k in range(-4, 8) for step in STEPS]
    return sorted({demand, *(rate for rate in rates if demand / 50 <= rate <= 50 * demand)})


def _prices(price: float) -> list[float]:
    """Round prices per GPU-hour, and the study's."""
    return sorted({price, *(k / 10 for k in range(2, 31, 2)), *(k / 2 for k in range(7, 31))})
