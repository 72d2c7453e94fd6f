"""A fleet's run as a page that opens offline."""

from collections.abc import Mapping

from sim.study.fleet_runs import Ran
from sim.study.html import Section, page
from sim.study.pictures import label
from sim.study.pictures.fleet import fleet_timeline, policy_map
from sim.study.provenance import deployment_facts, scheduler_facts

SHOWN = ("requests", "completed", "refused", "shed", "unserved", "lost_and_retried", "slo_met_share", "goodput_per_s",
         "output_tokens_per_s", "mean_quality", "skipped_share", "gpu_hours", "dollars_per_million_output_tokens",
         "prefix_hit_share", "preemptions", "busy_share")  # fmt: skip
EXPLAINED = (
    "A replica runs one plan at a time and changes it when it is empty, so no batch mixes plans and a request keeps its"
    " plan for life. While replicas drain they take nothing: that is the cost of a change, and it is in these figures."
)


def fleet_page(
    ran: Ran,
    figures: Mapping[str, object],
    *,
    source: str,
) -> str:
    """The report: clients, policies if there are several, the fleet over time, its replicas, what it rests on."""
    result, groups, watch, policies = ran.result, ran.groups, ran.watch, ran.policies
    strategies = {group.name: group.plan.name for group in groups}
    known = {name: figures[name] for name in SHOWN if name in figures}
    sections = [Section("What did clients get?", "One row per class of requests.", table=result.classes)]
    if policies is not None:
        sections.insert(0, Section("Is it worth skipping only under load?", EXPLAINED, policy_map(policies), policies))
    if watch is not None and len(watch):
        text = "Replicas that serve, and the requests that were there at each look."
        sections.append(Section("Who served when?", text, fleet_timeline(watch, strategies)))
    sections.append(Section("What did each kind of replica do?", "One row per group.", table=result.groups))
    sections.append(Section("What did each replica do?", "One row per life of a replica.", table=result.replicas))
    provenance = {
        "workload": source,
        "router": result.router,
        "figures": known,
        **{f"group {g.name}": {"strategy": g.plan.name, "gpu": g.deployment.gpu.name, "replicas": g.replicas,
                               **deployment_facts(g.deployment)} for g in groups},
        "scheduler": scheduler_facts(groups[0].config),
    }  # fmt: skip
    kinds = ", ".join(f"{g.replicas} x {label(g.plan.name)} on {g.deployment.gpu.name}" for g in groups)
    summary = f"{groups[0].deployment.model.name}: {kinds}; router {result.router}; {result.workload}."
    return page(f"A fleet of {groups[0].deployment.model.name}", summary, sections, provenance)
