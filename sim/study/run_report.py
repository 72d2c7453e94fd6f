"""One run as JSON and as a report."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from sim.cost.profiles import EngineProfile
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.run.uncertainty import Interval
from sim.study.chance import STATISTICS
from sim.study.engines import caveat
from sim.study.html import Section, heading_of, page
from sim.study.intervals import columns, scaled
from sim.study.numerals import percent
from sim.study.pictures import attribution, gantt, label, plan_table, timeline
from sim.study.prices import dollars_per_million, kwh_per_million, price_of
from sim.study.provenance import deployment_facts, engine_facts, scheduler_facts
from sim.study.sustained import stands_still
from sim.study.terminal import between, figure

METRICS = ("ttft", "tpot", "itl", "e2e")
RATES = (
    "requests_per_s",
    "goodput_per_s",
    "slo_met_share",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "dollars_per_million_output_tokens",
    "kwh_per_million_output_tokens",
)
WORDS = {"kernels": "kernel times", "parameters": "the engine and its server", "sampling": "the traffic"}
INTERVALS = "In brackets: 90 % intervals, of kernel times, of the engine and its server, and of traffic of this kind."
FEW = 100  # requests below which nothing is said about a queue
MUCH = 0.2  # extrapolated share of the time from which on we warn


def facts_of(result: Result) -> str:
    """What ran, in one line."""
    on = result.deployment
    return (
        f"{on.model.name} on {on.tp} x {on.gpu.name}, {label(result.plan.name)}, {result.config.policy}: "
        f"{len(result.workload)} requests of {result.workload.name}; kernel times {result.times_label}"
    )


def run_summary(
    result: Result, slo: Slo, engine: EngineProfile | None = None, found: Mapping[str, Interval] | None = None
) -> dict[str, object]:
    """`Result.summary()` with SLO, cost, intervals, attribution and warnings: what `simulate --json` emits.

    `found` are the intervals of `run_intervals`; without them latencies have what the traffic's chance alone does.
    """
    summary = result.summary()
    goodput, share = result.goodput(slo)
    on = result.deployment
    rate = float(summary["output_tokens_per_s"])  # type: ignore[arg-type]
    busy = float(summary["busy_share"])  # type: ignore[arg-type]
    summary |= {
        "engine": engine.name if engine else None,
        "slo": {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "percentile": slo.percentile},
        "slo_met_share": share,
        "goodput_per_s": goodput,
        "dollars_per_million_output_tokens": dollars_per_million(on, rate, price_of(on.gpu.name)),
        "kwh_per_million_output_tokens": kwh_per_million(on, rate, busy),
    }
    return (
        summary
        | interval_keys(summary, found or {}, on.tp)
        | {"attribution": attribution_rows(result), "warnings": warnings_of(result, summary, engine)}
    )


def interval_keys(summary: Mapping[str, object], found: Mapping[str, Interval], tp: int) -> dict[str, object]:
    """The summary's latencies with their intervals inside, and the keys of all other intervals."""
    keys: dict[str, object] = {}
    for name, one in found.items():
        if not name.endswith("_ms"):
            keys |= columns(name, one)
    if "output_tokens_per_s" in found:
        keys |= columns("output_tokens_per_s_per_gpu", scaled(found["output_tokens_per_s"], 1 / tp))
    for metric in METRICS if found else ():
        figures: Mapping[str, object] = summary[f"{metric}_ms"]  # type: ignore[assignment]
        spread = {q: figures[q] for q in STATISTICS}
        for q in STATISTICS:
            if f"{metric}_{q}_ms" in found:
                spread |= columns(q, found[f"{metric}_{q}_ms"])
        keys[f"{metric}_ms"] = spread
    return keys


def attribution_rows(result: Result) -> list[dict[str, object]]:
    """Seconds by kind of step and part."""
    return result.attribution().with_columns(pl.col("kind").cast(pl.String)).to_dicts()


def warnings_of(result: Result, summary: Mapping[str, object], engine: EngineProfile | None) -> list[str]:
    """What a reader should know before believing the figures."""
    known = caveat(engine, result.deployment.gpu.name)
    found = [known] if known else []
    outside = float(summary["extrapolated_share"])  # type: ignore[arg-type]
    if outside > MUCH:
        found.append(f"{outside:.0%} of the time is priced outside the measured domain ({result.times_label})")
    if summary["failed"]:
        found.append(f"{summary['failed']} of {summary['requests']} requests were refused: they can never fit")
    if result.workload.failed:
        found.append(f"{result.workload.failed} requests that failed in the trace were not replayed")
    if piles_up(result):
        found.append("requests pile up: the load is more than the replica can take, and figures depend on its length")
    if result.plan.gate is not None and result.plan.gate.source != "measured":
        expected = result.plan.gate.source == "expected"
        found.append(
            "FFN skip rates are expected from a published profile, not measured on this model"
            if expected
            else f"FFN skip rates were {result.plan.gate.source}: they are that model's"
        )
    if result.plan.draft is not None:
        found.append(f"draft acceptance {result.plan.draft.acceptance:g} is an assumption")
    if result.plan.note:
        found.append(result.plan.note)
    return found


def piles_up(result: Result) -> bool:
    """Whether an open load is more than the replica can take."""
    work = result.workload
    if work.concurrency or len(work) < FEW or not work.arrival_ns[-1]:
        return False
    return not stands_still(result)


def run_report(result: Result, summary: Mapping[str, Any], engine: EngineProfile | None) -> str:
    """The run as one HTML document that opens offline."""
    figures = {name: value for name, value in summary.items() if isinstance(value, (int, float, str))}
    spreads = [{"metric": m.upper(), **{q: with_ends(summary[f"{m}_ms"], q) for q in STATISTICS}} for m in METRICS]
    rates = [{"figure": heading_of(name), "value": with_ends(summary, name)} for name in RATES]
    saved = [{"what": heading_of(name), "share": share} for name, share in summary["realised"].items()]
    sections = [
        Section("How long do users wait?", f"Milliseconds over all requests. {INTERVALS}", table=pl.DataFrame(spreads)),
        Section("How much is served?", "Per replica.", table=pl.DataFrame(rates)),
        Section("What did the GPU hold?", "Rows of each step, KV memory and queue.", timeline(result)),
        Section("Who is in which step?", "Around the longest queue; drag to zoom.", gantt(result)),
        Section(
            "Where did the time go?",
            "Seconds by kind of step.",
            attribution(result.attribution().with_columns(pl.col("kind").cast(pl.String))),
        ),
        Section("What was skipped?", "The plan, and the work it saved.", plan_table(result.plan), pl.DataFrame(saved)),
    ]
    text = facts_of(result) + "\n\n" + "\n\n".join(summary["warnings"])
    provenance = {
        "workload": result.workload.source,
        "deployment": deployment_facts(result.deployment),
        "engine": engine_facts(engine),
        "scheduler": scheduler_facts(result.config),
        "figures": figures,
    }
    return page(f"{result.deployment.model.name}, {label(result.plan.name)}: one run", text, sections, provenance)


def with_ends(figures: Mapping[str, Any], name: str) -> str:
    """A figure with its interval, as text."""
    return figure(figures.get(name)) + between(figures.get(f"{name}_low"), figures.get(f"{name}_high"))


def sources_line(figures: Mapping[str, Any], name: str) -> str:
    """Which doubts make the interval of a figure, in words; empty where it has none."""
    shares = figures.get(f"{name}_shares")
    return ", ".join(f"{WORDS[source]} {percent(share)}" for source, share in shares.items()) if shares else ""
