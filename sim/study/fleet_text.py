"""A fleet's run as JSON and as tables on the terminal."""

from collections.abc import Mapping

import polars as pl
from rich.console import Console

from sim.study.fleet_figures import table_of
from sim.study.fleet_runs import Ran
from sim.study.pictures import label, percent
from sim.study.quality import NOT_MEASURED
from sim.study.terminal import figure, show_table

SHOWN = ("requests", "completed", "refused", "shed", "unserved", "lost_and_retried", "makespan_s", "requests_per_s",
         "goodput_per_s", "slo_met_share", "output_tokens_per_s", "prefix_hit_share", "preemptions", "gpu_hours",
         "busy_share", "dollars_per_million_output_tokens", "skipped_share")  # fmt: skip
LATENCIES = ("requests", "slo_met_share", "ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms", "e2e_p90_ms")


def answer_of(ran: Ran, figures: Mapping[str, object]) -> dict[str, object]:
    """What `--json` says."""
    answer = {
        "model": ran.groups[0].deployment.model.name,
        **figures,
        "classes": table_of(ran.result.classes),
        "groups": [{**row, "strategy": g.plan.name, "gpu": g.deployment.gpu.name, "tp": g.deployment.tp}
                   for row, g in zip(table_of(ran.result.groups), ran.groups)],
        "replicas": table_of(ran.result.replicas),
    }  # fmt: skip
    return answer if ran.policies is None else {**answer, "policies": table_of(ran.policies)}


def show(out: Console, ran: Ran, figures: Mapping[str, object]) -> None:
    """The run as tables."""
    rows = [(name.replace("_", " "), figures[name]) for name in SHOWN]
    rows.append(("mean quality", NOT_MEASURED if figures["mean_quality"] is None else figures["mean_quality"]))
    show_table(out, f"{ran.result.workload}; router {ran.result.router}", ("", ""), rows)
    if ran.policies is not None:
        _show_policies(out, ran.policies)
    for what, frame in (("class", ran.result.classes), ("group", ran.result.groups)):
        body = [(row[what], *(row[name] for name in LATENCIES)) for row in frame.iter_rows(named=True)]
        show_table(out, f"by {what}", ("", *(name.replace("_", " ") for name in LATENCIES)), body)


def _show_policies(out: Console, policies: pl.DataFrame) -> None:
    columns = (
        "policy",
        "within SLO",
        "goodput/s",
        "TTFT p90 ms",
        "TPOT p90 ms",
        "quality",
        "skipped",
        "GPU-hours",
        "$ / M out",
    )
    body = [
        (
            label(row["policy"]),
            percent(row["slo_met_share"]),
            row["goodput_per_s"],
            row["ttft_p90_ms"],
            row["tpot_p90_ms"],
            NOT_MEASURED if row["mean_quality"] is None else figure(row["mean_quality"]),
            percent(row["skipped_share"]),
            row["gpu_hours"],
            row["dollars_per_million_output_tokens"],
        )
        for row in policies.iter_rows(named=True)
    ]
    show_table(out, "one policy against the other, on the same requests", columns, body)
