"""One strategy's part of a study: functions of a service that return plain rows, so that they can run elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sim.errors import CapacityError
from sim.plans.plan import SkipPlan
from sim.run.metrics import Slo
from sim.run.replica import L_USED
from sim.run.result import Result
from sim.study.capacity import Capacity, capacity_of
from sim.study.intervals import Varied, columns, varied
from sim.study.profile import Profile, profile_of
from sim.study.run_intervals import figures_of, run_intervals
from sim.study.service import Service
from sim.study.sustained import sustains

CURVES = ("ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms", "output_tokens_per_s")
CURVE_S, CURVE_REQUESTS = 60, 200  # seconds of traffic that the draws of a latency curve replay, and least requests
REALISED = ("flops_saved", "weight_bytes_saved", "kv_read_bytes_saved", "kv_capacity_saved")


@dataclass(frozen=True)
class Assessment:
    """What is known of a strategy: its capacity or why it has none, and two runs of its requests."""

    plan: SkipPlan
    capacity: Capacity | None
    why_not: str
    full: Profile  # all requests at once: the batch is as full as it gets
    row: Mapping[str, float]  # figures of the run at its capacity; at 1 request per second where it has none


def assess(service: Service, slo: Slo, seeds: Sequence[int], tolerance: float, draws: int) -> Assessment:
    """The assessment of one strategy. Raises InputError for what cannot run at all."""
    capacity, why_not = None, ""
    try:
        capacity = capacity_of(service, slo, seeds=seeds, tolerance=tolerance, draws=draws)
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


def latencies(service: Service, slo: Slo, rates: Sequence[float], seed: int, draws: int) -> list[dict[str, object]]:
    """One row per rate: strategy, qps, whether the SLO is met, percentiles of TTFT and TPOT with their intervals."""
    drawn = varied(service, draws=fewer(draws))
    rows = []
    for qps in rates:
        result = service.at(qps, seed)
        row = {"strategy": result.plan.name, "qps": qps, "within_slo": sustains(result, slo)}
        row |= with_intervals(service, result, slo, drawn, CURVES, seed=seed)
        rows.append(row | {"kv_peak_share": float(result.logged.lines[:, L_USED].max()) / result.knobs.total_units})
    return rows


def fewer(draws: int) -> int:
    """Draws of figures that a study has many of: half as many as a capacity's, and no fewer than an interval needs."""
    return max(2, draws // 2) if draws else 0


def with_intervals(
    service: Service, result: Result, slo: Slo, drawn: Varied, names: Sequence[str], *, seed: int = 0
) -> dict[str, object]:
    """The named figures of a run and their intervals, as a frame has them."""
    values = figures_of(result, slo)
    most = max(CURVE_REQUESTS, round(CURVE_S * len(result.workload) / result.makespan_s))
    found = run_intervals(service, result, slo, drawn, seed=seed, most=most)
    row: dict[str, object] = {}
    for name in names:
        row |= {name: values.get(name)} | columns(name, found.get(name))
    return row
