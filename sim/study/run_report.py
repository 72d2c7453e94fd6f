"""One run as JSON and as a report."""

from collections.abc import Mapping

import polars as pl

from sim.cost.profiles import EngineProfile
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.study.capacity import is_stable
from sim.study.html import Section, page
from sim.study.pictures import attribution, gantt, label, plan_table, timeline
from sim.study.prices import dollars_per_million, kwh_per_million, price_of
from sim.study.provenance import deployment_facts, scheduler_facts

FEW = 100  # requests below which nothing is said about a queue
MUCH = 0.2  # extrapolated share of the time from which on we warn


def facts_of(result: Result) -> str:
    """What ran, in one line."""
    on = result.deployment
    return (
        f"{on.model.name} on {on.tp} x {on.gpu.name}, {label(result.plan.name)}, {result.config.policy}: "
        f"{len(result.workload)} requests of {result.workload.name}; kernel times {result.times_label}"
    )


def run_summary(result: Result, slo: Slo, engine: EngineProfile | None = None) -> dict[str, object]:
    """`Result.summary()` with the SLO, cost, attribution and warnings: what `simulate --json` emits."""
    summary = result.summary()
    goodput, share = result.goodput(slo)
    on = result.deployment
    rate = float(summary["output_tokens_per_s"])  # type: ignore[arg-type]
    busy = float(summary["busy_share"])  # type: ignore[arg-type]
    return summary | {
        "engine": engine.name if engine else None,
        "slo": {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "percentile": slo.percentile},
        "slo_met_share": share,
        "goodput_per_s": goodput,
        "dollars_per_million_output_tokens": dollars_per_million(on, rate, price_of(on.gpu.name)),
        "kwh_per_million_output_tokens": kwh_per_million(on, rate, busy),
        "attribution": attribution_rows(result),
        "warnings": warnings_of(result, summary),
    }


def attribution_rows(result: Result) -> list[dict[str, object]]:
    """Seconds by kind of step and part."""
    return result.attribution().with_columns(pl.col("kind").cast(pl.String)).to_dicts()


def warnings_of(result: Result, summary: Mapping[str, object]) -> list[str]:
    """What a reader should know before believing the figures."""
    found = []
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
    served = result.requests.drop_nulls("last_token_ns")
    return not is_stable(served["arrival_ns"].to_numpy(), served["last_token_ns"].to_numpy())


def run_report(result: Result, slo: Slo) -> str:
    """The run as one HTML document that opens offline."""
    summary = run_summary(result, slo)
    spreads = [
        {"metric": name, **{q: summary[f"{name}_ms"][q] for q in ("p50", "p90", "p99", "mean")}}  # type: ignore[index]
        for name in ("ttft", "tpot", "itl", "e2e")
    ]
    figures = {name: value for name, value in summary.items() if isinstance(value, (int, float, str))}
    shares = pl.DataFrame(list(summary["realised"].items()), schema=["what", "share"], orient="row")  # type: ignore[attr-defined]
    sections = [
        Section("How long do users wait?", "Milliseconds over all requests.", table=pl.DataFrame(spreads)),
        Section("What did the GPU hold?", "Rows of each step, KV memory and queue.", timeline(result)),
        Section("Who is in which step?", "Around the longest queue; drag to zoom.", gantt(result)),
        Section(
            "Where did the time go?",
            "Seconds by kind of step.",
            attribution(result.attribution().with_columns(pl.col("kind").cast(pl.String))),
        ),
        Section("What was skipped?", "The plan, and the work it saved.", plan_table(result.plan), shares),
    ]
    text = facts_of(result) + "\n\n" + "\n\n".join(warnings_of(result, summary))
    provenance = {
        "workload": result.workload.source,
        "deployment": deployment_facts(result.deployment),
        "scheduler": scheduler_facts(result.config),
        "figures": figures,
    }
    return page(f"{result.deployment.model.name}, {label(result.plan.name)}: one run", text, sections, provenance)
