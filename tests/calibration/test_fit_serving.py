"""The fit finds planted parameters, leaves alone what data cannot tell, and knows what it does not know."""

from dataclasses import replace

import numpy as np
import pytest

from calibration.fit_serving import SPREAD, Fit, fit_profile, held_out
from calibration.points import Load, Point
from calibration.validate_points import Case
from calibration.validate_run import predict
from sim.cost.profiles import EngineProfile, profile_named

BASE = replace(profile_named("vllm-0.11"), fitted=(), covariance=())
METRICS = dict.fromkeys(("ttft_mean_ms", "tpot_mean_ms"), 1.0)
NAMES = ("step_ms", "request_ms", "compute", "all_reduce")


def moved(**parameters: float) -> EngineProfile:
    return replace(BASE, parameters={**BASE.parameters, **parameters})


def cases(truth: EngineProfile, *, noise: float = 0.0, seed: int = 0) -> list[Case]:
    """Points of a small model, measured on a server with the true parameters."""
    rng = np.random.default_rng(seed)
    found = []
    for slots in (1, 4, 16, 48):
        for prompt in (64, 512):
            point = Point(
                f"slots {slots}", dict(METRICS), load=Load("concurrency", slots), gpu="h100", n_gpus=1, tp=1,
                model="opt-1.3b", weights_dtype="bf16", kv_dtype="bf16", engine="vllm", engine_version="0.11",
                isl=prompt, osl=24,
            )  # fmt: skip
            metrics = predict(point, truth).metrics
            noisy = {name: metrics[name] * float(np.exp(noise * rng.standard_normal())) for name in METRICS}
            found.append(Case(replace(point, measured=noisy)))
    return found


@pytest.fixture(scope="module")
def fitted() -> Fit:
    truth = moved(step_ms=2.0, request_ms=30.0, compute=BASE.parameters["compute"] * 1.1)
    return fit_profile(cases(truth, noise=0.02), BASE, NAMES, rounds=4)


def test_planted_parameters_are_found(fitted: Fit) -> None:
    assert fitted.profile.parameters["step_ms"] == pytest.approx(2.0, rel=0.1)
    assert fitted.profile.parameters["request_ms"] == pytest.approx(30.0, rel=0.1)


def test_what_the_data_cannot_tell_stays_and_is_known_to(fitted: Fit) -> None:
    """One GPU has no all-reduce."""
    sd = np.sqrt(np.diag(fitted.covariance))
    told = dict(zip(fitted.names, sd))
    assert fitted.profile.parameters["all_reduce"] == pytest.approx(BASE.parameters["all_reduce"], rel=1e-6)
    assert told["all_reduce"] == pytest.approx(SPREAD["all_reduce"], rel=1e-3)
    assert told["step_ms"] < 0.2 * SPREAD["step_ms"]


def test_the_fit_explains_the_points_up_to_their_noise(fitted: Fit) -> None:
    errors = fitted.residuals.values * fitted.residuals.scale
    assert np.median(np.abs(errors)) < 0.03


def test_held_out_errors_are_larger_than_those_in_sample(fitted: Fit) -> None:
    groups = [f"group {i % 4}" for i in range(8)]
    inside = fitted.residuals.values * fitted.residuals.scale
    outside = held_out(fitted, groups)
    assert outside.shape == inside.shape
    assert np.mean(outside**2) >= np.mean(inside**2)
    one_group = held_out(fitted, ["all"] * 8)  # nothing left to learn from: back to the prior
    assert np.mean(np.abs(one_group)) > 3 * np.mean(np.abs(inside))


def test_one_wild_point_does_not_bend_the_rest() -> None:
    points = cases(moved(step_ms=2.0))
    wild = replace(points[3].point, measured={"ttft_mean_ms": 1e4, "tpot_mean_ms": 300.0})
    fit = fit_profile([*points[:3], Case(wild), *points[4:]], BASE, ("step_ms",), rounds=4)
    assert fit.profile.parameters["step_ms"] == pytest.approx(2.0, rel=0.3)
