"""Engine profiles: what a name finds, what a file must hold, and how factors and errors act on kernel times."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.hardware import gpu_named
from sim.cost.perturbed import KINDS, UNMEASURED_SD, Perturbed, kernel_spreads
from sim.cost.profiles import FACTORS, FOLDER, PARAMETERS, profile_named, profiles, read_profile
from sim.cost.roofline import Roofline
from sim.cost.scaled import SMALL, Factors, Scaled
from sim.cost.times import KernelTimes, times_for
from sim.errors import ElideError, InputError, UnknownName

ROOF = Roofline(gpu_named("h100"))
M = np.array([0, 1, 2, 16, 500, 4096])


def answers(times: KernelTimes) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """One answer of each kind, by the factor that scales it."""
    return {
        "prefill_attention": times.prefill_attention(M, 0, 32, 8, 128, "bf16")[0],
        "decode_attention": times.decode_attention(M, 777, 32, 8, 128, "bf16")[0],
        "pointwise": times.elementwise(M * 1e4)[0],
        "all_reduce": times.all_reduce(np.minimum(M * 1e4, SMALL), 4)[0],
    }


def test_neutral_factors_change_nothing() -> None:
    scaled = Scaled(ROOF, Factors())
    assert all(np.array_equal(a, b) for a, b in zip(answers(ROOF).values(), answers(scaled).values()))
    assert np.allclose(scaled.gemm(M, 4096, 4096, "fp8")[0], ROOF.gemm(M, 4096, 4096, "fp8")[0])


@given(st.sampled_from(["prefill_attention", "decode_attention", "pointwise", "all_reduce"]), st.floats(0.2, 5))
def test_a_factor_scales_its_kind_alone(kind: str, factor: float) -> None:
    before, after = answers(ROOF), answers(Scaled(ROOF, Factors(**{kind: factor})))
    for name in before:
        assert np.allclose(after[name], before[name] * (factor if name == kind else 1.0))


@given(st.floats(0.5, 2), st.floats(0.5, 2))
def test_the_two_factors_of_a_gemm_split_at_the_first_row(weights: float, compute: float) -> None:
    plain = ROOF.gemm(M, 4096, 14336, "bf16")[0]
    scaled = Scaled(ROOF, Factors(weights=weights, compute=compute)).gemm(M, 4096, 14336, "bf16")[0]
    assert scaled[0] == 0
    assert np.allclose(scaled[1:], weights * plain[1] + compute * (plain[1:] - plain[1]))


@given(st.floats(0.5, 2), st.floats(0.5, 2), st.floats(1, 100))
def test_the_two_factors_of_an_all_reduce_split_at_the_messages_of_a_decode_step(
    first: float, link: float, times_small: float
) -> None:
    scaled = Scaled(ROOF, Factors(all_reduce=first, link=link))
    small, large = ROOF.all_reduce([SMALL, times_small * SMALL], 4)[0]
    assert np.allclose(scaled.all_reduce([SMALL], 4)[0], first * small)
    assert np.allclose(scaled.all_reduce([times_small * SMALL], 4)[0], first * small + link * (large - small))
    assert (np.diff(scaled.all_reduce(np.arange(1, 400) * 1e4, 4)[0]) >= 0).all()


@given(st.floats(0.5, 2), st.floats(0.5, 2))
def test_scaling_twice_is_scaling_by_the_product(first: float, second: float) -> None:
    twice = Scaled(Scaled(ROOF, Factors(compute=first, weights=second)), Factors(compute=second, weights=first))
    once = Scaled(ROOF, Factors(compute=first * second, weights=first * second))
    assert np.allclose(twice.gemm(M, 1024, 4096, "bf16")[0], once.gemm(M, 1024, 4096, "bf16")[0])


def test_factors_out_of_bounds_are_refused() -> None:
    with pytest.raises(InputError, match="compute"):
        Factors(compute=50)


def test_a_perturbed_source_is_off_by_its_residuals_and_more_where_nothing_was_measured() -> None:
    measured = times_for("h100")
    spreads = kernel_spreads(measured.provenance)
    assert 0.01 < spreads["gemm"] < UNMEASURED_SD
    assert kernel_spreads(ROOF.provenance) == dict.fromkeys(KINDS, UNMEASURED_SD)
    inside: list[float] = []
    outside: list[float] = []
    for seed in range(200):
        near, far = np.array([64]), np.array([60_000])  # 60,000 rows were never measured
        drawn = Perturbed(measured, seed)
        for rows, errors in ((near, inside), (far, outside)):
            ratio = drawn.gemm(rows, 4096, 4096, "bf16")[0] / measured.gemm(rows, 4096, 4096, "bf16")[0]
            errors.append(float(np.log(ratio[0])))
    assert np.std(inside) == pytest.approx(spreads["gemm"], rel=0.25)
    assert np.std(outside) == pytest.approx(UNMEASURED_SD, rel=0.25)


def test_every_profile_that_ships_can_be_used() -> None:
    assert {one.engine for one in profiles().values()} >= {"vllm", "sglang", "trtllm"}
    for profile in profiles().values():
        assert profile.host.step_ns > 0
        assert profile.frontend.request_ns >= 0
        assert set(FACTORS) <= set(PARAMETERS) == set(profile.parameters)
        config = profile.config(gpu_named("h100"), max_num_seqs=8)
        assert config.max_num_seqs == 8 - int(profile.scheduler.get("slots_kept", 0))
        covariance = np.array(profile.covariance).reshape(len(profile.fitted), len(profile.fitted))
        assert np.allclose(covariance, covariance.T)
        assert (np.linalg.eigvalsh(covariance) > -1e-9).all() if profile.fitted else True
        profile.drawn(np.random.default_rng(0))


def test_a_version_finds_the_nearest_profile_that_is_not_newer() -> None:
    assert profile_named("vllm-0.11") == profile_named("vllm-0.11.0") == profiles()["vllm-0.10"]
    assert profile_named("vllm-0.99") == profile_named("vllm") == profiles()["vllm-0.14"]
    assert profile_named("vllm-0.1") == profiles()["vllm-0.2"]
    assert profile_named("trtllm-1.0.0") == profiles()["trtllm-1.0"]
    assert "0.1" in profiles()["distserve"].versions
    with pytest.raises(UnknownName, match="vlm"):
        profile_named("vlm")


def test_a_large_gpu_gets_larger_defaults() -> None:
    profile = profile_named("vllm-0.11")
    large, small = profile.config(gpu_named("h100")), profile.config(gpu_named("a100-80"))
    assert (large.max_num_batched_tokens, small.max_num_batched_tokens) == (8192, 2048)


def test_a_profile_moves_between_file_and_memory(tmp_path: Path) -> None:
    (name, profile), *_ = profiles().items()
    path = tmp_path / f"{name}.json"
    path.write_text((FOLDER / f"{name}.json").read_text())
    assert read_profile(path) == profile
    assert profile_named(str(path)) == profile


@pytest.mark.parametrize(
    "change", [{"parameters": {}}, {"parameters": {"step_ms": 1, "stepms": 2}}, {"versions": None}, {"fitted": 3}]
)
def test_a_broken_file_is_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    facts = json.loads((FOLDER / "vllm-0.10.json").read_text()) | change
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(facts))
    with pytest.raises(ElideError, match=r"mine|stepms"):
        read_profile(path)
    path.write_text("{")
    with pytest.raises(InputError, match=r"mine\.json"):
        read_profile(path)


def test_draws_follow_the_covariance() -> None:
    base = profile_named("vllm-0.11")
    covariance = ((0.04, 0.03), (0.03, 0.04))
    known = replace(base, fitted=("step_ms", "compute"), covariance=covariance)
    rng = np.random.default_rng(1)
    drawn = [known.drawn(rng).parameters for _ in range(400)]
    logs = np.log([[d[name] / base.parameters[name] for name in known.fitted] for d in drawn])
    assert np.allclose(np.cov(logs.T), covariance, atol=0.01)
    assert all(d["row_us"] == base.parameters["row_us"] for d in drawn)


def test_residuals_widen_for_tails_and_elsewhere() -> None:
    profile = replace(profile_named("vllm-0.11"), residual_sd={"ttft": 0.1}, provenance={"gpus": ["h100"]})
    assert profile.residual("ttft_mean_ms", "h100") == 0.1
    assert profile.residual("ttft_p99_ms", "h100") > 0.1
    assert profile.residual("ttft_mean_ms", "b200") > 0.1
    assert profile.residual("requests_per_s", "h100") > 0.1  # nobody measured it
