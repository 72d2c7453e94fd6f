"""A fleet's figures with 90 % intervals: the same fleet at other kernel times, on another engine, under other traffic.

Kernels and engine are drawn as `sim.study.intervals` draws them, and are the same for all groups: what is not known of
a kernel is not known of it on any replica. Traffic is drawn with other seeds, and with it all that is left to chance:
the router's draws, random failures. Everything is run again in full, since a fleet that scales, fails or degrades has a
story that no part of it tells.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import polars as pl

from sim.cost.profiles import EngineProfile
from sim.run.cluster import Fleet, Group
from sim.run.uncertainty import Interval
from sim.study.chance import STATISTICS, Figures
from sim.study.fleet_runs import Ran, Way
from sim.study.fleet_traffic import Traffic
from sim.study.intervals import DRAWN, SERVER, columns, scatter_of, students, varied
from sim.study.loads import LengthLoad
from sim.study.run_intervals import BOUNDED, interval_of
from sim.study.service import Service

DRAWS = 4  # of each source: fourteen runs in all
MOST = 20_000  # requests below which intervals come unasked
RATES = ("requests_per_s", "goodput_per_s", "slo_met_share", "output_tokens_per_s", "mean_gpus", "gpu_hours", "dollars",
         "dollars_per_million_output_tokens")  # fmt: skip
LATENCIES = ("ttft", "tpot", "e2e")
POLICIES = ("slo_met_share", "goodput_per_s", "ttft_p90_ms", "tpot_p90_ms")
SAMPLING = "sampling"
Run = tuple[Fleet, Traffic]
NOBODY = LengthLoad(1, 1, 1)  # how a service is drawn does not depend on its requests


def services_of(fleet: Fleet, engines: Sequence[EngineProfile]) -> list[Service]:
    """A service for each group of a fleet; `engines` are the groups'."""
    return [
        Service(NOBODY, g.deployment, g.plan, g.config, max_context=g.max_context, engine=engine, kernels=g.times)
        for g, engine in zip(fleet.groups, engines)
    ]


def varied_fleets(fleet: Fleet, services: Sequence[Service], draws: int) -> dict[str, list[Fleet]]:
    """The fleet as it may really be, by source; raises InputError as `varied` does."""
    drawn = [varied(service, draws=draws) for service in services]
    found: dict[str, list[Fleet]] = {}
    for source in (*DRAWN, SERVER):
        fleets = zip(*(one[source] for one in drawn))
        found[source] = [replace(fleet, groups=list(map(_on, fleet.groups, services))) for services in fleets]
    return found


def _on(group: Group, service: Service) -> Group:
    return replace(group, deployment=service.deployment, times=service.times)


def draws_of(args: argparse.Namespace, traffic: Traffic) -> int:
    """How often each source of doubt is drawn: as asked, else a few times where there are not too many requests."""
    if args.draws is None:
        return DRAWS if traffic.expected < MOST else 0
    return int(args.draws)


def fleet_intervals(
    ran: Ran,
    way: Way,
    runs: Mapping[str, Sequence[Run]],
    services: Sequence[Service],
    *,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Interval]:
    """The interval of every figure of `numbers_of`; empty where there are no `runs`, which are by source of doubt.

    `tell` hears of (runs done, runs).
    """
    of, done = sum(map(len, runs.values())), 0
    moved: dict[str, list[Figures]] = {source: [] for source in runs}
    for source, several in runs.items():
        for fleet, traffic in several:
            moved[source].append(numbers_of(way(fleet, traffic)))
            done += 1
            if tell:
                tell(done, of)
    return {name: _interval(name, value, moved, services) for name, value in numbers_of(ran).items() if of}


def _interval(name: str, value: float, moved: Mapping[str, Sequence[Figures]], services: Sequence[Service]) -> Interval:
    plain = name.rpartition(" ")[2]
    values = {source: [one[name] for one in several] for source, several in moved.items()}
    return interval_of(
        plain,
        value,
        centre=value,
        moved=values,
        chance=_chance([value, *values[SAMPLING]], bounded=plain in BOUNDED),
        residual=max(scatter_of(s).residual(plain, s.deployment.gpu.name) for s in services),
    )


def numbers_of(ran: Ran) -> Figures:
    """Every figure that gets an interval: "goodput_per_s", "ttft_p90_ms", of a policy "degrade goodput_per_s"."""
    found = {name: _number(ran.figures[name]) for name in RATES}
    for metric in LATENCIES:
        found |= {f"{metric}_{q}_ms": _number(value) for q, value in _spread(ran, metric).items()}
    rows = () if ran.policies is None else ran.policies.iter_rows(named=True)
    return found | {f"{row['policy']} {name}": _number(row[name]) for row in rows for name in POLICIES}


def _chance(values: Sequence[float], *, bounded: bool) -> float:
    """Standard deviation of a figure, or of its logarithm, over runs of several seeds, widened for how few they are."""
    known = np.array([v for v in values if np.isfinite(v) and (bounded or v > 0)])
    return students(known.size) * float((known if bounded else np.log(known)).std(ddof=1)) if known.size > 1 else 0.0


def with_intervals(ran: Ran, found: Mapping[str, Interval], draws: int) -> Ran:
    """The run, its figures and policies with the ends of their intervals, and the number of draws."""
    figures = {**ran.figures, "draws": draws} | {f"{metric}_ms": dict(_spread(ran, metric)) for metric in LATENCIES}
    if not found:
        return replace(ran, figures=figures)
    for name in RATES:
        figures |= columns(name, found[name])
    for metric in LATENCIES:
        spread = _spread(ran, metric)
        ends = [columns(q, found[f"{metric}_{q}_ms"]) for q in spread]
        figures[f"{metric}_ms"] = {**spread, **dict(chain.from_iterable(one.items() for one in ends))}
    policies = None if ran.policies is None else _with_ends(ran.policies, found)
    return replace(ran, figures=figures, policies=policies)


def _with_ends(policies: pl.DataFrame, found: Mapping[str, Interval]) -> pl.DataFrame:
    """The policies' table with the ends of each interval behind the figure."""
    ends = {
        f"{name}_{end}": [getattr(found[f"{policy} {name}"], end) for policy in policies["policy"]]
        for name in POLICIES
        for end in ("low", "high")
    }
    wide = policies.with_columns(pl.Series(name, values, pl.Float64) for name, values in ends.items())
    ordered = (column for name in policies.columns for column in (name, f"{name}_low", f"{name}_high"))
    return wide.select(column for column in ordered if column in wide.columns)


def _spread(ran: Ran, metric: str) -> Mapping[str, object]:
    """Percentiles and mean of a latency, without what chance among its requests does, which is but a part of it."""
    spread = ran.figures[f"{metric}_ms"]
    assert isinstance(spread, Mapping)
    return {q: spread[q] for q in STATISTICS}


def _number(value: object) -> float:
    assert value is None or isinstance(value, (int, float))
    return float("nan") if value is None else float(value)
