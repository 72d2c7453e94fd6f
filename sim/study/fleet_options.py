"""The options of `fleet`, and what they mean: groups, classes, tiers, whoever launches and drains replicas."""

import argparse
from collections.abc import Sequence

from sim.cost.profiles import EngineProfile
from sim.errors import InputError
from sim.plans.model import ModelShape
from sim.plans.spec import strategy_named
from sim.run.autoscale import Autoscaler
from sim.run.cluster import Control, Fleet, Group, RequestClass, Tier
from sim.run.dispatch import ROUTERS
from sim.run.failures import Outage, Outages
from sim.run.metrics import Slo
from sim.study.options import Parser
from sim.study.service import kernel_times
from sim.study.settings import deployment_of, engine_of, oversized_of, scheduler_of, seed_of, slo_of, source_of

SECOND = 1_000_000_000
ASKED: dict[str, tuple[str, ...]] = {  # switches, and the options that then matter
    "group": (), "classes": ("class_slo", "spill"), "shed": (), "disaggregate": ("link_gb_per_s", "link_latency_us"),
    "autoscale": ("scale_min", "scale_max", "scale_every_s", "startup_s"), "fail": ("startup_s", "notice_s"),
    "drain": ("startup_s",), "mtbf_h": ("repair_s", "startup_s", "notice_s"), "hours": ("qps", "swing", "cells"),
    "rung": ("climb", "descend", "hold_s", "moving"), "seed": (), "gpu_price": (), "quality": (), "qps": (),
}  # fmt: skip


def add_fleet(parser: Parser) -> None:
    """Who serves whom."""
    group = parser.add_argument_group("fleet")
    group.add_argument("--replicas", type=int, default=4, metavar="N", help="of one kind (4); or name --group instead")
    group.add_argument("--strategy", default="dense", metavar="SPEC", help="of --replicas: name:key=value,…")
    group.add_argument("--group", action="append", metavar="NAME=N[xGPU][:SPEC]", help="repeatable: replicas of a kind")
    group.add_argument(
        "--class", action="append", dest="classes", metavar="NAME=SHARE[:GROUP+GROUP>GROUP]",
        help="repeatable: share of the sum of shares, groups that serve it, and behind > those it spills over to",
    )  # fmt: skip
    group.add_argument("--class-slo", action="append", metavar="NAME=TTFT/TPOT", help="repeatable: limits in ms")
    group.add_argument("--router", default="least", help=f"{', '.join(ROUTERS)} (least: fewest outstanding requests)")
    group.add_argument("--kv-weight", type=float, default=1.0, metavar="W", help="of router kv: prefill against memory")
    group.add_argument(
        "--spill", type=int, metavar="N", help="outstanding requests of a replica at which a class spills"
    )
    group.add_argument("--shed", type=int, metavar="N", help="the same, at which requests are turned away")


def add_changes(parser: Parser) -> None:
    """Who comes and goes."""
    group = parser.add_argument_group("replicas that come and go")
    group.add_argument("--autoscale", metavar="SIGNAL=TARGET", help="load, queue or kv per replica, as load=30")
    group.add_argument("--scale-min", type=int, default=1, metavar="N")
    group.add_argument("--scale-max", type=int, default=64, metavar="N")
    group.add_argument("--scale-every-s", type=float, default=15.0, metavar="S")
    group.add_argument(
        "--startup-s", type=float, default=120.0, metavar="S", help="from launch to the first request (120)"
    )
    group.add_argument("--fail", action="append", metavar="AT_S:REPLICA[:DOWN_S]", help="repeatable: lose a replica")
    group.add_argument("--drain", action="append", metavar="AT_S:REPLICA[:DOWN_S]", help="repeatable: empty it first")
    group.add_argument("--mtbf-h", type=float, metavar="HOURS", help="between failures of one replica, on average")
    group.add_argument(
        "--repair-s", type=float, default=300.0, metavar="S", help="before a failed replica starts again"
    )
    group.add_argument("--notice-s", type=float, default=1.0, metavar="S", help="before its requests are sent again")


def fleet_of(args: argparse.Namespace, groups: Sequence[Group]) -> Fleet:
    """The fleet that the options make of its groups."""
    seed = seed_of(args)
    classes, controls = classes_of(args, slo_of(args)), controls_of(args, groups, seed)
    return Fleet(groups, classes, args.router, args.kv_weight, controls, oversized_of(args), seed)


def engines_of(args: argparse.Namespace, groups: Sequence[Group]) -> list[EngineProfile]:
    """The engine that each group runs on."""
    return [engine_of(_on(args, group.deployment.gpu.name)) for group in groups]


def groups_of(args: argparse.Namespace) -> list[Group]:
    """The groups that the options name; one called "all" where they name none."""
    if not args.group:
        return [_group("all", args.replicas, args, args.strategy)]
    found = []
    for text in args.group:
        name, _, rest = text.partition("=")
        size, _, spec = rest.partition(":")
        count, _, gpu = size.partition("x")
        if not name or not count.isdecimal():
            raise InputError(f"--group {text}: write NAME=N, NAME=N:SPEC or NAME=NxGPU:SPEC, as fast=4xh100:swift_kv")
        found.append(_group(name, int(count), _on(args, gpu or args.gpu), spec or args.strategy))
    return found


def _on(args: argparse.Namespace, gpu: str) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), "gpu": gpu})


def _group(name: str, replicas: int, args: argparse.Namespace, spec: str) -> Group:
    """Replicas as the options describe them, on the engine's own scheduler and kernel times."""
    on = deployment_of(args)
    times = engine_of(args).scaled(kernel_times(on.gpu.name, source_of(args, on)))
    return Group(name, on, strategy_named(spec, on.model), replicas, scheduler_of(args), times, args.max_context)


def classes_of(args: argparse.Namespace, slo: Slo) -> list[RequestClass]:
    """The classes that the options name; one called "all" where they name none."""
    limits = _class_slos(args, slo)
    found = [] if args.classes else [RequestClass(slo=slo, tiers=_tiers([()], args))]
    for text in args.classes or ():
        name, _, rest = text.partition("=")
        share, _, where = rest.partition(":")
        tiers = [tuple(filter(None, tier.split("+"))) for tier in where.split(">")]
        if not name or (len(tiers) > 1 and not all(tiers)):
            raise InputError(f"--class {text}: write NAME=SHARE or NAME=SHARE:GROUP+GROUP>GROUP, as chat=0.7:good>fast")
        number = _number(share, f"--class {text}: the share")
        found.append(RequestClass(name, number, limits.pop(name, slo), _tiers(tiers, args)))
    if limits:
        raise InputError(f"--class-slo names class {next(iter(limits))!r}, which no --class declares")
    if not sum(kind.share for kind in found) > 0:
        raise InputError("--class shares add up to nothing; give at least one a positive share")
    return found


def _tiers(tiers: Sequence[Sequence[str]], args: argparse.Namespace) -> list[Tier]:
    if len(tiers) > 1 and args.spill is None:
        raise InputError("a class with > spills over from one tier to the next; say at what load with --spill N")
    for name in ("spill", "shed"):
        limit = getattr(args, name)
        if limit is not None and limit < 1:
            raise InputError(f"--{name} {limit}: must be at least 1 outstanding request")
    limits = [args.spill] * (len(tiers) - 1) + [args.shed]
    return [Tier(groups, limit) for groups, limit in zip(tiers, limits)]


def _class_slos(args: argparse.Namespace, slo: Slo) -> dict[str, Slo]:
    found = {}
    for text in args.class_slo or ():
        name, _, rest = text.partition("=")
        ttft, slash, tpot = rest.partition("/")
        if not name or not slash:
            raise InputError(f"--class-slo {text}: write NAME=TTFT/TPOT in milliseconds, as chat=500/30")
        found[name] = Slo(_number(ttft, f"--class-slo {text}"), _number(tpot, f"--class-slo {text}"), slo.percentile)
    return found


def controls_of(args: argparse.Namespace, groups: Sequence[Group], seed: int) -> list[Control]:
    """Whoever launches, drains or loses replicas, as the options say."""
    found: list[Control] = []
    startup_ns = _ns(args.startup_s, "--startup-s")
    if args.autoscale is not None:
        signal, _, target = args.autoscale.partition("=")
        if len(groups) > 1:
            raise InputError("--autoscale scales one group; leave out --group")
        found.append(
            Autoscaler(
                target=_number(target, f"--autoscale {args.autoscale}: the target"),
                signal=signal,
                most=args.scale_max,
                least=args.scale_min,
                every_ns=_ns(args.scale_every_s, "--scale-every-s"),
                startup_ns=startup_ns,
            )
        )
    planned = [_outage(text, drain=False) for text in args.fail or ()]
    planned += [_outage(text, drain=True) for text in args.drain or ()]
    if planned or args.mtbf_h is not None:
        found.append(
            Outages(
                planned,
                mtbf_ns=float("inf") if args.mtbf_h is None else args.mtbf_h * 3600 * SECOND,
                down_ns=_ns(args.repair_s, "--repair-s"),
                startup_ns=startup_ns,
                notice_ns=_ns(args.notice_s, "--notice-s"),
                seed=seed,
            )
        )
    return found


def _outage(text: str, *, drain: bool) -> Outage:
    what = f"--{'drain' if drain else 'fail'} {text}"
    parts = text.split(":")
    if len(parts) not in (2, 3) or not parts[1].isdecimal():
        raise InputError(f"{what}: write AT_S:REPLICA or AT_S:REPLICA:DOWN_S, as 60:0:300")
    down_ns = _ns(_number(parts[2], what), what) if len(parts) == 3 else None
    return Outage(_ns(_number(parts[0], what), what), int(parts[1]), down_ns, drain)


def asked_of(args: argparse.Namespace) -> dict[str, object]:
    """What was asked for beyond a number of replicas, by option: for a report's provenance."""
    names = [name for switch, more in ASKED.items() if getattr(args, switch) is not None for name in (switch, *more)]
    return {name.replace("_", " "): value for name in names if (value := getattr(args, name)) is not None}


def scores_given(args: argparse.Namespace, model: ModelShape) -> dict[str, float]:
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


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{what} is {text!r}, not a number") from None
    if not 0 <= value < float("inf"):
        raise InputError(f"{what} is {text}; it must be a number, 0 or more")
    return value


def _ns(seconds: float, what: str) -> int:
    if not 0 <= seconds < 1e9:
        raise InputError(f"{what}: {seconds} is no number of seconds")
    return round(seconds * SECOND)
