"""Fit of an engine's few physical parameters to measured servers: penalised least squares on log errors.

    minimise  sum over metrics of rho((ln predicted - ln measured) / s) + sum over parameters of (ln p/p0)^2 / tau^2

Every parameter has a prior p0 with a spread tau that physics allows, so that what the data cannot tell stays where it
was; rho is Huber's, so that a row that the model cannot follow does not bend the rest. Derivatives are differences of
simulations with common random numbers. Held-out errors come from the linearised model: the estimate without a
configuration is one Gauss-Newton step away from the estimate with it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.engines import profile_of
from calibration.validate_points import Case
from calibration.validate_run import predict, wanted
from sim.cost.profiles import EngineProfile
from sim.errors import ElideError

Floats = NDArray[np.float64]
SCALE = {"ttft": 0.15, "tpot": 0.05, "itl": 0.05, "output": 0.05, "requests": 0.05, "prefill": 0.1, "decode": 0.1}
SKIPPED = ("e2e", "total_tokens_per_s")  # sums of the others
HUBER = 2.0
ENOUGH = 0.02  # of the loss: a round that gains less is the last
STEP = 0.12  # of a logarithm, for differences: above the granularity of batches
SPREAD = {
    "weights": 0.04, "compute": 0.12, "fp8": 0.5, "prefill_attention": 0.15, "decode_attention": 0.1, "pointwise": 0.2,
    "all_reduce": 0.25, "link": 0.25, "step_ms": 0.4, "row_us": 0.6, "request_ms": 0.7, "request_gap_ms": 0.7,
    "eager_launch_us": 0.5, "graph_gap_us": 0.3, "stream_token_us": 0.5,
}  # fmt: skip
Runner = Callable[[Sequence[tuple[Case, EngineProfile]]], list[Mapping[str, float] | None]]


@dataclass(frozen=True)
class Residuals:
    """Log errors over their scale, with the case and the metric of each."""

    values: Floats
    case: NDArray[np.int64]
    metric: tuple[str, ...]
    scale: Floats


@dataclass(frozen=True)
class Fit:
    """A fitted profile; derivatives at the optimum, [residuals, parameters]; covariance of the log parameters."""

    profile: EngineProfile
    names: tuple[str, ...]
    prior: Mapping[str, float]
    residuals: Residuals
    jacobian: Floats
    covariance: Floats


def run_cases(tasks: Sequence[tuple[Case, EngineProfile]]) -> list[Mapping[str, float] | None]:
    """Predicted metrics of each case under a profile; None where it cannot run. One process."""
    found: list[Mapping[str, float] | None] = []
    for case, profile in tasks:
        try:
            found.append(predict(case.point, profile, workload=case.workload).metrics)
        except ElideError:
            found.append(None)
    return found


def fit_profile(
    cases: Sequence[Case],
    start: EngineProfile,
    names: Sequence[str],
    *,
    run: Runner = run_cases,
    rounds: int = 3,
    prior: Mapping[str, float] | None = None,
    share: float = 1.0,
    tell: Callable[[str], None] = lambda _: None,
) -> Fit:
    """The profile that fits the cases best in the named parameters, others as in `start`.

    The Jacobian is taken once per round; each round takes the best of a few step lengths. `share` of the usual error
    is expected where all cases are of one server: what differs between servers then is the server's, and to be fitted.
    """
    p0 = {name: (prior or start.parameters)[name] for name in names}
    profile, order = start, tuple(names)

    def errors_of(candidate: EngineProfile) -> Residuals:
        return _residuals(cases, run([(case, candidate) for case in cases]), share)

    residuals = errors_of(profile)
    jacobian = np.zeros((residuals.values.size, len(order)))
    for number in range(rounds):
        jacobian = _jacobian(cases, profile, order, residuals, run, share)
        gain = _step(residuals, jacobian, profile, p0, order)
        tried = [(length, _moved(profile, order, length * gain)) for length in (1.0, 0.5, 0.2)]
        best = _loss(residuals, profile, p0, order)
        for length, candidate in tried:
            now = errors_of(candidate)
            loss = _loss(now, candidate, p0, order) if now.values.size == residuals.values.size else np.inf
            if loss < best:
                tell(f"round {number}: loss {best:.1f} -> {loss:.1f} at step {length}: {_text(candidate, order)}")
                profile, residuals, improved = candidate, now, best - loss
                break
        else:
            break
        if improved < ENOUGH * best:
            break
    covariance = _covariance(residuals, jacobian, order)
    return Fit(profile, order, p0, residuals, jacobian, covariance)


def held_out(fit: Fit, groups: Sequence[str]) -> Floats:
    """Log errors of each residual, in shares, under the estimate without its group (one per case); one step each."""
    group = np.array([groups[i] for i in fit.residuals.case])
    weight = _weights(fit.residuals.values)
    penalty = np.diag([1 / SPREAD[name] ** 2 for name in fit.names])
    out = fit.residuals.values.copy()
    for one in np.unique(group):
        mine = group == one
        seen, w = fit.jacobian[~mine], weight[~mine]
        theta = np.array([np.log(fit.profile.parameters[n] / fit.prior[n]) for n in fit.names])
        gradient = seen.T @ (w * fit.residuals.values[~mine]) + penalty @ theta
        move = -np.linalg.solve(seen.T @ (w[:, None] * seen) + penalty, gradient)
        out[mine] += fit.jacobian[mine] @ move
    return out * fit.residuals.scale


def cases_of(cases: Sequence[Case], profile: str) -> list[Case]:
    """The cases that run on a profile."""
    return [case for case in cases if profile_of(case.point).name == profile]


def _residuals(cases: Sequence[Case], found: Sequence[Mapping[str, float] | None], share: float) -> Residuals:
    values, index, metrics, scales = [], [], [], []
    for i, (case, metrics_of) in enumerate(zip(cases, found)):
        for name, measured in case.point.measured.items():
            kind = name.split("_")[0]
            if metrics_of is None or measured <= 0 or kind == "e2e" or name in SKIPPED or "_p9" in name:
                continue
            scale = share * SCALE[kind] * np.sqrt(len([m for m in wanted(case.point) if m.split("_")[0] == kind]))
            values.append(np.log(max(metrics_of[name], 1e-9) / measured) / scale)
            index.append(i)
            metrics.append(name)
            scales.append(scale)
    return Residuals(np.array(values), np.array(index, dtype=np.int64), tuple(metrics), np.array(scales))


def _jacobian(
    cases: Sequence[Case], profile: EngineProfile, names: tuple[str, ...], at: Residuals, run: Runner, share: float
) -> Floats:
    tasks = [(case, _moved_one(profile, name)) for name in names for case in cases]
    answers = run(tasks)
    columns = []
    for k in range(len(names)):
        moved = _residuals(cases, answers[k * len(cases) : (k + 1) * len(cases)], share)
        columns.append((moved.values - at.values) / STEP)
    return np.stack(columns, axis=1)


def _step(
    at: Residuals, jacobian: Floats, profile: EngineProfile, p0: Mapping[str, float], names: tuple[str, ...]
) -> Floats:
    w = _weights(at.values)
    penalty = np.array([1 / SPREAD[name] ** 2 for name in names])
    theta = np.array([np.log(profile.parameters[name] / p0[name]) for name in names])
    gradient = jacobian.T @ (w * at.values) + penalty * theta
    hessian = jacobian.T @ (w[:, None] * jacobian) + np.diag(penalty)
    return np.clip(-np.linalg.solve(hessian, gradient), -1.0, 1.0)


def _covariance(at: Residuals, jacobian: Floats, names: tuple[str, ...]) -> Floats:
    """Inverse of the Hessian, widened where residuals are larger than their scale; settings count, not rows."""
    w = _weights(at.values)
    penalty = np.diag([1 / SPREAD[name] ** 2 for name in names])
    widened = max(1.0, float(np.sum(w * at.values**2) / max(1.0, at.values.size - len(names))))
    return np.asarray(np.linalg.inv(jacobian.T @ (w[:, None] * jacobian) / widened + penalty), dtype=np.float64)


def _weights(values: Floats) -> Floats:
    return np.minimum(1.0, HUBER / np.maximum(np.abs(values), 1e-12))


def _loss(at: Residuals, profile: EngineProfile, p0: Mapping[str, float], names: tuple[str, ...]) -> float:
    size = np.abs(at.values)
    rho = np.where(size <= HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER))
    prior = sum((np.log(profile.parameters[n] / p0[n]) / SPREAD[n]) ** 2 for n in names)
    return float(rho.sum() + 0.5 * prior)


def _moved(profile: EngineProfile, names: tuple[str, ...], by: Floats) -> EngineProfile:
    moved = {name: profile.parameters[name] * float(np.exp(step)) for name, step in zip(names, by)}
    return replace(profile, parameters={**profile.parameters, **moved})


def _moved_one(profile: EngineProfile, name: str) -> EngineProfile:
    return _moved(profile, (name,), np.array([STEP]))


def _text(profile: EngineProfile, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {profile.parameters[name]:.3g}" for name in names)
