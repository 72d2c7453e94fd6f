"""A fleet's run as JSON and as tables on the terminal."""

from typing import Any

import polars as pl
from rich.console import Console

from sim.study.fleet_figures import table_of
from sim.study.fleet_runs import Ran
from sim.study.pictures import label, percent
from sim.study.quality import NOT_MEASURED
from sim.study.run_report import with_ends
from sim.study.terminal import figure, show_table

SHOWN = ("requests", "completed", "refused", "shed", "unserved", "lost_and_retried", "makespan_s", "requests_per_s",
         "goodput_per_s", "slo_met_share", "output_tokens_per_s", "prefix_hit_share", "preemptions", "mean_gpus",
         "gpu_hours", "busy_share", "dollars_per_million_output_tokens", "skipped_share")  # fmt: skip
LATENCIES = ("requests", "slo_met_share", "ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms", "e2e_p90_ms")


def answer_of(ran: Ran) -> dict[str, object]:
    """What `--json` says."""
    answer = {
        "model": ran.groups[0].deployment.model.name,
        **ran.figures,
        "classes": table_of(ran.result.classes),
        "groups": [{**row, "strategy": g.plan.name, "gpu": g.deployment.gpu.name, "tp": g.deployment.tp}
                   for row, g in zip(table_of(ran.result.groups), ran.groups)],
        "replicas": table_of(ran.result.replicas),
    }  # fmt: skip
    return answer if ran.policies is None else {**answer, "policies": table_of(ran.policies)}


def figures_shown(ran: Ran) -> list[tuple[str, str]]:
    """The run's figures by name, with their intervals where these are known."""
    rows = [(name, with_ends(ran.figures, name)) for name in SHOWN]
    quality = ran.figures["mean_quality"]
    rows.append(("mean_quality", NOT_MEASURED if quality is None else figure(quality)))
    for metric in ("ttft", "tpot"):
        spread: Any = ran.figures[f"{metric}_ms"]
        rows += [(f"{metric}_{q}_ms", with_ends(spread, q)) for q in ("p50", "p90", "p99")]
    return rows


def how_known(ran: Ran) -> str:
    """What is said of the intervals, in a sentence."""
    draws = ran.figures["draws"]
    if not draws:
        return "No intervals are given: nothing was drawn. --draws 4 gives them, in fourteen times the time."
    return f"In brackets: 90 % intervals, from {draws} draws of the kernel times, the engine and the traffic each."


def show(out: Console, ran: Ran) -> None:
    """The run as tables."""
    rows = [(name.replace("_", " "), said) for name, said in figures_shown(ran)]
    show_table(out, f"{ran.result.workload}; router {ran.result.router}", ("", ""), rows)
    out.print(how_known(ran) + "\n", soft_wrap=True)
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
            with_ends(row, "goodput_per_s"),
            with_ends(row, "ttft_p90_ms"),
            with_ends(row, "tpot_p90_ms"),
            NOT_MEASURED if row["mean_quality"] is None else figure(row["mean_quality"]),
            percent(row["skipped_share"]),
            row["gpu_hours"],
            row["dollars_per_million_output_tokens"],
        )
        for row in policies.iter_rows(named=True)
    ]
    show_table(out, "one policy against the other, on the same requests", columns, body)
