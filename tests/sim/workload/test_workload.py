"""The columns of a workload: what they refuse, and what its views keep."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.workload.workload import Workload


@st.composite
def workloads(draw, hashed=False):
    n = draw(st.integers(1, 40))
    gaps = draw(st.lists(st.integers(0, 10**10), min_size=n - 1, max_size=n - 1))
    tokens = st.lists(st.integers(1, 5000), min_size=n, max_size=n)
    prompt = np.array(draw(tokens))
    hashes = {}
    if hashed:
        offsets = np.concatenate([[0], np.cumsum(-(-prompt // 512))])
        hashes = {"hash_ids": np.arange(offsets[-1]), "hash_offsets": offsets, "hash_block_tokens": 512}
    return Workload(np.concatenate([[0], np.cumsum(gaps, dtype=np.int64)]), prompt, draw(tokens), **hashes)


@given(workloads(), st.floats(1e-3, 1e4))
def test_scaling_reaches_the_rate_and_keeps_order_and_lengths(w, qps):
    if w.arrival_ns[-1] == 0 and len(w) > 1:
        with pytest.raises(InputError, match="no rate to scale"):
            w.scaled_to(qps)
        return
    scaled = w.scaled_to(qps)
    assert (np.diff(scaled.arrival_ns) >= 0).all()
    assert np.array_equal(scaled.prompt_tokens, w.prompt_tokens)
    if len(w) > 1:
        assert scaled.arrival_ns[-1] == pytest.approx((len(w) - 1) / qps * 1e9, abs=1)
        share = w.arrival_ns / w.arrival_ns[-1]
        assert np.allclose(scaled.arrival_ns, share * scaled.arrival_ns[-1], atol=2)


@given(workloads(hashed=True), st.data())
def test_take_is_a_prefix_in_every_column(w, data):
    n = data.draw(st.integers(1, len(w)))
    head = w.take(n)
    assert len(head) == n
    for name in ("arrival_ns", "prompt_tokens", "output_tokens"):
        assert np.array_equal(getattr(head, name), getattr(w, name)[:n])
    assert [list(h) for h in head.hashes()] == [list(h) for h in w.hashes()][:n]


@given(workloads())
def test_offline_only_moves_arrivals(w):
    batch = w.offline()
    assert not batch.arrival_ns.any()
    assert np.array_equal(batch.output_tokens, w.output_tokens)


@given(workloads())
def test_stats_are_those_of_the_columns(w):
    stats = w.stats()
    assert stats["requests"] == len(w)
    assert stats["prompt_tokens"] == w.prompt_tokens.sum()
    ladder = [w.output_tokens.min(), *(stats[f"output_{p}"] for p in ("p50", "p90", "p99", "max"))]
    assert ladder == sorted(ladder)
    if len(w) > 1 and w.arrival_ns[-1]:
        assert stats["qps"] * stats["span_s"] == pytest.approx(len(w) - 1)


def test_a_single_request_is_a_workload():
    w = Workload([0], [5], [1])
    assert len(w) == 1
    assert len(w.scaled_to(3.0)) == 1
    assert np.isnan(w.stats()["qps"])


def test_columns_are_read_only_copies():
    mine = np.array([0, 10])
    w = Workload(mine, [5, 6], [1, 2])
    mine[1] = 99
    assert w.arrival_ns[1] == 10
    with pytest.raises(ValueError, match="read-only"):
        w.arrival_ns[0] = 5


GOOD = {"arrival_ns": [0, 1, 2], "prompt_tokens": [1, 2, 3], "output_tokens": [1, 2, 3]}
HASHED = GOOD | {"hash_ids": [0, 1, 2], "hash_offsets": [0, 1, 2, 3], "hash_block_tokens": 16}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt_tokens": [1, -3, 0]}, r"prompt_tokens\[1\] is -3"),
        ({"output_tokens": [1, 2, 0]}, r"output_tokens\[2\] is 0"),
        ({"prompt_tokens": [1, float("nan"), 3]}, r"prompt_tokens\[1\] is nan"),
        ({"prompt_tokens": [1, 2.5, 3]}, r"prompt_tokens\[1\] is 2.5"),
        ({"prompt_tokens": [1, float("inf"), 3]}, r"prompt_tokens\[1\] is inf"),
        ({"prompt_tokens": ["a", "b", "c"]}, "row of whole numbers"),
        ({"prompt_tokens": [[1, 2, 3]]}, "row of whole numbers"),
        ({"prompt_tokens": [1, 2]}, "2 prompt_tokens for 3 arrivals"),
        ({"prompt_tokens": np.array([1, 2, 2**63], dtype=np.uint64)}, "beyond int64"),
        ({"arrival_ns": [0, 5, 4]}, r"arrival_ns\[2\] is 4, before 5"),
        ({"arrival_ns": [-1, 5, 6]}, r"arrival_ns\[0\] is -1"),
        ({"arrival_ns": [0, 1, 2**63 - 1]}, "beyond the clock"),
        ({"arrival_ns": [], "prompt_tokens": [], "output_tokens": []}, "empty"),
        ({"failed": -1}, "negative"),
        ({"concurrency": 2}, "closed loop"),
        (HASHED | {"hash_block_tokens": 0}, "together"),
        (HASHED | {"hash_offsets": None}, "together"),
        (HASHED | {"hash_offsets": [0, 1, 3]}, "hash_offsets must run from 0 to 3 in 4 steps"),
        (HASHED | {"hash_offsets": [0, 2, 2, 3]}, "request 0 has 2 hash ids"),
        (HASHED | {"hash_ids": [0, -1, 2]}, "hash id -1 is negative"),
    ],
)
def test_a_column_that_cannot_be_used_says_which_row(change, says):
    with pytest.raises(InputError, match=says):
        Workload(**(GOOD | change))


@pytest.mark.parametrize("n", [0, -1, 4])
def test_take_refuses_what_is_not_there(n):
    with pytest.raises(InputError, match=f"cannot take {n}"):
        Workload(**GOOD).take(n)


@pytest.mark.parametrize("qps", [0.0, -1.0, float("nan"), float("inf"), 1e-18])
def test_rates_that_are_none_are_refused(qps):
    with pytest.raises(InputError, match="requests per second"):
        Workload(**GOOD).scaled_to(qps)
