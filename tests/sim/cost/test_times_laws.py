"""Laws of every source of kernel times: positive, finite, and never cheaper for more work."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.times import KernelTimes, times_for

SOURCES = (("h200", "measured"), ("h100", "measured"), ("a100", "measured"), ("a100-40", "auto"), ("l4", "roofline"))
HEADS = st.sampled_from([(32, 8, 128), (8, 2, 128), (8, 8, 128), (1, 1, 128), (32, 32, 64), (64, 8, 128), (40, 40, 80)])
DTYPES = st.sampled_from(["bf16", "fp8"])
SIZE = st.integers(16, 131072)
sources = pytest.mark.parametrize(("gpu", "source"), SOURCES, ids=[f"{g}-{s}" for g, s in SOURCES])
cached = cache(times_for)


def of(gpu: str, source: str) -> KernelTimes:
    return cached(gpu, source=source)


def rising(ns: np.ndarray) -> bool:
    """Positive, finite and never falling, but for rounding."""
    return bool(np.isfinite(ns).all() and (ns > 0).all() and (np.diff(ns) >= -1e-9 * ns[1:]).all())


@sources
@given(n=SIZE, k=SIZE, dtype=DTYPES, rows=st.lists(st.integers(1, 100_000), min_size=2, max_size=40))
def test_more_rows_never_cost_less(gpu, source, n, k, dtype, rows):
    assert rising(of(gpu, source).gemm(np.sort(rows), n, k, dtype)[0])


@sources
@given(dtype=DTYPES, m=st.integers(1, 20_000), sides=st.lists(SIZE, min_size=2, max_size=8), other=SIZE)
def test_wider_or_deeper_matrices_never_cost_less(gpu, source, dtype, m, sides, other):
    times = of(gpu, source)
    assert rising(np.array([times.gemm([m], side, other, dtype)[0][0] for side in sorted(sides)]))
    assert rising(np.array([times.gemm([m], other, side, dtype)[0][0] for side in sorted(sides)]))


@sources
@given(
    shape=HEADS,
    dtype=DTYPES,
    new=st.lists(st.integers(1, 60_000), min_size=2, max_size=30),
    context=st.integers(0, 200_000),
)
def test_more_new_tokens_never_cost_less(gpu, source, shape, dtype, new, context):
    assert rising(of(gpu, source).prefill_attention(np.sort(new), context, *shape, dtype)[0])


@sources
@given(
    shape=HEADS,
    dtype=DTYPES,
    count=st.integers(1, 4096),
    context=st.lists(st.floats(0, 300_000), min_size=2, max_size=30),
)
def test_more_context_never_costs_less(gpu, source, shape, dtype, count, context):
    times = of(gpu, source)
    assert rising(times.prefill_attention(count, np.sort(context), *shape, dtype)[0])
    assert rising(times.decode_attention(count, np.sort(context), *shape, dtype)[0])


@sources
@given(
    shape=HEADS,
    dtype=DTYPES,
    rows=st.lists(st.integers(1, 10_000), min_size=2, max_size=30),
    context=st.floats(0, 300_000),
)
def test_more_sequences_never_cost_less(gpu, source, shape, dtype, rows, context):
    assert rising(of(gpu, source).decode_attention(np.sort(rows), context, *shape, dtype)[0])


@sources
@given(tp=st.sampled_from([2, 3, 4, 8, 16]), moved=st.lists(st.floats(1, 1e10), min_size=2, max_size=30))
def test_more_bytes_never_cost_less(gpu, source, tp, moved):
    times = of(gpu, source)
    assert rising(times.elementwise(np.sort(moved))[0])
    assert rising(times.all_reduce(np.sort(moved), tp)[0])


@sources
@given(shape=HEADS, dtype=DTYPES, m=st.integers(1, 5000), n=SIZE, k=SIZE)
def test_a_column_answers_like_its_rows_one_by_one(gpu, source, shape, dtype, m, n, k):
    times = of(gpu, source)
    column = np.array([1, m, m + 1])
    for ask in (
        lambda x: times.gemm(x, n, k, dtype),
        lambda x: times.prefill_attention(x, 300, *shape, dtype),
        lambda x: times.decode_attention(x, 300, *shape, dtype),
        lambda x: times.elementwise(x),
    ):
        ns, inside = ask(column)
        for i, x in enumerate(column):
            alone, alone_inside = ask([x])
            assert (alone[0], alone_inside[0]) == (ns[i], inside[i])
