"""What is timed is what was asked: every set of buffers, and an output without holes."""

from itertools import pairwise

import pytest
import torch

from calibration.items import item
from calibration.measure_buffers import CACHES, PAGE, Buffers
from calibration.measure_launch import replayed
from calibration.timing import BrokenKernel, Op, on_cpu, on_gpu, spread_of
from engine.config import config_of
from tests.calibration.fake_cuda import NS_PER_LAUNCH, FakeCuda
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


@pytest.fixture
def cuda(monkeypatch):
    return FakeCuda(monkeypatch)


def test_on_a_gpu_a_launch_takes_its_share_of_a_replay(cuda):
    out, seen = torch.empty(4), []

    def kernel(i):
        seen.append(i)
        cuda.launch(lambda: out.fill_(i + 1.0))

    spread = on_gpu(Op(kernel, 3, [out]))
    assert spread.p20_ns == spread.p50_ns == spread.p80_ns == NS_PER_LAUNCH
    assert (spread.method, spread.samples) == ("graph", 15)
    captured = seen[3:]  # after the warm-up
    assert captured == [i % 3 for i in range(len(captured))]
    assert len(captured) * NS_PER_LAUNCH >= 2.5e6, "short kernels are replayed in numbers"
    assert cuda.heads == 16, "the host has a head start in every sample"


def test_on_a_gpu_a_hole_is_found_too(cuda):
    out = torch.empty(4)
    with pytest.raises(BrokenKernel):
        on_gpu(Op(lambda _: cuda.launch(lambda: out[1:].fill_(0.0)), 1, [out]))


def test_more_buffers_are_replayed_than_a_cache_holds(cuda):
    seen = []
    on_gpu(Op(lambda i: (seen.append(i), [cuda.launch(lambda: None) for _ in range(800)]), 7))
    assert set(seen[3:]) == set(range(7)), "long kernels, too, take all sets in turn"


def test_graphs_are_replayed_in_a_chain(cuda, monkeypatch):
    monkeypatch.setattr("calibration.measure_launch.relu", lambda x: cuda.launch(lambda: x))
    device, host = replayed(item("replay", kernels=8, graphs=4), torch.device("cpu"))
    assert device.p50_ns == 32 * NS_PER_LAUNCH
    assert host.p50_ns > 0
