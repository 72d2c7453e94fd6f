"""What is timed is what was asked: every set of buffers, and an output without holes."""

from itertools import pairwise

import pytest
import torch

from calibration.measure_buffers import CACHES, PAGE, Buffers
from calibration.timing import BrokenKernel, Op, on_cpu, spread_of
from engine.config import config_of
from tests.calibration.test_grid import TINY


def test_a_kernel_that_leaves_a_hole_was_not_measured():
    out = torch.empty(8)

    def broken(_: int) -> None:
        out[:7] = 1.0

    with pytest.raises(BrokenKernel, match=r"\[8\]"):
        on_cpu(Op(broken, 1, [out]))
    assert on_cpu(Op(lambda _: out.fill_(1.0), 1, [out])).p50_ns > 0


def test_every_set_takes_its_turn():
    seen = []
    on_cpu(Op(seen.append, 3))
    assert set(seen) == {0, 1, 2}
    turns = [b for a, b in pairwise(seen) if b != (a + 1) % 3]
    assert set(turns) <= {0}, "sets are taken in turn, each sample from the first"


def test_quantiles_are_in_order():
    spread = spread_of([5.0, 1.0, 3.0, 2.0, 4.0], "clock")
    assert 1 < spread.p20_ns < spread.p50_ns == 3 < spread.p80_ns < 5
    assert (spread.samples, spread.method) == (5, "clock")


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_weights_and_pages_are_more_than_a_cache_holds(cache_bytes):
    buffers = Buffers(config_of(TINY), device=torch.device("cpu"), dtype=torch.float32, cache_bytes=cache_bytes)
    assert buffers.sets(64 * 64) >= 2
    assert buffers.sets(64 * 64) * 64 * 64 * 4 >= min(CACHES * cache_bytes, 256 * 64 * 64 * 4)
    k, v, tables = buffers.tables(2, 40)
    assert k.nbytes + v.nbytes >= CACHES * cache_bytes - 2 * PAGE * TINY.d_kv * 4
    assert tables.shape[1:] == (2, 3)
    pages = tables.flatten()
    assert pages.unique().numel() == pages.numel(), "no page is shared"
    assert pages.max() < len(k)
