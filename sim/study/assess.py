"""One strategy's part of a study: functions of a service that return plain rows, so that they can run elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sim.errors import CapacityError
from sim.plans.plan import SkipPlan
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.study.capacity import Capacity, capacity_of, sustains
from sim.study.profile import Profile, profile_of
from sim.study.service import Service

REALISED = ("flops_saved", "weight_bytes_saved", "kv_read_bytes_saved", "kv_capacity_saved")


@dataclass(frozen=True)
class Assessment:
    """What is known of a strategy: its capacity or why it has none, and two runs of its requests."""

    plan: SkipPlan
    capacity: Capacity | None
    why_not: str
    full: Profile  # all requests at once: the batch is as full as it gets
    row: Mapping[str, float]  # figures of the run at its capacity; at 1 request per second where it has none


def assess(service: Service, slo: Slo, seeds: Sequence[int], tolerance: float) -> Assessment:
    """The assessment of one strategy. Raises InputError for what cannot run at all."""
    capacity, why_not = None, ""
    try:
        capacity = capacity_of(service, slo, seeds=seeds, tolerance=tolerance)
    except CapacityError as cause:
        why_not = str(cause)
    together = service.run(service.load.together(seeds[0]), seed=seeds[0])
    run = service.at(capacity.brackets[0].low, seeds[0]) if capacity else together
    return Assessment(service.plan, capacity, why_not, profile_of(together, service.times), figures(run))


def figures(result: Result) -> dict[str, float]:
    """What a study's table says of a run."""
    summary, realised = result.summary(), result.realised
    names = ("output_tokens_per_s", "busy_share", "kv_capacity_tokens", "kv_peak_share", "extrapolated_share")
    row = {name: float(summary[name]) for name in names}  # type: ignore[arg-type]
    return row | {name: realised[name] for name in REALISED}


def latencies(service: Service, slo: Slo, rates: Sequence[float], seed: int) -> list[dict[str, object]]:
    """One row per rate: strategy, qps, percentiles of TTFT and TPOT with their intervals, whether the SLO is met."""
    return [_latency_row(service.at(qps, seed), qps, slo) for qps in rates]


def _latency_row(result: Result, qps: float, slo: Slo) -> dict[str, object]:
    summary = result.summary()
    row: dict[str, object] = {"strategy": result.plan.name, "qps": qps, "within_slo": sustains(result, slo)}
    for metric in ("ttft", "tpot"):
        spread = summary[f"{metric}_ms"]
        assert isinstance(spread, dict)
        for quantile in ("p50", "p90"):
            for end in ("", "_low", "_high"):
                row[f"{metric}_{quantile}_ms{end}"] = spread.get(f"{quantile}{end}")
    row["output_tokens_per_s"] = summary["output_tokens_per_s"]
    row["kv_peak_share"] = summary["kv_peak_share"]
    return row
