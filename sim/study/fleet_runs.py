"""The ways to run a fleet: as it is, watched, in cells, prefill and decode apart, up and down a ladder of plans."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import polars as pl

from sim.errors import InputError
from sim.plans.spec import strategy_named
from sim.run.cells import Cells
from sim.run.cluster import Fleet, Group
from sim.run.disaggregate import Disaggregated, Link
from sim.run.fleet_result import FleetResult
from sim.run.watch import Watch
from sim.study.fleet_day import through_the_day
from sim.study.fleet_figures import fleet_figures
from sim.study.fleet_options import SECOND
from sim.study.fleet_policies import Policies
from sim.study.fleet_traffic import Traffic, Whole, Windows

RUNGS = ("dense", "swift_kv", "swift_kv+skip_decode:speedup=2")


@dataclass(frozen=True)
class Ran:
    """What a fleet did, its groups as the result numbers them, how it looked over time, one row per policy, figures."""

    result: FleetResult
    groups: Sequence[Group]
    watch: pl.DataFrame | None = None
    policies: pl.DataFrame | None = None
    figures: Mapping[str, object] = field(default_factory=dict)


Way = Callable[[Fleet, Traffic], Ran]


def way_of(args: argparse.Namespace, *, degrade: bool, given: Mapping[str, float]) -> Way:
    """How the options run a fleet; `given` are assumed qualities by strategy."""
    if degrade:
        how = partial(_up_and_down, args, given)
    elif args.disaggregate:
        how = partial(_apart, args)
    else:
        how = partial(_in_cells if args.cells > 1 else _watched, args)

    def way(fleet: Fleet, traffic: Traffic) -> Ran:
        ran = how(fleet, traffic)
        return replace(ran, figures=fleet_figures(ran.result, ran.groups, given=given, gpu_price=args.gpu_price))

    return way


def rungs_of(args: argparse.Namespace, groups: Sequence[Group]) -> list[Group]:
    """The ladder's groups, the plan for quiet times first; raises InputError for more than one kind of replica."""
    if len(groups) > 1 or args.disaggregate or args.cells > 1:
        raise InputError(
            "--policy degrade moves the replicas of one group: leave out --group, --disaggregate and --cells"
        )
    model = groups[0].deployment.model
    plans = [strategy_named(spec, model) for spec in args.rung or RUNGS]
    return [replace(groups[0], name=plan.name, plan=plan) for plan in plans]


def _watched(args: argparse.Namespace, fleet: Fleet, traffic: Traffic) -> Ran:
    if not args.watch_s:
        return Ran(traffic.through(fleet), fleet.groups)
    watch = Watch(_look_ns(args), tuple(group.name for group in fleet.groups))
    result = traffic.through(replace(fleet, controls=[*fleet.controls, watch]))
    return Ran(result, fleet.groups, watch.frame())


def _look_ns(args: argparse.Namespace) -> int:
    if not 0 <= args.watch_s < 1e9:
        raise InputError(f"--watch-s {args.watch_s}: must be a number of seconds, 0 for never")
    return max(1, round(args.watch_s * SECOND))


def _in_cells(args: argparse.Namespace, fleet: Fleet, traffic: Traffic) -> Ran:
    if not isinstance(traffic, Windows):
        raise InputError("--cells divides a day of traffic: give --hours")
    if args.workers < 1:
        raise InputError(f"--workers {args.workers}: must be at least 1")
    return Ran(through_the_day(Cells(fleet, traffic.day, args.cells), workers=args.workers), fleet.groups)


def _apart(args: argparse.Namespace, fleet: Fleet, traffic: Traffic) -> Ran:
    if not isinstance(traffic, Whole) or len(fleet.groups) > 1:
        raise InputError("--disaggregate takes a workload and one kind of replica: leave out --hours and --group")
    counts = args.disaggregate.split(":")
    if len(counts) != 2 or not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise InputError(f"--disaggregate {args.disaggregate}: write P:D, as 2:1")
    link = Link(args.link_gb_per_s * 1e9, round(args.link_latency_us * 1e3))
    names = ("prefill", "decode")
    groups = [replace(fleet.groups[0], name=name, replicas=int(count)) for name, count in zip(names, counts)]
    prefill, decode = (replace(fleet, groups=[group]) for group in groups)
    return Ran(Disaggregated(prefill, decode, link).run(traffic.work), groups)


def _up_and_down(args: argparse.Namespace, given: Mapping[str, float], fleet: Fleet, traffic: Traffic) -> Ran:
    rungs = rungs_of(args, fleet.groups)
    study = Policies(
        replace(fleet, groups=[rungs[0]]),
        rungs,
        up=args.climb,
        down=args.descend,
        hold_ns=round(args.hold_s * SECOND),
        moving=args.moving,
        every_ns=SECOND,
        watch_ns=_look_ns(args) if args.watch_s else 10 * SECOND,
    )
    result, watch, policies = study.compare(traffic, given=given, gpu_price=args.gpu_price)
    return Ran(result, rungs, watch, policies)
