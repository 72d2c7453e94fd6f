"""`simulate`: one run, in figures."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Console

from sim.run.result import Result
from sim.study.chance import STATISTICS
from sim.study.intervals import varied
from sim.study.options import Parser, add_deployment, add_draws, add_json, add_scheduler, add_slo, add_workload
from sim.study.run_intervals import run_intervals
from sim.study.run_report import METRICS, facts_of, run_report, run_summary, sources_line, with_ends
from sim.study.run_trace import run_trace
from sim.study.settings import DEFAULT_QPS, load_of, seed_of, service_of, slo_of, workload_of
from sim.study.terminal import console, progress, say_json, show_table, write_parquet, write_text

EXAMPLE = """\
example:
  python -m sim simulate --trace trace.csv --strategy swift_kv --json
  python -m sim simulate --workload azure-code --qps 4 --strategy ffn_skip:share=0.25 --html out/run.html
"""
SERVICE = (
    "requests",
    "completed",
    "failed",
    "requests_per_s",
    "slo_met_share",
    "goodput_per_s",
    "output_tokens_per_s",
    "total_tokens_per_s",
    "executed_tflops_per_gpu",
    "normalised_tflops_per_gpu",
    "kv_capacity_tokens",
    "kv_peak_share",
    "preemptions",
    "queue_peak",
    "busy_share",
    "extrapolated_share",
    "dollars_per_million_output_tokens",
    "kwh_per_million_output_tokens",
)


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("simulate", help="one run of one strategy", epilog=EXAMPLE)
    parser.add_argument("--strategy", default="dense", metavar="SPEC", help="name:key=value,…; join several with +")
    parser.add_argument("--qps", type=float, help=f"rate; rescales a trace, {DEFAULT_QPS:g} for a synthetic load")
    parser.add_argument("--concurrency", type=int, metavar="N", help="closed loop: N requests in flight")
    parser.add_argument("--seed", type=int, default=0)
    add_workload(parser, requests=2000)
    add_deployment(parser)
    add_scheduler(parser)
    add_slo(parser)
    output = add_json(parser)
    add_draws(output)
    output.add_argument("--html", metavar="FILE", help="write the run as a self-contained page")
    output.add_argument("--requests-out", metavar="FILE.parquet", help="one row per request")
    output.add_argument("--iterations-out", metavar="FILE.parquet", help="one row per step")
    output.add_argument("--trace-out", metavar="FILE.json", help="the run for ui.perfetto.dev (Chrome trace)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run, and say what happened."""
    slo, load, seed = slo_of(args), load_of(args), seed_of(args)
    service = service_of(args, load)
    drawn = varied(service, draws=args.draws)
    work = workload_of(args, load)
    with progress(quiet=args.json) as bar:
        result = service.run(work, seed=seed, progress=partial(bar, "simulating") if bar else None)
        tell = partial(bar, "drawing kernels and engine") if bar else None
        found = run_intervals(service, result, slo, drawn, seed=seed, tell=tell)
    summary = run_summary(result, slo, service.engine, found)
    if args.requests_out:
        write_parquet(args.requests_out, result.requests)
    if args.iterations_out:
        write_parquet(args.iterations_out, result.iterations)
    if args.trace_out:
        write_text(args.trace_out, run_trace(result))
    if args.html:
        write_text(args.html, run_report(result, summary, service.engine))
    if args.json:
        say_json(summary)
    else:
        show(console(), result, summary)
    return 0


def show(out: Console, result: Result, summary: Mapping[str, Any]) -> None:
    """The run as tables."""
    out.print(f"[bold]{facts_of(result)}[/bold]\n", soft_wrap=True)
    rows = [(f"{m.upper()} (ms)", *(with_ends(summary[f"{m}_ms"], q) for q in STATISTICS)) for m in METRICS]
    show_table(out, "latency, with 90 % intervals", ("", *STATISTICS), rows)
    sources = [(m.upper(), sources_line(summary[f"{m}_ms"], "p50")) for m in METRICS]
    sources.append(("output tokens per s", sources_line(summary, "output_tokens_per_s")))
    if any(said for _, said in sources):
        show_table(out, "what makes the intervals, as shares of the variance of the p50", ("", ""), sources)
    show_table(out, "service", ("", ""), [(name.replace("_", " "), with_ends(summary, name)) for name in SERVICE])
    shares = [(name.replace("_", " "), f"{value:.1%}") for name, value in summary["realised"].items()]
    show_table(out, "saved, as a share of the dense model's work", ("", ""), shares)
    attribution = result.attribution()
    show_table(out, "where the time went", attribution.columns, [tuple(map(_text, r)) for r in attribution.iter_rows()])
    for warning in summary["warnings"]:
        out.print(f"[yellow]note:[/yellow] {warning}", soft_wrap=True)


def _text(value: object) -> object:
    return value if isinstance(value, (int, float)) else str(value)
