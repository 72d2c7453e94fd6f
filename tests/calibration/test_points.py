import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.exclusions import Excluded, exclusion_table
from calibration.points import Load, Point, offline, points_frame, with_known
from calibration.units import (
    check_plausible,
    e2e_from_tpot,
    time_per_token_with_ttft,
    to_ms,
    tpot_from_e2e,
    tpot_without_ttft,
)
from sim.errors import InputError, UnknownName

positive = st.floats(0.01, 1e6)
lengths = st.floats(2, 1e5)


@given(ttft=positive, tpot=positive, osl=lengths)
def test_tpot_and_e2e_are_inverse(ttft: float, tpot: float, osl: float) -> None:
    # Cancellation: E2E carries the rounding of its larger term, TTFT.
    slack = 1e-12 * ttft
    assert tpot_from_e2e(e2e_from_tpot(tpot, ttft, osl), ttft, osl) == pytest.approx(tpot, rel=1e-9, abs=slack)


@given(ttft=positive, tpot=positive, osl=lengths)
def test_guidellm_time_per_token_is_converted_back_and_forth(ttft: float, tpot: float, osl: float) -> None:
    theirs = time_per_token_with_ttft(tpot, ttft, osl)
    assert theirs > tpot * (osl - 1) / osl  # it contains TTFT
    assert tpot_without_ttft(theirs, ttft, osl) == pytest.approx(tpot, rel=1e-9, abs=1e-12 * ttft)


@given(value=st.floats(1e-6, 1e9), unit=st.sampled_from(["s", "sec", "seconds", "ms", "us", "µs", "ns"]))
def test_every_unit_of_time_is_the_same_second(value: float, unit: str) -> None:
    assert to_ms(value, unit, where="x") / to_ms(1.0, unit, where="x") == pytest.approx(value, rel=1e-12)
    assert to_ms(1.0, "s", where="x") == 1e3 * to_ms(1.0, "ms", where="x") == 1e9 * to_ms(1.0, "ns", where="x")


def test_a_unit_that_is_no_time_is_refused() -> None:
    with pytest.raises(InputError, match="'tokens' is not one of"):
        to_ms(1.0, "tokens", where="file")


@pytest.mark.parametrize(
    ("measured", "word"),
    [
        ({"ttft_mean_ms": 0.031}, "seconds"),
        ({"tpot_p50_ms": 0.0072}, "seconds"),
        ({"e2e_mean_ms": 4.8e11}, "nanoseconds"),
        ({"ttft_mean_ms": 31.0, "tpot_mean_ms": 7.2, "e2e_mean_ms": 48.0}, "same unit"),
    ],
)
def test_latencies_in_another_unit_are_refused(measured: dict[str, float], word: str) -> None:
    with pytest.raises(InputError, match=word):
        check_plausible(measured, 64, where="file")


@given(ttft=st.floats(1, 1e5), tpot=st.floats(0.2, 1e3), osl=lengths)
def test_consistent_latencies_pass(ttft: float, tpot: float, osl: float) -> None:
    measured = {"ttft_mean_ms": ttft, "tpot_mean_ms": tpot, "e2e_mean_ms": e2e_from_tpot(tpot, ttft, osl)}
    check_plausible(measured, osl, where="file")


@pytest.mark.parametrize("name", ["ttft_ms", "ttft_mean", "mean_ttft_ms", "output_throughput", "ttft_mean_s"])
def test_only_canonical_metric_names(name: str) -> None:
    with pytest.raises(InputError, match="canonical"):
        Point("x", {name: 1.0})


@pytest.mark.parametrize(("kind", "value"), [("qps", 0.0), ("qps", math.inf), ("offline", 5.0), ("concurrency", -1.0)])
def test_impossible_loads(kind: str, value: float) -> None:
    with pytest.raises(InputError):
        Load(kind, value)  # type: ignore[arg-type]


def test_known_facts_fill_gaps_and_never_contradict() -> None:
    point = Point("run.json", {"ttft_mean_ms": 20.0}, load=offline(), tp=2, flags={"a": 1})
    full = with_known(point, gpu="h100", tp=2, flags={"b": 2}, notes=("mine",))
    assert (full.gpu, full.n_gpus, full.flags, full.notes) == ("h100", 2, {"a": 1, "b": 2}, ("mine",))
    assert "gpu" in point.missing
    assert "gpu" not in full.missing
    with pytest.raises(InputError, match=r"run\.json: the file says tp = 2, you say 4"):
        with_known(point, tp=4)
    with pytest.raises(UnknownName, match="'gpus'"):
        with_known(point, gpus=4)


def test_the_frame_has_one_row_per_metric() -> None:
    points = [
        Point("a", {"ttft_mean_ms": 20.0, "requests_per_s": 3.0}, load=Load("qps", 3.0, 8), notes=("x", "y")),
        Point("b", {"prefill_p50_ms": 9.0}),
    ]
    frame = points_frame(points)
    assert frame.select("point", "metric", "value").rows() == [
        (0, "ttft_mean_ms", 20.0),
        (0, "requests_per_s", 3.0),
        (1, "prefill_p50_ms", 9.0),
    ]
    assert frame["max_concurrency"].to_list() == [8, 8, None]
    assert frame["notes"][0] == "x; y"
    assert points_frame([]).height == 0


def test_exclusions_are_counted_by_reason() -> None:
    rows = [Excluded("a", 2, "m", "no model"), Excluded("b", 3, "m", "no gpu"), Excluded("a", 4, "n", "no model")]
    assert exclusion_table(rows).rows() == [("a", "no model", 2), ("b", "no gpu", 1)]
