"""`study`: strategies against each other, as a table and a report."""

import argparse
from pathlib import Path

import polars as pl
from rich.console import Console

from sim.run.uncertainty import SOURCES
from sim.study.assess import REALISED
from sim.study.evidence import phrases
from sim.study.floor import cell, check_floor, recommendation
from sim.study.numerals import percent
from sim.study.options import Parser, add_deployment, add_json, add_scheduler, add_search, add_slo
from sim.study.outcome import Outcome
from sim.study.pictures import label
from sim.study.rows import COSTS, LATENCIES
from sim.study.run_report import with_ends
from sim.study.settings import (
    deployment_of,
    engine_of,
    oversized_of,
    rated_load_of,
    scheduler_of,
    seeds_of,
    slo_of,
    source_of,
)
from sim.study.study import STRATEGIES, Study
from sim.study.terminal import between, console, figure, progress, say_json, show_table, write_text

EXAMPLE = """\
example:
  python -m sim study
  python -m sim study --trace trace.csv --gpu h100 --demand-qps 40 --strategy swift_kv --strategy static_depth:drop=8
"""
REPORT = "out/study.html"


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("study", help="strategies against each other", epilog=EXAMPLE)
    parser.add_argument("--strategy", action="append", metavar="SPEC", help="repeatable; default: six")
    parser.add_argument("--gpu-price", type=float, metavar="DOLLARS", help="per GPU-hour; default: an assumption")
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core, 2 at most")
    add_search(parser)
    add_deployment(parser)
    add_scheduler(parser)
    add_slo(parser)
    output = add_json(parser)
    output.add_argument("--html", metavar="FILE", default=REPORT, help=f"where the report goes ({REPORT})")
    output.add_argument("--save", metavar="DIR", help="keep all frames, for `report DIR`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Study, show, and write the report."""
    with progress(quiet=args.json) as bar:
        on = deployment_of(args)
        study = Study(
            deployment=on,
            load=rated_load_of(args),
            strategies=args.strategy or STRATEGIES,
            demand_qps=args.demand_qps,
            slo=slo_of(args),
            engine=engine_of(args),
            config=scheduler_of(args),
            seeds=seeds_of(args),
            tolerance=args.tolerance,
            draws=args.draws,
            source=source_of(args, on),
            max_context=args.max_context,
            oversized=oversized_of(args),
            gpu_price=args.gpu_price,
            quality_floor=check_floor(args.quality_floor),
            workers=args.workers,
            tick=bar,
        )
        outcome = study.outcome
    if args.save:
        outcome.save(Path(args.save))
    write_text(args.html, outcome.html())
    if args.json:
        say_json(outcome.as_json())
    else:
        show(console(), outcome)
        console().print(f"report: {args.html}")
    return 0


def show(out: Console, outcome: Outcome) -> None:
    """The study as tables."""
    question = outcome.provenance["question"]
    assert isinstance(question, dict)
    rows = outcome.rows
    slo = question["slo"]
    what = f"{question['model']} on {question['gpus_per_replica']} x {question['gpu']}, {question['workload']}"
    limits = f"{slo['percentile']:g} % of requests within TTFT {slo['ttft_ms']:g} ms and TPOT {slo['tpot_ms']:g} ms"
    out.print(f"[bold]{what}[/bold]: {limits}\n", soft_wrap=True)
    _show_capacity(out, rows, float(question["demand_qps"]), question["quality_floor"])
    _show_latency(out, rows)
    _show_evidence(out, rows, outcome.frames["quality"], question["quality_floor"])
    _show_saving(out, rows)
    _show_why(out, outcome.frames["steps"])
    known = question["engine_caveat"]
    if known:
        out.print(f"[yellow]note:[/yellow] {known}", soft_wrap=True)
    for row in rows.filter(pl.col("note") != "").iter_rows(named=True):
        out.print(f"[yellow]note:[/yellow] {label(row['strategy'])}: {row['note']}", soft_wrap=True)


def _show_capacity(out: Console, rows: pl.DataFrame, demand_qps: float, floor: float | None) -> None:
    columns = ("strategy", "requests/s per GPU", f"GPUs for {demand_qps:g}/s", "times dense", _quality(floor),
               "interval from: kernels", "engine, server", "traffic")  # fmt: skip
    body = [
        (
            label(r["strategy"]),
            figure(r["max_qps_per_gpu"]) + between(r["max_qps_low"], r["max_qps_high"]),
            with_ends(r, "gpus"),
            with_ends(r, "gain"),
            cell(r["quality"], r["quality_how"], floor),
            *(percent((r["max_qps_shares"] or {}).get(source)) for source in SOURCES),
        )
        for r in rows.iter_rows(named=True)
    ]
    show_table(out, "capacity, with 90 % intervals", columns, body)


def _quality(floor: float | None) -> str:
    return "quality" if floor is None else f"quality (✗ below {floor:g})"


def _show_latency(out: Console, rows: pl.DataFrame) -> None:
    columns = ("strategy", "TTFT p50 ms", "TTFT p90 ms", "TPOT p50 ms", "TPOT p90 ms", "$ / M output", "kWh / M output")
    body = [
        (label(r["strategy"]), *(with_ends(r, name) for name in (*LATENCIES, *COSTS)))
        for r in rows.iter_rows(named=True)
    ]
    common = rows["compared_at_qps"].drop_nulls()
    where = f"latencies at {common[0]:.3g} requests per second" if len(common) else "latencies"
    show_table(out, f"{where}, and cost at each strategy's capacity, with 90 % intervals", columns, body)


def _show_evidence(out: Console, rows: pl.DataFrame, known: pl.DataFrame, floor: float | None) -> None:
    """What to take where quality matters, and results that speak about a strategy without being its quality."""
    if line := recommendation(rows, floor):
        out.print(f"[bold]recommended[/bold] {line}\n", soft_wrap=True)
    body = [(label(strategy), text) for strategy, text in phrases(known)]
    if body:
        show_table(
            out, "known beside it, of other benchmarks, settings or models", ("strategy", "share of dense"), body
        )


def _show_saving(out: Console, rows: pl.DataFrame) -> None:
    columns = ("strategy", "skipped: prompt", "decode", "saved: FLOPs", "weight bytes", "KV reads", "KV memory",
               "KV tokens", "extrapolated")  # fmt: skip
    skips, saved = ("prompt_skip", "decode_skip"), REALISED
    body = [
        (
            label(r["strategy"]),
            *(percent(r[name]) for name in skips + saved),
            r["kv_capacity_tokens"],
            percent(r["extrapolated_share"]),
        )
        for r in rows.iter_rows(named=True)
    ]
    show_table(out, "nominal skip and realised saving, at each strategy's capacity", columns, body)


def _show_why(out: Console, steps: pl.DataFrame) -> None:
    """The waterfalls side by side: one column per strategy."""
    strategies = list(dict.fromkeys(steps["strategy"]))
    labels: dict[str, dict[str, float]] = {}
    for row in steps.iter_rows(named=True):
        name = "realised" if row["kind"] == "result" else row["label"]
        labels.setdefault(name, {})[row["strategy"]] = row["value"]
    body = [(name, *(_signed(values.get(s)) for s in strategies)) for name, values in labels.items()]
    show_table(out, "why not more: shares of the dense model's GPU time", ("", *map(label, strategies)), body)


def _signed(share: float | None) -> str:
    return "—" if share is None else f"{100 * share:+.1f} %".replace("-", "−")
