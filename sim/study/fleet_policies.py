"""Degrading under load against standing still: a ladder of plans beside each of its rungs, on the same traffic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from sim.errors import InputError
from sim.run.cluster import Fleet, Group
from sim.run.degrade import Ladder
from sim.run.fleet_result import FleetResult
from sim.run.watch import Watch
from sim.study.fleet_figures import fleet_figures
from sim.study.fleet_traffic import Traffic

DEGRADE = "degrade"


@dataclass(frozen=True)
class Policies:
    """A fleet of one group, and the strategies of its ladder, the one for quiet times first."""

    fleet: Fleet
    rungs: Sequence[Group]
    up: float
    down: float
    hold_ns: int
    moving: float
    every_ns: int
    watch_ns: int

    def __post_init__(self) -> None:
        if len({group.plan.digest for group in self.rungs}) < len(self.rungs):
            raise InputError("two rungs of the ladder are one plan; give each --rung another strategy")

    def ladder(self) -> tuple[Fleet, Watch]:
        """The fleet that degrades: all replicas start on the first rung."""
        names = tuple(group.name for group in self.rungs)
        groups = [self.rungs[0], *(replace(group, replicas=0) for group in self.rungs[1:])]
        climb = Ladder(
            tuple(range(len(groups))),
            self.up,
            self.down,
            hold_ns=self.hold_ns,
            moving=self.moving,
            every_ns=self.every_ns,
        )
        watch = Watch(self.watch_ns, names)
        controls = [*self.fleet.controls, climb, watch]
        return replace(self.fleet, groups=groups, controls=controls), watch

    def compare(
        self, traffic: Traffic, *, given: Mapping[str, float], gpu_price: float | None
    ) -> tuple[FleetResult, pl.DataFrame, pl.DataFrame]:
        """The run that degrades, how it looked over time, and one row per policy."""
        rows = []
        for group in self.rungs:
            alone = traffic.through(replace(self.fleet, groups=[group]))
            rows.append(_row(group.plan.name, fleet_figures(alone, [group], given=given, gpu_price=gpu_price)))
        fleet, watch = self.ladder()
        result = traffic.through(fleet)
        rows.append(_row(DEGRADE, fleet_figures(result, self.rungs, given=given, gpu_price=gpu_price)))
        return result, watch.frame(), pl.DataFrame(rows, infer_schema_length=None)


def _row(policy: str, figures: Mapping[str, object]) -> dict[str, object]:
    """What a table says of a policy."""
    names = ("requests", "completed", "shed", "slo_met_share", "goodput_per_s", "mean_quality", "skipped_share",
             "gpu_hours", "dollars_per_million_output_tokens")  # fmt: skip
    row = {"policy": policy, **{name: figures[name] for name in names}}
    for metric in ("ttft", "tpot"):
        spread = figures[f"{metric}_ms"]
        assert isinstance(spread, dict)
        row |= {f"{metric}_{q}_ms": spread[q] for q in ("p50", "p90", "p99")}
    return row
