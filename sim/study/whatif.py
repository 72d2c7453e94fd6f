"""What if: the capacity of every strategy at several strengths under many SLOs, for the report's sliders.

One run tells which requests met any pair of limits, so a plan is run at a ladder of rates and all SLOs are read from
the same runs. Between two rates the share of requests that meet the limits is taken to fall on a straight line; around
the end of the ladder, and around the study's own SLO, the rungs lie within the search's tolerance.

The ladder is of one seed, the study's capacity of several. So a strategy's rates are stretched by what lies between the
two under the study's own SLO: there, sliders and table say the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sim.run.metrics import Slo
from sim.run.replica import L_NS
from sim.study.pool import Job
from sim.study.quality import quality_of
from sim.study.service import Service
from sim.study.strength import variants
from sim.study.sustained import stands_still

TTFT_MS = (100.0, 200.0, 300.0, 500.0, 1000.0, 2000.0, 5000.0)
TPOT_MS = (10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0)
RATES = (0.05, 0.1, *(k / 10 for k in range(2, 10)), *(1.12**k for k in range(20)))  # of the dense capacity
TOLERANCE = 0.02
Turned = tuple[Service, str, float]  # what serves a plan, the strategy that it turns, the strength
CAPACITIES = {
    "strategy": pl.String,
    "strength": pl.Float64,
    "plan": pl.String,
    "slo_ttft_ms": pl.Float64,
    "slo_tpot_ms": pl.Float64,
    "max_qps": pl.Float64,
    "quality": pl.Float64,
    "quality_how": pl.String,
}
LADDER = {
    "strategy": pl.String,
    "strength": pl.Float64,
    "plan": pl.String,
    "qps": pl.Float64,
    "ttft_ms": pl.Float64,
    "tpot_ms": pl.Float64,
    "extrapolated_share": pl.Float64,
}


@dataclass(frozen=True)
class Limits:
    """The SLOs of the grid: every TTFT with every TPOT, for one share of the requests."""

    own: Slo
    ttft_ms: tuple[float, ...]
    tpot_ms: tuple[float, ...]

    @property
    def share(self) -> float:
        """Share of all requests that must meet both limits."""
        return self.own.percentile / 100

    @property
    def home(self) -> tuple[int, int]:
        """Where the study's own SLO stands."""
        return self.ttft_ms.index(self.own.ttft_ms), self.tpot_ms.index(self.own.tpot_ms)


@dataclass(frozen=True)
class Rung:
    """One run of the ladder: the rate, whether the queue stood still, and the share that met each SLO, [T, P]."""

    qps: float
    stable: bool
    met: NDArray[np.float64]
    ttft_ms: float
    tpot_ms: float
    extrapolated_share: float

    def holds(self, limits: Limits, at: tuple[int, int]) -> bool:
        """Whether this rate is sustained under the SLO at a place of the grid."""
        return self.stable and self.met[at] >= limits.share


def limits_for(slo: Slo) -> Limits:
    """The grid's limits, the study's own among them."""
    return Limits(slo, tuple(sorted({*TTFT_MS, slo.ttft_ms})), tuple(sorted({*TPOT_MS, slo.tpot_ms})))


def what_if(
    service: Service, strategy: str, strength: float, limits: Limits, base_qps: float, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One plan's part of the frames `whatif` (capacity of a replica by SLO) and `ladder` (latencies by rate).

    Latencies are those that the SLO's share of the requests stays within. A capacity is null where not even the lowest
    rate meets the SLO. `base_qps` is the scale of the ladder's rates.
    """
    rungs = ladder(lambda qps: _rung(service, qps, seed, limits), limits, base_qps)
    who = {"strategy": strategy, "strength": strength, "plan": service.plan.name}
    quality = quality_of(service.plan, service.deployment.model.name)
    known = who | {"quality": quality.score if quality else None, "quality_how": quality.how if quality else None}
    cells = [
        known | {"slo_ttft_ms": ttft, "slo_tpot_ms": tpot, "max_qps": capacity_at(rungs, limits, (i, j))}
        for i, ttft in enumerate(limits.ttft_ms)
        for j, tpot in enumerate(limits.tpot_ms)
    ]
    steps = [who | {name: getattr(rung, name) for name in list(LADDER)[3:]} for rung in rungs]
    return pl.DataFrame(cells, schema=CAPACITIES), pl.DataFrame(steps, schema=LADDER)


def ladder(run: Callable[[float], Rung], limits: Limits, base_qps: float) -> list[Rung]:
    """Runs by rate: upwards until not even the loosest SLO holds, then halved at that end and at the study's SLO."""
    last = (len(limits.ttft_ms) - 1, len(limits.tpot_ms) - 1)
    rungs: list[Rung] = []
    for share in RATES:
        rungs.append(run(share * base_qps))
        if not rungs[-1].holds(limits, last):
            break
    for at in (last, limits.home):
        fails = first_failure(rungs, limits, at)
        while 0 < fails < len(rungs) and rungs[fails].qps > (1 + TOLERANCE) * rungs[fails - 1].qps:
            rungs.insert(fails, run(math.sqrt(rungs[fails - 1].qps * rungs[fails].qps)))
            fails = first_failure(rungs, limits, at)
    return rungs


def first_failure(rungs: Sequence[Rung], limits: Limits, at: tuple[int, int]) -> int:
    """The first rung whose rate is not sustained; their number where all are."""
    return next((i for i, rung in enumerate(rungs) if not rung.holds(limits, at)), len(rungs))


def capacity_at(rungs: Sequence[Rung], limits: Limits, at: tuple[int, int]) -> float | None:
    """The largest sustained rate under an SLO; None where the lowest rung fails already.

    Where requests pile up at the first rung that fails, it is the last one that works. Else the share that meets the
    limits falls on a straight line between the two, and the answer is where it passes the SLO's.
    """
    fails = first_failure(rungs, limits, at)
    if fails == 0:
        return None
    good = rungs[fails - 1]
    if fails == len(rungs) or not rungs[fails].stable:
        return good.qps
    spare, missing = good.met[at] - limits.share, limits.share - rungs[fails].met[at]
    return float(good.qps + (rungs[fails].qps - good.qps) * spare / (spare + missing))


def _rung(service: Service, qps: float, seed: int, limits: Limits) -> Rung:
    result = service.at(qps, seed)
    ttft, tpot = result.latency_ms["ttft"], result.latency_ms["tpot"]
    slos = [[replace(limits.own, ttft_ms=t, tpot_ms=p) for p in limits.tpot_ms] for t in limits.ttft_ms]
    return Rung(
        qps,
        stands_still(result),
        np.array([[slo.met(ttft, tpot).mean() for slo in row] for row in slos]),
        float(np.nanpercentile(ttft, limits.own.percentile)),
        float(np.nanpercentile(tpot, limits.own.percentile)),
        float(result.work["outside_ns"] / max(1, result.logged.lines[:, L_NS].sum())),
    )


def empty_frames() -> dict[str, pl.DataFrame]:
    """The two frames of a study that did not ask what if."""
    return {"whatif": pl.DataFrame(schema=CAPACITIES), "ladder": pl.DataFrame(schema=LADDER)}


def what_if_plans(services: Sequence[Service]) -> list[Turned]:
    """The grid's plans: every strategy at every strength that it has."""
    return [
        (replace(s, plan=plan), s.plan.name, strength)
        for s in services
        for strength, plan in variants(s.plan, s.deployment.model).items()
    ]


def what_if_jobs(plans: Sequence[Turned], slo: Slo, base_qps: float, seed: int) -> list[tuple[str, Job]]:
    """The grid as jobs, one per plan, each of which returns its part of the two frames."""
    limits = limits_for(slo)
    return [(f"what if {p[0].plan.name}", (what_if, (*p, limits, base_qps, seed))) for p in plans]


def what_if_frames(answers: Sequence[tuple[pl.DataFrame, pl.DataFrame]]) -> dict[str, pl.DataFrame]:
    """The frames `whatif` and `ladder`, from the answers of the jobs."""
    parts = [empty_frames().values(), *answers]
    return {name: pl.concat(frames) for name, frames in zip(("whatif", "ladder"), zip(*parts))}


def anchored(
    frames: Mapping[str, pl.DataFrame], found: Mapping[str, float | None], slo: Slo
) -> dict[str, pl.DataFrame]:
    """The frames with every strategy's rates on the scale of its capacity, [replica]; None for one that has none.

    Under the study's SLO, at the strength that was asked for, the grid then holds that very capacity. All other limits
    and strengths of the strategy, and the rates of its latencies, are stretched by the same factor.
    """
    own = (pl.col("slo_ttft_ms") == slo.ttft_ms) & (pl.col("slo_tpot_ms") == slo.tpot_ms) & (pl.col("strength") == 1)
    seen = {row["strategy"]: row["max_qps"] for row in frames["whatif"].filter(own).iter_rows(named=True)}
    by = {name: qps / seen[name] if qps and seen[name] else 1.0 for name, qps in found.items() if name in seen}
    to_scale, to_table = (
        pl.col("strategy").replace_strict(values, default=None, return_dtype=pl.Float64) for values in (by, found)
    )
    stretched = pl.when(own).then(to_table).otherwise(pl.col("max_qps") * to_scale)
    return {
        "whatif": frames["whatif"].with_columns(stretched.alias("max_qps")),
        "ladder": frames["ladder"].with_columns(pl.col("qps") * to_scale),
    }
