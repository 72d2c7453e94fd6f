"""What the engine adds to its kernels, from whole steps: the host's work, the gaps in a graph, launches without one.

The simulator walks through the steps of each measured burst under the fitted kernels and says what each holds: device
time, kernels, sequences. The rest is linear: the host takes so long per step and per sequence, the device so long
between two kernels, an eager forward pass so long per kernel. Coefficients are non-negative least squares of relative
errors; how well each is known follows from what they leave.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from calibration.engine_runs import simulation_of, together
from calibration.items import Burst
from calibration.monotone import Floats, spread
from calibration.setting import Setting, shape_of
from sim.cost.deployment import Host
from sim.cost.hardware import Gpu
from sim.cost.profiles import FACTORS, HOST
from sim.cost.times import KernelTimes
from sim.errors import InputError
from sim.run.result import Result

UNIT = Host(step_ns=0, row_ns=1, graph_rows=2**40, graph_gap_ns=1, eager_launch_ns=0)  # counts instead of prices
DEVICE = ("weights_ns", "kv_ns", "compute_ns", "pointwise_ns", "communication_ns")
GRAPH_ROWS = 128  # largest bucket of `engine.graphs`
LEAST = 1e-9
FLOOR_SD = 0.01
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Steps:
    """Steps, measured and simulated, [n] in ns; kernels and sequences are counts."""

    measured: Floats
    host: Floats  # the processor's time, of which
    forward: Floats  # in the forward pass
    device: Floats
    kernels: Floats
    sequences: Floats
    eager: NDArray[np.bool_]  # launched one by one

    @classmethod
    def of(cls, parts: "Sequence[Steps]") -> "Steps":
        """All steps of several."""
        return cls(*(np.concatenate([getattr(one, name.name) for one in parts]) for name in fields(cls)))


@dataclass(frozen=True)
class Walk:
    """A burst that was measured, and its steps."""

    setting: Setting
    row: Mapping[str, Any]
    steps: Steps


@dataclass(frozen=True)
class Engine:
    """The fitted profile as it stands in a file, and how far the steps are from it by plan."""

    profile: dict[str, Any]
    steps: dict[str, dict[str, float]]


def walks_of(rows: Iterable[Mapping[str, Any]], gpu: Gpu, times: KernelTimes) -> list[Walk]:
    """Every burst of the rows. Raises InputError where simulator and engine do not take the same steps."""
    steps: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    bursts: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        if row["op"] in ("step", "burst") and "error" not in row:
            key = str(row["model"]), str(row["key"])
            if row["op"] == "step":
                steps.setdefault(key, []).append(row)
            else:
                bursts[key] = row
    return [_walk(mine, bursts[key], gpu, times) for key, mine in steps.items() if key in bursts]


def _walk(steps: Rows, row: Mapping[str, Any], gpu: Gpu, times: KernelTimes) -> Walk:
    setting = Setting.of(row)
    frame = burst_result(setting, row, gpu, times, UNIT).iterations
    order = sorted(steps, key=lambda one: int(one["iteration"]))
    asked = [(one["prompt_tokens"], one["decodes"]) for one in order]
    if asked != list(zip(frame["prompt_tokens"].to_list(), frame["decode_rows"].to_list())):
        raise InputError(f"{row['key']!r}: the simulator takes other steps than the engine took; was it cut off?")
    prompts, tokens = (np.array([one[name] for one in order]) for name in ("prompt_tokens", "tokens"))
    captured = bool(row["graphs"]) & (prompts == 0) & (tokens <= GRAPH_ROWS)
    seen = [np.array([one[name] for one in order], np.float64) for name in ("p50_ns", "host_ns", "forward_ns")]
    counted = [frame[name].to_numpy().astype(np.float64) for name in ("launch_ns", "host_ns")]
    device = np.sum([frame[name].to_numpy() for name in DEVICE], axis=0).astype(np.float64)
    eager = ~captured if row["graphs"] else np.zeros(prompts.shape, dtype=bool)
    found = Steps(seen[0], seen[1], seen[2], device, counted[0], counted[1], eager)
    return Walk(setting, row, found)


def burst_result(setting: Setting, row: Mapping[str, Any], gpu: Gpu, times: KernelTimes, host: Host) -> Result:
    """A measured burst, simulated; few steps, so the interpreted loop will do."""
    workload = together(Burst(**{name: row[name] for name in ("requests", "slots", "prompt", "output")},
                              mixed=bool(row["mixed"]), policy=setting.policy))  # fmt: skip
    return simulation_of(setting, shape_of(row), gpu, workload, times, host).run(stepwise=True)


def fit_steps(walks: Sequence[Walk], gpu: Gpu, times: KernelTimes) -> Engine:
    """The engine's profile. Raises InputError without a single burst."""
    if not walks:
        raise InputError("no whole steps were measured: `measure` writes them as kind step")
    overlap, steps = bool(walks[0].row["pipelined"]), Steps.of([walk.steps for walk in walks])
    (step, row), sds = _host(steps, overlap=overlap)
    (gap,), (gap_sd,) = _gap(steps, overlap=overlap)
    (eager,), (eager_sd,) = _eager(steps, overlap=overlap)
    found = {"step_ms": step / 1e6, "row_us": row / 1e3, "graph_gap_us": gap / 1e3, "eager_launch_us": eager / 1e3}
    known = dict(zip(found, (*sds, gap_sd, eager_sd)))
    parameters = dict.fromkeys(HOST, 0.0) | dict.fromkeys(FACTORS, 1.0) | found
    fitted = [name for name in found if found[name] > LEAST]
    graphs = bool(walks[0].row["graphs"])
    profile: dict[str, Any] = {
        "engine": "elide",
        "versions": ["0.1"],
        "parameters": {name: float(f"{value:.6g}") for name, value in parameters.items()},
        "fitted": fitted,
        "covariance": np.diag([known[name] ** 2 for name in fitted]).tolist(),
        "residual_sd": {},
        "scheduler": {"max_num_seqs": 256, "max_num_batched_tokens": 8192},
        "switches": {
            "overlap": overlap,
            "graph_rows": GRAPH_ROWS if graphs else 2**40,
            "graph_prompts": not graphs,
        },
    }
    errors, by_plan = _errors(walks, host_of(profile), gpu, times)
    profile["residual_sd"] = errors
    return Engine(profile, by_plan)


def host_of(profile: Mapping[str, Any]) -> Host:
    """The host that a profile describes."""
    p, s = profile["parameters"], profile["switches"]
    return replace(
        Host(step_ns=round(p["step_ms"] * 1e6), row_ns=round(p["row_us"] * 1e3)),
        graph_gap_ns=round(p["graph_gap_us"] * 1e3), eager_launch_ns=round(p["eager_launch_us"] * 1e3), **s,
    )  # fmt: skip


def _least(design: Floats, target: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Non-negative coefficients of least error relative to `scale`, and their relative standard deviations.

    Nothing to look at gives zeros.
    """
    if not target.size:
        return np.zeros(design.shape[1]), np.zeros(design.shape[1])
    weighed, aim = design / scale[:, None], target / scale
    found, _ = nnls(weighed, aim)
    left = aim - weighed @ found
    noise = float(left @ left) / max(1, aim.size - found.size)
    variance = noise * np.diag(np.linalg.pinv(weighed.T @ weighed))
    return found, np.sqrt(variance) / np.maximum(found, LEAST)


def _host(steps: Steps, *, overlap: bool) -> tuple[Floats, Floats]:
    """Of the host per step and per sequence: what it was seen to do, or all that is not the forward pass.

    The first where it works beside a device (in replayed steps, if there are any), the second where it is the device.
    """
    target = steps.host if overlap else steps.measured - steps.forward
    keep = ~steps.eager if overlap and not steps.eager.all() else np.ones(target.shape, dtype=bool)
    design = np.stack([np.ones(target.shape), steps.sequences], axis=1)
    return _least(design[keep], target[keep], steps.measured[keep])


def _gap(steps: Steps, *, overlap: bool) -> tuple[Floats, Floats]:
    """Between two kernels that are replayed, or called one after the other; where the host is no bottleneck."""
    spent = steps.measured if overlap else steps.forward
    keep = ~steps.eager & ((not overlap) | (steps.measured > 1.1 * steps.host))
    return _least(steps.kernels[keep, None], (spent - steps.device)[keep], steps.measured[keep])


def _eager(steps: Steps, *, overlap: bool) -> tuple[Floats, Floats]:
    """Of the host per kernel of a step that no graph replays.

    Beside a device all that the host does in such a step counts, for launching is nearly all of it: the simulator lets
    the device wait for launches, and the rest of the host's work run beside both.
    """
    spent = (steps.host if overlap else steps.forward)[steps.eager]
    return _least(steps.kernels[steps.eager, None], spent, spent)


def _errors(
    walks: Sequence[Walk], host: Host, gpu: Gpu, times: KernelTimes
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scatter of bursts around the fit by family of metrics, and of steps by plan."""
    logs: dict[str, list[float]] = {"ttft": [], "tpot": [], "throughput": []}
    steps: dict[str, list[tuple[Floats, Floats]]] = {}
    for walk in walks:
        result = burst_result(walk.setting, walk.row, gpu, times, host)
        frame = result.requests
        pairs = {"ttft": (frame["ttft_ms"].mean(), walk.row["ttft_ns"] / 1e6),
                 "tpot": (frame["tpot_ms"].mean(), walk.row["tpot_ns"] / 1e6),
                 "throughput": (result.makespan_s, walk.row["p50_ns"] / 1e9)}  # fmt: skip
        for name, (predicted, measured) in pairs.items():
            if predicted and measured:
                logs[name].append(float(np.log(float(predicted) / measured)))  # type: ignore[arg-type]
        took = result.iterations["duration_ns"].to_numpy().astype(np.float64)
        steps.setdefault(walk.setting.plan, []).append((took, walk.steps.measured))
    sd = {name: round(max(FLOOR_SD, float(np.sqrt(np.mean(np.square(x))))), 4) for name, x in logs.items() if x}
    by_plan = {plan: spread(*(np.concatenate(x) for x in zip(*both))) for plan, both in steps.items()}
    return sd | {"e2e": sd.get("throughput", FLOOR_SD)}, by_plan
