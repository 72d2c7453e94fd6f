"""What the simulator says of a measured point, in the point's own metrics."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.engines import Setting, setting_of
from calibration.points import Point
from calibration.traffic import closed, traffic_of
from sim.cost.profiles import EngineProfile
from sim.run.result import Result
from sim.run.simulate import Simulation
from sim.workload.workload import Workload

_STATISTIC = re.compile(r"(\w+?)_(mean|p\d+(?:\.\d+)?)_ms")
SLACK_TOKENS = 16
STATIC = {"prefill": "ttft", "decode_step": "tpot"}  # a static batch is prefilled at once, then decodes in step


@dataclass(frozen=True)
class Prediction:
    """Metrics of a point as simulated, all GPUs together, and what else the run tells.

    `simulation` is the run of one replica; `parts` are shares of busy time by part of a step, `outside` the share
    priced outside the measured domain.
    """

    simulation: Simulation
    metrics: Mapping[str, float]
    requests_per_s: float
    parts: Mapping[str, float]
    outside: float


def predict(
    point: Point,
    profile: EngineProfile | None = None,
    *,
    seed: int = 0,
    most: int | None = None,
    workload: Workload | None = None,
) -> Prediction:
    """One simulated run of the point; `most` limits its requests, `workload` replaces them by recorded ones.

    Raises InputError for a point that states too little, CapacityError where the weights do not fit.
    """
    setting = setting_of(point, profile)
    simulation, result = run_point(point, setting, seed=seed, most=most, workload=workload)
    return Prediction(
        simulation=simulation,
        metrics=metrics_of(result, tuple(wanted(point)), setting.replicas),
        requests_per_s=result.makespan_s and len(result.requests) / result.makespan_s * setting.replicas,
        parts=parts_of(result),
        outside=float(result.work["outside_ns"]) / max(1.0, float(result.iterations["duration_ns"].sum())),
    )


def run_point(
    point: Point, setting: Setting, *, seed: int = 0, most: int | None = None, workload: Workload | None = None
) -> tuple[Simulation, Result]:
    """The simulation of one replica under the point's traffic, and what came out.

    Where an open loop overruns the client's cap of requests in flight, it is the closed loop that the client ran.
    """
    if workload is not None:
        simulation = simulation_of(setting, workload)
        return simulation, simulation.run()
    traffic = traffic_of(point, replicas=setting.replicas, seed=seed, most=most)
    simulation = simulation_of(setting, traffic.workload)
    result = simulation.run()
    if traffic.cap and in_flight(result) > traffic.cap:
        simulation = simulation_of(setting, closed(traffic))
        result = simulation.run()
    return simulation, result


def wanted(point: Point) -> dict[str, float]:
    """The point's metrics, with the mean E2E that its mean TTFT and TPOT imply where it states none."""
    measured = dict(point.measured)
    tpot = measured.get("tpot_mean_ms", measured.get("itl_mean_ms"))
    if point.osl and "ttft_mean_ms" in measured and tpot is not None and "e2e_mean_ms" not in measured:
        measured["e2e_mean_ms"] = measured["ttft_mean_ms"] + tpot * (point.osl - 1)
    return measured


def simulation_of(setting: Setting, workload: Workload) -> Simulation:
    """One replica of the setting under a workload; its context is no longer than the longest request."""
    longest = int((workload.prompt_tokens + workload.output_tokens).max()) + SLACK_TOKENS
    return Simulation(
        workload,
        setting.deployment,
        setting.plan,
        setting.config,
        times=setting.times,
        max_context=longest,
    )


def in_flight(result: Result) -> int:
    """Most requests that were in the system at once."""
    frame = result.requests.drop_nulls("last_token_ns")
    changes = np.concatenate([frame["arrival_ns"].to_numpy(), frame["last_token_ns"].to_numpy()])
    steps = np.repeat([1, -1], len(frame))
    order = np.lexsort((steps, changes))
    return int(np.cumsum(steps[order]).max(initial=0))


def metrics_of(result: Result, names: tuple[str, ...], replicas: int = 1) -> dict[str, float]:
    """The named metrics of a run. Raises KeyError for a name that is no canonical metric."""
    values: dict[str, float] = {}
    frame, span = result.requests, result.makespan_s
    output = float(frame["output_tokens"].sum())
    prompt = float(frame["prompt_tokens"].sum())
    rates = {"requests_per_s": float(len(frame)), "output_tokens_per_s": output, "total_tokens_per_s": output + prompt}
    itl = result.itl() if any(name.startswith("itl") for name in names) else {}
    for name in names:
        match = _STATISTIC.fullmatch(name)
        if match is None:
            values[name] = rates[name] * replicas / span
        elif match[1] == "itl":
            values[name] = itl[match[2]]
        else:
            column = frame[f"{STATIC.get(match[1], match[1])}_ms"].drop_nulls().to_numpy()
            values[name] = _statistic(column, match[2])
    return values


def parts_of(result: Result) -> dict[str, float]:
    """Share of busy time by part of a step."""
    frame = result.iterations
    names = [name for name in frame.columns if name.endswith("_ns") and name not in ("start_ns", "duration_ns")]
    total = max(1.0, float(frame["duration_ns"].sum()))
    return {name.removesuffix("_ns"): float(frame[name].sum()) / total for name in names}


def _statistic(values: NDArray[np.float64], statistic: str) -> float:
    if not values.size:
        return float("nan")
    if statistic == "mean":
        return float(values.mean())
    return float(np.percentile(values, float(statistic[1:])))
