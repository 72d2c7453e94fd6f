"""Numbers from answers: intervals that cover, comparisons that pair, collapse told from a repetitive question."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.quality.grade import agreement, collapsed, interval, mcnemar, paired, repeated, wilson
from sim.errors import InputError

counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
tokens = st.lists(st.integers(0, 3), max_size=20)


@given(counts)
def test_wilson_holds_the_share_and_is_symmetric(count):
    right, n = count
    low, high = wilson(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert low < high
    other = wilson(n - right, n)
    assert (low, high) == pytest.approx((1 - other[1], 1 - other[0]))


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
def test_wilson_covers_the_truth(p):
    n = 120
    chance = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    inside = sum(c for k, c in enumerate(chance) if wilson(k, n)[0] <= p <= wilson(k, n)[1])
    assert 0.92 < inside < 0.98


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_fair_coin(lost, gained):
    p = mcnemar(lost, gained)
    assert 0 < p <= 1
    assert p == mcnemar(gained, lost)
    assert mcnemar(lost + 1, gained) <= p or lost < gained
    if lost == gained:
        assert p == 1


def test_mcnemar_of_few_items():
    assert mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(0, 0) == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_counts_what_changed(answers):
    plan, dense = (list(column) for column in zip(*answers))
    pair = paired(plan, dense)
    assert pair.difference == pytest.approx((sum(plan) - sum(dense)) / len(plan))
    assert paired(dense, dense).difference == 0
    low, high = interval(pair.resampled(np.random.default_rng(0)))
    assert low <= pair.difference + 1e-9
    assert high >= pair.difference - 1e-9


def test_bootstrap_agrees_with_the_binomial():
    pair = paired([False] * 30 + [True] * 170, [True] * 200)
    samples = pair.resampled(np.random.default_rng(1))
    assert samples.mean() == pytest.approx(-0.15, abs=0.002)
    assert samples.std() == pytest.approx((0.15 * 0.85 / 200) ** 0.5, rel=0.05)


@given(tokens, st.integers(1, 4), st.integers(2, 10))
def test_a_phrase_said_over_and_over_is_found(start, period, times):
    phrase = list(range(10, 10 + period))
    assert repeated([*start, *phrase * times]) >= period * (times - 1)
    assert repeated(list(range(30))) == 0


@given(tokens)
def test_the_right_answer_never_collapses(answer):
    assert not collapsed(answer, answer)
    assert not collapsed(answer * 3, answer * 3), "a question may ask for repetition"
    assert not collapsed([*answer, 7, 7, 7, 7, 7, 7], answer), "a few tokens too many are another mistake"
    assert collapsed([1, 2, 3, 7, 7, 7, 7, 7, 7, 7, 7], [1, 2, 3])


@given(tokens, tokens)
def test_agreement_is_a_symmetric_share(a, b):
    assert agreement(a, b) == agreement(b, a)
    assert 0 <= agreement(a, b) <= 1
    assert agreement(a, a) == 1
    if a != b:
        assert agreement(a, b) < 1


def test_nothing_is_not_scored():
    with pytest.raises(InputError, match="empty"):
        wilson(0, 0)
    with pytest.raises(InputError, match="same, non-empty items"):
        paired([True], [])
    with pytest.raises(InputError, match="same, non-empty items"):
        paired([], [])
