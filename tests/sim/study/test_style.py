"""One visual language: a strategy looks and reads the same everywhere, numbers and axes are made for people."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.plans.spec import strategy_named
from sim.study import pictures
from sim.study.pictures.style import FAMILIES, change, family, log_ticks, styles, wrapped
from tests.sim.study.frames import MODEL, SPECS


def test_a_family_has_one_colour_and_looks_different_from_every_other() -> None:
    looks = list(FAMILIES.values())
    assert len({look.colour for look in looks}) == len(looks)
    assert len({(look.dash, look.marker) for look in looks}) == len(looks)
    assert pictures.colour("swift_kv:keep=16") == pictures.colour("SwiftKV 50%") == pictures.colour("swift_kv")
    assert pictures.colour("swift_kv:keep=16,group=1") == pictures.colour("swift_kv")
    assert family("swift_kv:keep=16,group=4") == family("SwiftKV + 4-way AcrossKV") == "across_kv"
    assert family("swift_kv:keep=16+skip_decode:speedup=2") == family("SwiftKV ∘ SkipDecode") == "composition"
    assert family("my own idea") == "other"


@pytest.mark.parametrize("ground", ["#ffffff", "#14171c"])
def test_colours_stand_out_on_light_and_on_dark_ground(ground: str) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name, look in FAMILIES.items():
        light, dark = sorted((luminance(look.colour), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 2.2, name


def test_members_of_one_family_share_the_colour_and_differ_in_greyscale() -> None:
    looks = styles(["ffn_skip:share=0.25", "ffn_skip:share=0.5", "ffn_skip:share=0.75", "dense"])
    ffn = [look for name, look in looks.items() if name.startswith("ffn")]
    assert len({look.colour for look in ffn}) == 1
    assert len({look.marker for look in ffn}) == len({look.dash for look in ffn}) == 3


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_is_said_in_words_and_other_text_is_left_alone(spec: str) -> None:
    name = strategy_named(spec, MODEL).name
    assert not set("_=:") & set(pictures.label(name))
    assert pictures.colour(pictures.label(name)) == pictures.colour(name)
    assert pictures.label("Dense + my trick: x=1") == "Dense + my trick: x=1"


@given(st.floats(1e-12, 1e15) | st.floats(0.001, 9999), st.booleans())
def test_human_numbers_keep_three_digits(size: float, negative: bool) -> None:
    value = -size if negative else size
    text = pictures.human(value)
    mantissa, _, exponent = text.replace("−", "-").replace(",", "").partition(" × 10")
    power = int(exponent.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) if exponent else 0
    assert math.isclose(float(mantissa) * 10.0**power, value, rel_tol=0.00501)
    assert len(mantissa.replace("-", "").replace(".", "").strip("0")) <= 3


@given(st.lists(st.floats(1e-3, 1e6), min_size=1))
def test_a_log_axis_holds_its_values_and_has_ticks_in_sight(seen: list[float]) -> None:
    axis = log_ticks([*seen, None])
    low, high = axis["range"]  # type: ignore[misc]
    assert all(low <= math.log10(v) <= high for v in seen)
    assert len(axis["tickvals"]) == len(axis["ticktext"])  # type: ignore[arg-type]
    if high - low > 0.5:
        assert any(low <= math.log10(t) <= high for t in axis["tickvals"])  # type: ignore[union-attr]


@given(st.floats(-3, 3))
def test_percentages_are_true_to_a_tenth_and_never_minus_zero(share: float) -> None:
    text = pictures.percent(share)
    width = 0.501 if abs(share) >= 0.9995 else 0.0501
    assert float(text.removesuffix("%").replace("−", "-")) == pytest.approx(100 * share, abs=width)
    assert text != "−0%"


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=12), min_size=1).map(" ".join), st.integers(1, 40))
def test_wrapping_keeps_every_word_and_the_width(text: str, width: int) -> None:
    lines = wrapped(text, width).split("<br>")
    assert " ".join(lines) == text
    assert all(len(line) <= width or " " not in line for line in lines)


def test_a_change_has_a_sign_and_none_without_a_base() -> None:
    assert [change(3.0, 2.0), change(1.0, 2.0), change(2.0, 2.0)] == [" (+50%)", " (−50%)", " (±0%)"]
    assert change(1.0, None) == change(1.0, 0.0) == ""
