"""The sweep's report: the best points, what is to be had for what, and what matters."""

from collections.abc import Mapping, Sequence

import polars as pl

from sim.study.html import Section, page
from sim.study.pictures import label
from sim.study.pictures.sweeps import axis_title, front_picture, side_by_side, tornado
from sim.study.points.effects import effects
from sim.study.points.objectives import LOWER, pareto
from sim.study.points.options import is_option
from sim.study.points.space import STRATEGY
from sim.study.terminal import figure

FRONTS = (
    ("dollars_per_million_output_tokens", "quality"),
    ("tpot_p50_ms", "output_tokens_per_s_per_gpu"),
    ("dollars_per_million_output_tokens", "tpot_p50_ms"),
)
UNSEEN = ("key", "plan_digest", "kv_capacity_tokens", "kv_peak_share", "busy_share")  # in the table's file alone
MOST = 20  # of the best points
SHOWN = (
    "max_qps_per_gpu",
    "gpus",
    "dollars_per_million_output_tokens",
    "ttft_p90_ms",
    "tpot_p50_ms",
    "output_tokens_per_s_per_gpu",
    "quality",
)


def ranked(table: pl.DataFrame, objective: str) -> pl.DataFrame:
    """The feasible points, the best first."""
    return (
        table.filter("feasible")
        .drop_nulls(objective)
        .sort(objective, descending=objective not in LOWER, maintain_order=True)
    )


def settings_shown(axes: Sequence[str]) -> list[str]:
    """The columns that tell points apart: the plan, with its parameters spelled out, and the varied options."""
    return ["plan", *(name for name in axes if is_option(name) and name != STRATEGY)]


def report(table: pl.DataFrame, axes: Sequence[str], objective: str, provenance: Mapping[str, object]) -> str:
    """One HTML document that opens offline."""
    best = ranked(table, objective)
    columns = list(dict.fromkeys((*settings_shown(axes), objective, *SHOWN)))
    columns = [name for name in columns if table[name].null_count() < len(table)]
    sections = [
        Section(
            "Which point is best?",
            f"The {min(MOST, len(best))} best of {len(best)} feasible points by {axis_title(objective)}.",
            table=best.select(columns).head(MOST),
            note="Feasible: within the SLO and, where one is asked for, above the quality floor.",
        ),
        *_fronts(table, columns),
        *_what_matters(table, axes, objective),
        Section("All points", "What was computed, and why a point has no figures.", table=table, unseen=UNSEEN),
    ]
    summary = summary_of(table, axes, objective)
    return page("A sweep: what to choose", summary, sections, provenance, frames={"points": table})


def summary_of(table: pl.DataFrame, axes: Sequence[str], objective: str) -> str:
    """The answer in a paragraph of plain text."""
    best = ranked(table, objective)
    counted = f"{len(table):,} points, {int(table['feasible'].sum()):,} of them feasible."
    if not len(best):
        return f"{counted} {reasons(table)}"
    row = best.row(0, named=True)
    chosen = ", ".join((label(row["plan"]), *(f"{name} {row[name]}" for name in settings_shown(axes)[1:])))
    return f"{counted} Best: {chosen}, at {figure(row[objective])} {axis_title(objective)}."


def reasons(table: pl.DataFrame) -> str:
    """What keeps points from being feasible, and how many each."""
    lost = table.filter(~pl.col("feasible"))
    without = lost.filter(pl.col("within_slo").is_null())["note"]
    parts = []
    if len(without):
        note, count = without.value_counts(sort=True).row(0)
        parts.append(f"{len(without):,} have no figures, {count:,} of them since {note}")
    for within, what in ((False, "miss the SLO"), (True, "are not known to keep the quality")):
        count = len(lost.filter(pl.col("within_slo") == within))
        parts += [f"{count:,} {what}"] if count else []
    return "".join(f"{part}. " for part in parts).strip()


def _fronts(table: pl.DataFrame, columns: Sequence[str]) -> list[Section]:
    sections = []
    for x, y in FRONTS:
        front = pareto(table, (x, y))
        if len(front) and table[y].drop_nulls().n_unique() > 1:
            text = "Points on the line are beaten by none: nothing is better in one without being worse in the other."
            heading = f"{axis_title(y)} against {axis_title(x)}"
            heading = heading[0].upper() + heading[1:]
            sections.append(Section(heading, text, front_picture(table, front, x, y), front.select(columns)))
    return sections


def _what_matters(table: pl.DataFrame, axes: Sequence[str], objective: str) -> list[Section]:
    found = effects(table, list(axes), objective)
    if not len(found):
        return []
    text = (
        "Each bar runs from the value of a setting with the lowest to the one with the highest objective, with"
        " everything else equal: main effects on a logarithmic scale over all feasible points."
    )
    return [
        Section("What matters?", text, tornado(found, objective), found),
        Section(
            "All settings side by side",
            "Drag along an axis to pick values, drag an axis to move it.",
            side_by_side(table, axes, objective),
        ),
    ]
