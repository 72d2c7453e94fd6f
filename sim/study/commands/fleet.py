"""`fleet`: many replicas behind a router."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

import polars as pl
from rich.console import Console

from sim.errors import InputError
from sim.plans.model import ModelShape
from sim.plans.spec import strategy_named
from sim.run.cells import Cells
from sim.run.cluster import Fleet, Group
from sim.run.disaggregate import Disaggregated, Link
from sim.run.fleet_result import FleetResult
from sim.run.watch import Watch
from sim.study.commands.simulate import workload_of
from sim.study.fleet_day import through_the_day
from sim.study.fleet_figures import check_scores, fleet_figures, table_of
from sim.study.fleet_options import SECOND, add_changes, add_fleet, classes_of, controls_of, groups_of
from sim.study.fleet_policies import DEGRADE, Policies
from sim.study.fleet_traffic import Traffic, Whole, Windows
from sim.study.options import Parser, add_deployment, add_json, add_scheduler, add_slo, add_workload
from sim.study.pictures import label, percent
from sim.study.quality import NOT_MEASURED
from sim.study.settings import (
    DEFAULT_WORKLOAD,
    load_of,
    oversized_of,
    seed_of,
    slo_of,
)
from sim.study.terminal import console, figure, progress, say_json, show_table, write_parquet, write_text
from sim.workload.stream import Day

EXAMPLE = """\
example:
  python -m sim fleet --replicas 8 --router p2c --requests 20000 --qps 120
  python -m sim fleet --group good=4:dense --group fast=2:swift_kv --class paid=0.6:good --class free=0.4:fast --qps 90
  python -m sim fleet --disaggregate 2:1 --strategy swift_kv --qps 40
  python -m sim fleet --replicas 4 --hours 24 --qps 60 --autoscale load=30 --mtbf-h 100 --html out/fleet.html
  python -m sim fleet --policy degrade --rung dense --rung swift_kv --hours 2 --qps 110 --html out/degrade.html
"""
RUNGS = ("dense", "swift_kv", "swift_kv+skip_decode:speedup=2")


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("fleet", help="many replicas behind a router", epilog=EXAMPLE)
    add_fleet(parser)
    add_changes(parser)
    _add_ladder(parser)
    _add_more(parser)
    add_workload(parser, requests=5000)
    add_deployment(parser)
    add_scheduler(parser)
    add_slo(parser)
    output = add_json(parser)
    output.add_argument("--html", metavar="FILE", help="write the run as a self-contained page")
    output.add_argument("--requests-out", metavar="FILE.parquet", help="one row per request")
    output.add_argument("--replicas-out", metavar="FILE.parquet", help="one row per life of a replica")
    output.add_argument("--gpu-price", type=float, metavar="DOLLARS", help="per GPU-hour; default: an assumption")
    output.add_argument(
        "--quality", action="append", metavar="SPEC=SCORE", help="assume a strategy's quality; repeatable"
    )
    parser.set_defaults(run=run)


def _add_ladder(parser: Parser) -> None:
    group = parser.add_argument_group("degrading under load (--policy degrade)")
    group.add_argument("--rung", action="append", metavar="SPEC", help=f"repeatable, mildest first: {', '.join(RUNGS)}")
    group.add_argument(
        "--climb", type=float, default=60.0, metavar="N", help="requests per replica that move it up (60)"
    )
    group.add_argument(
        "--descend", type=float, default=20.0, metavar="N", help="and below which they move it down (20)"
    )
    group.add_argument(
        "--hold-s", type=float, default=30.0, metavar="S", help="no way down so soon after a way up (30)"
    )
    group.add_argument("--moving", type=float, default=0.25, metavar="SHARE", help="of replicas between plans (0.25)")


def _add_more(parser: Parser) -> None:
    group = parser.add_argument_group("prefill and decode apart")
    group.add_argument(
        "--disaggregate", metavar="P:D", help="so many prefill and decode replicas, instead of --replicas"
    )
    group.add_argument("--link-gb-per-s", type=float, default=50.0, metavar="GB", help="of each prefill replica (50)")
    group.add_argument("--link-latency-us", type=float, default=100.0, metavar="US")
    group = parser.add_argument_group("a day of traffic")
    group.add_argument("--hours", type=float, metavar="H", help="from midnight on, instead of --requests")
    group.add_argument("--swing", type=float, default=0.5, metavar="SHARE", help="of the rate around its mean (0.5)")
    group.add_argument("--cells", type=int, default=1, metavar="N", help="dispatchers, each with its own replicas")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes that simulate cells")
    group.add_argument("--qps", type=float, help="rate of the whole fleet")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--watch-s", type=float, default=0.0, metavar="S", help="look at the fleet so often, for --html")


def run(args: argparse.Namespace) -> int:
    """Run, and say what happened."""
    degrade = args.policy == DEGRADE
    if degrade:
        args.policy = None  # the engine's own
    seed, groups = seed_of(args), groups_of(args)
    if args.html and not args.watch_s:
        args.watch_s = 10.0
    classes = classes_of(args, slo_of(args))
    controls = controls_of(args, groups, seed)
    fleet = Fleet(groups, classes, args.router, args.kv_weight, controls, oversized_of(args), seed)
    rungs = _rungs(args, groups) if degrade else []
    given = _scores(args, groups[0].deployment.model)
    check_scores(rungs or groups, given)
    watch: pl.DataFrame | None = None
    policies: pl.DataFrame | None = None
    with progress(quiet=args.json) as bar:
        if bar:
            bar("simulating", 0, None)
        if degrade:
            study = _policies(args, fleet, rungs)
            result, watch, policies = study.compare(_traffic(args, seed), given=given, gpu_price=args.gpu_price)
            groups = rungs
        elif args.disaggregate:
            result, groups = _apart(args, fleet, _traffic(args, seed))
        elif args.cells > 1:
            result = _in_cells(args, fleet, _traffic(args, seed))
        else:
            result, watch = _watched(args, fleet, _traffic(args, seed))
    figures = fleet_figures(result, groups, given=given, gpu_price=args.gpu_price)
    _write(args, result, groups, figures, watch, policies)
    if args.json:
        say_json(answer_of(result, groups, figures, policies))
    else:
        show(console(), result, figures, policies)
    return 0


def answer_of(
    result: FleetResult, groups: Sequence[Group], figures: Mapping[str, object], policies: pl.DataFrame | None
) -> dict[str, object]:
    """What `--json` says."""
    first = groups[0].deployment
    answer = {
        "model": first.model.name,
        **figures,
        "classes": table_of(result.classes),
        "groups": [{**row, "strategy": g.plan.name, "gpu": g.deployment.gpu.name, "tp": g.deployment.tp}
                   for row, g in zip(table_of(result.groups), groups)],
        "replicas": table_of(result.replicas),
    }  # fmt: skip
    return answer if policies is None else {**answer, "policies": table_of(policies)}


def _traffic(args: argparse.Namespace, seed: int) -> Traffic:
    """A day where --hours says so, else a workload."""
    if args.hours is None:
        args.concurrency = None
        return Whole(workload_of(args, load_of(args)))
    for name in ("trace", "prompt_tokens", "arrivals"):
        if getattr(args, name) is not None:
            raise InputError(f"--hours draws its own traffic; it does not go with --{name.replace('_', '-')}")
    if args.qps is None:
        raise InputError("--hours needs the mean rate of the whole fleet: give --qps")
    return Windows(Day(args.workload or DEFAULT_WORKLOAD, args.qps, args.hours, args.swing, seed=seed))


def _watched(args: argparse.Namespace, fleet: Fleet, traffic: Traffic) -> tuple[FleetResult, pl.DataFrame | None]:
    if not args.watch_s:
        return traffic.through(fleet), None
    watch = Watch(_look_ns(args), tuple(group.name for group in fleet.groups))
    return traffic.through(replace(fleet, controls=[*fleet.controls, watch])), watch.frame()


def _look_ns(args: argparse.Namespace) -> int:
    if not 0 <= args.watch_s < 1e9:
        raise InputError(f"--watch-s {args.watch_s}: must be a number of seconds, 0 for never")
    return max(1, round(args.watch_s * SECOND))


def _in_cells(args: argparse.Namespace, fleet: Fleet, traffic: Traffic) -> FleetResult:
    if not isinstance(traffic, Windows):
        raise InputError("--cells divides a day of traffic: give --hours")
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}: must be at least 1")
    return through_the_day(Cells(fleet, traffic.day, args.cells), workers=args.workers)


def _apart(args: argparse.Namespace, fleet: Fleet, traffic: Traffic) -> tuple[FleetResult, list[Group]]:
    if not isinstance(traffic, Whole) or len(fleet.groups) > 1:
        raise InputError("--disaggregate takes a workload and one kind of replica: leave out --hours and --group")
    counts = args.disaggregate.split(":")
    if len(counts) != 2 or not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise InputError(f"--disaggregate {args.disaggregate}: write P:D, as 2:1")
    link = Link(args.link_gb_per_s * 1e9, round(args.link_latency_us * 1e3))
    names = ("prefill", "decode")
    groups = [replace(fleet.groups[0], name=name, replicas=int(count)) for name, count in zip(names, counts)]
    prefill, decode = (replace(fleet, groups=[group]) for group in groups)
    return Disaggregated(prefill, decode, link).run(traffic.work), groups


def _rungs(args: argparse.Namespace, groups: Sequence[Group]) -> list[Group]:
    if len(groups) > 1 or args.disaggregate or args.cells > 1:
        raise InputError(
            "--policy degrade moves the replicas of one group: leave out --group, --disaggregate and --cells"
        )
    model = groups[0].deployment.model
    plans = [strategy_named(spec, model) for spec in args.rung or RUNGS]
    return [replace(groups[0], name=plan.name, plan=plan) for plan in plans]


def _policies(args: argparse.Namespace, fleet: Fleet, rungs: Sequence[Group]) -> Policies:
    return Policies(
        replace(fleet, groups=[rungs[0]]),
        rungs,
        up=args.climb,
        down=args.descend,
        hold_ns=round(args.hold_s * SECOND),
        moving=args.moving,
        every_ns=SECOND,
        watch_ns=_look_ns(args) if args.watch_s else 10 * SECOND,
    )


def _scores(args: argparse.Namespace, model: ModelShape) -> dict[str, float]:
    """Assumed quality by strategy."""
    found = {}
    for text in args.quality or ():
        spec, _, score = text.rpartition("=")
        try:
            found[strategy_named(spec, model).name] = float(score)
        except ValueError as cause:
            if isinstance(cause, InputError):
                raise
            raise InputError(f"--quality {text}: write SPEC=SCORE, as swift_kv=0.98") from None
    return found


def _write(
    args: argparse.Namespace,
    result: FleetResult,
    groups: Sequence[Group],
    figures: Mapping[str, object],
    watch: pl.DataFrame | None,
    policies: pl.DataFrame | None,
) -> None:
    """The files that were asked for."""
    if args.requests_out:
        if result.requests is None:
            raise InputError("--requests-out: a run of a million requests or more keeps sketches, not requests")
        write_parquet(args.requests_out, result.requests)
    if args.replicas_out:
        write_parquet(args.replicas_out, result.replicas)
    if args.html:
        from sim.study.fleet_report import fleet_page  # plotly is slow to load, and most runs draw nothing

        source = f"{result.workload}, seed {args.seed}"
        write_text(args.html, fleet_page(result, groups, figures, source=source, watch=watch, policies=policies))


def show(out: Console, result: FleetResult, figures: Mapping[str, object], policies: pl.DataFrame | None) -> None:
    """The run as tables."""
    names = ("requests", "completed", "refused", "shed", "unserved", "lost_and_retried", "makespan_s", "requests_per_s",
             "goodput_per_s", "slo_met_share", "output_tokens_per_s", "prefix_hit_share", "preemptions", "gpu_hours",
             "busy_share", "dollars_per_million_output_tokens", "skipped_share")  # fmt: skip
    rows = [(name.replace("_", " "), figures[name]) for name in names]
    rows.append(("mean quality", NOT_MEASURED if figures["mean_quality"] is None else figures["mean_quality"]))
    show_table(out, f"{result.workload}; router {result.router}", ("", ""), rows)
    if policies is not None:
        _show_policies(out, policies)
    columns = ("requests", "slo_met_share", "ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms", "e2e_p90_ms")
    for what, frame in (("class", result.classes), ("group", result.groups)):
        body = [(row[what], *(row[name] for name in columns)) for row in frame.iter_rows(named=True)]
        show_table(out, f"by {what}", ("", *(name.replace("_", " ") for name in columns)), body)


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
