"""Coverage: the remainder makes nine of ten errors fit, and never sees the configuration that it judges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.fit_engines import read_held_out
from calibration.validate_intervals import (
    FLOOR,
    Held,
    ends,
    family_of,
    remainder,
    remainder_without,
    variance,
)
from sim.run.uncertainty import Z90


def held(errors: list[float], *, configuration: str = "a", profile: str = "p", known: float = 0.0) -> list[Held]:
    return [Held(profile, configuration, "ttft", error, known) for error in errors]


@given(st.lists(st.floats(-0.8, 0.8), min_size=5, max_size=60), st.floats(0, 0.01))
def test_nine_in_ten_errors_fit_and_no_width_is_given_away(errors: list[float], known: float) -> None:
    some = held(errors, known=known)
    sd = remainder(some, "ttft")
    covered = np.mean(np.abs(errors) <= Z90 * np.sqrt(known + sd**2) + 1e-9)
    assert covered >= 0.9
    if sd > FLOOR["ttft"] * 1.001:
        assert np.mean(np.abs(errors) <= Z90 * np.sqrt(known + (0.98 * sd) ** 2)) < 0.9


def test_a_configuration_is_judged_by_the_others_alone() -> None:
    calm = [held([0.01, -0.02, 0.03], configuration=c) for c in "bcd"]
    wild = held([0.9, -0.9, 0.8], configuration="a")
    everyone = wild + [one for some in calm for one in some]
    assert remainder_without(everyone, "p", "a", "ttft") == FLOOR["ttft"]
    assert remainder_without(everyone, "p", "b", "ttft") > 0.4


def test_an_engine_with_few_configurations_borrows_from_all() -> None:
    other = [one for c in "wxyz" for one in held([0.3, -0.3, 0.25], configuration=c, profile="q")]
    own = held([0.01], configuration="b") + held([0.01], configuration="a")
    assert remainder_without(own + other, "p", "a", "ttft") > 0.1


def test_coverage_of_planted_normal_errors_is_nominal() -> None:
    """Each configuration has its own error and each figure its own noise; others tell how wide both are."""
    rng = np.random.default_rng(3)
    everyone = []
    for configuration in range(40):
        shift = 0.1 * rng.standard_normal()
        everyone += held([float(shift + 0.1 * e) for e in rng.standard_normal(12)], configuration=str(configuration))
    covered = [
        abs(one.error) <= Z90 * remainder_without(everyone, "p", one.configuration, "ttft") for one in everyone[::5]
    ]
    assert 0.82 <= np.mean(covered) <= 0.97


def test_small_pieces() -> None:
    assert variance({"kernels": 0.3, "sampling": 0.4}) == pytest.approx(0.25)
    low, high = ends(10.0, 0.1)
    assert low * high == pytest.approx(100.0)
    assert [family_of(m) for m in ("prefill_mean_ms", "decode_step_p50_ms", "itl_mean_ms", "total_tokens_per_s")] == [
        "ttft", "tpot", "tpot", "throughput",
    ]  # fmt: skip


def test_the_committed_held_out_errors_can_be_read() -> None:
    found = read_held_out()
    if not found:
        pytest.skip("no held-out errors are committed yet: calibration validate --public writes them")
    for by_metric in found.values():
        for metric, one in by_metric.items():
            assert one.family == family_of(metric)
            assert one.variance >= 0
            assert np.isfinite(one.error)
