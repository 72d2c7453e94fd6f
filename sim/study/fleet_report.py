"""A fleet's run as a page that opens offline."""

from collections.abc import Mapping, Sequence

import polars as pl

from sim.run.cluster import Group
from sim.study.fleet_policies import DEGRADE
from sim.study.fleet_runs import Ran
from sim.study.fleet_text import figures_shown, how_known
from sim.study.html import Section, heading_of, page
from sim.study.pictures import label
from sim.study.pictures.fleet import LADDER, fleet_timeline, policy_map
from sim.study.provenance import deployment_facts, scheduler_facts

EXPLAINED = (
    "A replica runs one plan at a time and changes it when it is empty, so no batch mixes plans and a request keeps its"
    " plan for life. While replicas drain they take nothing: that is the cost of a change, and it is in these figures."
)
CLASSES = ("class", "requests", "completed", "refused", "shed", "unserved", "retried", "slo_met_share", "goodput_per_s",
          "ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms", "e2e_p90_ms")  # fmt: skip
GROUPS = ("group", "strategy", "lives", "gpu_hours", "requests", "slo_met_share", "goodput_per_s", "ttft_p50_ms",
          "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms")  # fmt: skip
POLICIES = ("strategy", "completed", "shed", "slo_met_share", "goodput_per_s", "ttft_p90_ms", "tpot_p90_ms",
            "mean_quality", "skipped_share", "gpu_hours", "dollars_per_million_output_tokens")  # fmt: skip
LIVES = ("replica", "group", "strategy", "launched_s", "ready_s", "down_s", "end", "routed", "lost", "busy_share",
         "kv_peak_share", "queue_peak")  # fmt: skip
SELDOM = ("refused", "shed", "unserved", "retried", "lost")  # not shown where none was


def fleet_page(ran: Ran, asked: Mapping[str, object]) -> str:
    """The report: policies if there are several, figures, the fleet over time, its replicas, what it rests on.

    `asked` are the options beyond a number of replicas, for the provenance.
    """
    strategies = {group.name: group.plan.name for group in ran.groups}
    sections = _policies(ran)
    rows = [{"figure": heading_of(name), "value": said} for name, said in figures_shown(ran)]
    sections.append(Section("What came out?", how_known(ran), table=pl.DataFrame(rows)))
    sections.append(_shown("What did clients get?", "One row per class of requests.", ran.result.classes, CLASSES))
    if ran.watch is not None and len(ran.watch):
        text = "Replicas that serve, and the requests that are there, until the last request has come."
        sections.append(Section("Who served when?", text, fleet_timeline(ran.watch, strategies)))
    groups = ran.result.groups.with_columns(strategy=pl.col("group").replace_strict(strategies))
    text = "One row per group. Requests count where they were completed, GPUs from launch to end."
    sections.append(_shown("What did each kind of replica do?", text, groups, GROUPS))
    sections.append(_lives(ran))
    first = ran.groups[0]
    title = f"A fleet of {first.deployment.model.name}"
    return page(
        title, f"{kinds_of(ran)}; router {ran.result.router}; {ran.result.workload}.", sections, _facts(ran, asked)
    )


def kinds_of(ran: Ran) -> str:
    """The replicas at the start, in words."""
    first = ran.groups[0]
    if ran.policies is not None:
        ladder = " → ".join(label(group.plan.name) for group in ran.groups)
        return f"{_count(first)} on {_gpus(first)}, on a ladder of plans: {ladder}"
    several = len(ran.groups) > 1
    said = (f"{_count(g)} of {label(g.plan.name)} on {_gpus(g)}" for g in ran.groups)
    return "; ".join(f"{g.name}: {text}" if several else text for g, text in zip(ran.groups, said))


def _count(group: Group) -> str:
    return f"{group.replicas} replica{'' if group.replicas == 1 else 's'}"


def _gpus(group: Group) -> str:
    return f"{group.deployment.tp} x {group.deployment.gpu.name}"


def _policies(ran: Ran) -> list[Section]:
    if ran.policies is None:
        return []
    table = ran.policies.rename({"policy": "strategy"}).with_columns(pl.col("strategy").replace({DEGRADE: LADDER}))
    heading = "Is it worth skipping only under load?"
    return [_shown(heading, EXPLAINED, table, POLICIES, figure=policy_map(ran.policies))]


def _lives(ran: Ran) -> Section:
    frame = ran.result.replicas
    times = (pl.col(f"{name}_ns").truediv(1e9).alias(f"{name}_s") for name in ("launched", "ready", "down"))
    return _shown("What did each replica do?", "One row per life of a replica.", frame.with_columns(times), LIVES)


def _shown(heading: str, text: str, frame: pl.DataFrame, names: Sequence[str], **more: object) -> Section:
    """A table of some columns, in their order; the others are in its file alone."""
    ends = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    idle = {name for name in SELDOM if name in frame.columns and not frame[name].sum()}
    if "group" in frame.columns and (frame["group"].n_unique() == 1 or frame["group"].equals(frame["strategy"])):
        idle.add("group")  # says nothing that the strategy does not
    known = [name for name in ends if name in frame.columns and name not in idle]
    rest = [name for name in frame.columns if name not in known]
    return Section(heading, text, table=frame.select(*known, *rest), unseen=rest, **more)  # type: ignore[arg-type]


def _facts(ran: Ran, asked: Mapping[str, object]) -> dict[str, object]:
    """What the run rests on."""
    groups = {
        f"group {g.name}": {
            "strategy": g.plan.name,
            "gpus": _gpus(g),
            "replicas": g.replicas,
            **deployment_facts(g.deployment),
            "kernel_times": g.times.label if g.times else None,
        }
        for g in ran.groups
    }
    return {
        "workload": ran.result.workload,
        "router": ran.result.router,
        "asked": dict(asked),
        **groups,
        "scheduler": scheduler_facts(ran.groups[0].config),
    }
