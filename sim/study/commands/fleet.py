"""`fleet`: many replicas behind a router."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial

from sim.errors import InputError
from sim.run.cluster import Fleet
from sim.study.fleet_figures import check_scores
from sim.study.fleet_intervals import (
    DRAWS,
    MOST,
    SAMPLING,
    Run,
    draws_of,
    fleet_intervals,
    services_of,
    varied_fleets,
    with_intervals,
)
from sim.study.fleet_options import (
    add_changes,
    add_fleet,
    asked_of,
    engines_of,
    fleet_of,
    groups_of,
    scores_given,
)
from sim.study.fleet_policies import DEGRADE
from sim.study.fleet_runs import RUNGS, Ran, rungs_of, way_of
from sim.study.fleet_text import answer_of, show
from sim.study.fleet_traffic import Traffic, traffic_again, traffic_of
from sim.study.options import Parser, add_deployment, add_json, add_scheduler, add_slo, add_workload
from sim.study.terminal import console, progress, say_json, write_parquet, write_text

EXAMPLE = """\
example:
  python -m sim fleet --replicas 8 --router p2c --requests 20000 --qps 120
  python -m sim fleet --group good=4:dense --group fast=2:swift_kv --class paid=0.6:good --class free=0.4:fast --qps 90
  python -m sim fleet --disaggregate 2:1 --strategy swift_kv --qps 40
  python -m sim fleet --replicas 4 --hours 24 --qps 60 --autoscale load=30 --mtbf-h 100 --html out/fleet.html
  python -m sim fleet --policy degrade --rung dense --rung swift_kv --hours 2 --qps 110 --html out/degrade.html
"""
LOOKS, LEAST_LOOK_S = 1000, 0.1  # of a page's picture over time


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
    output.add_argument(
        "--draws", type=int, metavar="N", help="runs of each source of doubt, for 90 %% intervals; 0: no intervals "
        f"({DRAWS}; 0 from {MOST:,} requests on)",
    )  # fmt: skip
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
    group.add_argument(
        "--watch-s",
        type=float,
        default=0.0,
        metavar="S",
        help="look at the fleet so often, for --html; default: a thousand times",
    )


def run(args: argparse.Namespace) -> int:
    """Run, and say what happened."""
    degrade = args.policy == DEGRADE
    if degrade:
        args.policy = None  # the engine's own
    traffic, groups = traffic_of(args), groups_of(args)
    fleet = fleet_of(args, groups)
    if args.html and not args.watch_s:
        args.watch_s = round(max(LEAST_LOOK_S, traffic.lasts_s / LOOKS), 2)
    given = scores_given(args, groups[0].deployment.model)
    check_scores(rungs_of(args, groups) if degrade else groups, given)
    way = way_of(args, degrade=degrade, given=given)
    services, draws = services_of(fleet, engines_of(args, groups)), draws_of(args, traffic)
    runs = _other_runs(args, fleet, traffic, varied_fleets(fleet, services, draws))
    with progress(quiet=args.json) as bar:
        if bar:
            bar("simulating", 0, None)
        ran = way(fleet, traffic)
        tell = partial(bar, "drawing kernels, engine and traffic") if bar else None
        ran = with_intervals(ran, fleet_intervals(ran, way, runs, services, tell=tell), draws)
    _write(args, ran)
    if args.json:
        say_json(answer_of(ran))
    else:
        show(console(), ran)
    return 0


def _other_runs(
    args: argparse.Namespace, fleet: Fleet, traffic: Traffic, varied: Mapping[str, Sequence[Fleet]]
) -> dict[str, list[Run]]:
    """The runs that show, by source, how well the fleet's figures are known; of the traffic, seeds that follow."""
    runs = {source: [(one, traffic) for one in fleets] for source, fleets in varied.items()}
    seeds = (argparse.Namespace(**{**vars(args), "seed": args.seed + 1 + n}) for n in range(len(varied["kernels"])))
    runs[SAMPLING] = [(fleet_of(other, fleet.groups), traffic_again(other, traffic)) for other in seeds]
    return runs


def _write(args: argparse.Namespace, ran: Ran) -> None:
    """The files that were asked for."""
    if args.requests_out:
        if ran.result.requests is None:
            raise InputError("--requests-out: a run of a million requests or more keeps sketches, not requests")
        write_parquet(args.requests_out, ran.result.requests)
    if args.replicas_out:
        write_parquet(args.replicas_out, ran.result.replicas)
    if args.html:
        from sim.study.fleet_report import fleet_page  # plotly is slow to load, and most runs draw nothing

        write_text(args.html, fleet_page(ran, asked_of(args)))
