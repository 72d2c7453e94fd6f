"""The search finds a planted limit, whatever the start and the step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import CapacityError
from sim.study.search import search

LIMITS = st.floats(0.01, 1e4)


@given(LIMITS, st.floats(0.05, 20), st.floats(1.05, 4), st.floats(0.001, 0.2))
def test_finds_a_planted_limit_to_the_tolerance(limit, start_ratio, step, tolerance):
    found = search(lambda x: x <= limit, start=limit * start_ratio, step=step, tolerance=tolerance)
    assert found.low <= limit < found.high
    assert found.width <= tolerance


@given(LIMITS, st.floats(0.1, 10), st.integers(0, 2**20))
def test_ends_of_the_bracket_were_really_seen(limit, start_ratio, mask):
    """Where the predicate wavers near the limit, `low` still worked and `high` still failed when it was asked."""
    seen = {}

    def works(x):
        near = abs(x / limit - 1) < 0.2
        seen[x] = bool(mask >> (len(seen) % 20) & 1) if near else x < limit
        return seen[x]

    found = search(works, start=limit * start_ratio)
    assert seen[found.low]
    assert not seen[found.high]
    assert found.evaluations == len(seen)


@pytest.mark.parametrize(("answer", "says"), [(True, "still work"), (False, "not even")])
def test_a_predicate_that_never_turns_is_an_error(answer, says):
    with pytest.raises(CapacityError, match=says):
        search(lambda x: answer, start=1.0)


@given(st.floats(1e-6, 0.5), st.floats(1.1, 4))
def test_nothing_far_below_the_least_is_tried(least, step):
    tried = []
    with pytest.raises(CapacityError, match="not even"):
        search(lambda x: bool(tried.append(x)), start=1.0, step=step, least=least)
    assert min(tried) < least <= sorted(tried)[1]
