"""Activations, predicated and gathered FFNs, and the compaction they rest on."""

import pytest
import torch

from engine.block import Block, Linear, Norm
from engine.kernels import compact
from engine.kernels import ffn_predicated as ffn
from engine.kernels.act import relu, swiglu, swiglu_reference
from engine.kernels.backend import INTERPRETED
from engine.kernels.ffn_predicated import (
    ffn_gathered,
    ffn_gathered_reference,
    ffn_predicated,
    ffn_predicated_reference,
)
from tests.engine.kernels.support import DTYPES, assert_accurate, ints, noise, poison, same_bits


@pytest.mark.parametrize("width", [40, 1500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_equals_the_reference(dtype, width):
    gate_up = noise(3, 2 * width + 8, dtype=dtype)[:, : 2 * width] * 4
    out = swiglu(gate_up, out=poison(3, width, dtype=dtype))
    assert_accurate(out, swiglu_reference(gate_up), swiglu_reference(gate_up.double()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_is_exact_and_keeps_nan(dtype):
    x = noise(3, 700, dtype=dtype)
    x[1, 5] = float("nan")
    expected = x.relu()
    assert relu(x) is x
    assert torch.equal(x.nan_to_num(9), expected.nan_to_num(9))


def weights(dim: int, width: int, gated: bool, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The parameters of an FFN: SwiGLU without biases, or ReLU with them."""
    w = {"w_up": noise((1 + gated) * width, dim, seed=1, dtype=dtype), "w_down": noise(dim, width, seed=2, dtype=dtype)}
    if not gated:
        w |= {"b_up": noise(width, seed=3, dtype=dtype), "b_down": noise(dim, seed=4, dtype=dtype)}
    return w


def doubled(w: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same parameters in float64."""
    return {name: tensor.double() for name, tensor in w.items()}


@pytest.mark.parametrize(("rows", "dim", "width"), [(1, 128, 96), (5, 96, 200), (20, 130, 72)])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_predicated_ffn_equals_the_reference_and_leaves_inactive_rows(dtype, gated, rows, dim, width):
    x, w = noise(rows, dim, dtype=dtype), weights(dim, width, gated, dtype)
    active = ints([1] + [i % 3 == 0 for i in range(1, rows)], torch.int8)
    on = active != 0
    x[~on] = float("nan")
    out = ffn_predicated(x, **w, active=active, out=poison(rows, dim, dtype=dtype))
    reference, exact = (
        ffn_predicated_reference(x, **w, active=active),
        ffn_predicated_reference(x.double(), **doubled(w), active=active),
    )
    assert_accurate(out[on], reference[on], exact[on])
    assert same_bits(out[~on], poison(int((~on).sum()), dim, dtype=dtype))


def test_without_an_active_row_neither_weights_nor_output_are_touched():
    w = {name: torch.full_like(tensor, float("nan")) for name, tensor in weights(64, 64, True, torch.float32).items()}
    out = noise(4, 64)
    before = out.clone()
    hidden = noise(4, 64, seed=1)
    kept = hidden.clone()
    ffn_predicated(noise(4, 64), **w, active=ints([0] * 4, torch.int8), hidden=hidden, out=out)
    assert same_bits(out, before)
    assert same_bits(hidden, kept)


@pytest.mark.skipif(not INTERPRETED, reason="only the interpreter can replace what a kernel calls")
def test_tiles_without_an_active_row_return_before_the_product(monkeypatch):
    def product(*args, **kwargs):
        raise AssertionError("weights are read")

    monkeypatch.setattr(ffn, "_product", product)
    w = weights(64, 64, True, torch.float32)
    ffn.ffn_predicated(noise(4, 64), **w, active=ints([0] * 4, torch.int8))
    ffn.ffn_gathered(noise(40, 64), **w, index=ints([-1] * 40), count=ints([0]))
    with pytest.raises(Exception, match="weights are read"):
        ffn.ffn_gathered(noise(40, 64), **w, index=ints([3] + [-1] * 39), count=ints([1]))


def test_an_active_row_has_the_bits_of_the_full_run():
    x, w = noise(6, 128, dtype=torch.float16), weights(128, 96, True, torch.float16)
    full = ffn_predicated(x, **w)
    some = ffn_predicated(x, **w, active=ints([0, 1, 0, 0, 1, 0], torch.int8))
    assert same_bits(some[[1, 4]], full[[1, 4]])


def test_too_many_rows_for_predication_are_refused():
    with pytest.raises(ValueError, match="at most 32"):
        ffn_predicated(noise(33, 32), **weights(32, 32, True, torch.float32))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gathered_ffn_equals_the_reference_in_listed_rows_alone(dtype, share):
    rows, dim, width = 150, 96, 72
    x, w = noise(rows, dim, dtype=dtype), weights(dim, width, True, dtype)
    active = (torch.rand(rows, generator=torch.Generator().manual_seed(1)) < share).to(torch.int8).to(x.device)
    on = active != 0
    x[~on] = float("nan")
    index, count = compact.compact_rows(active)
    out = ffn_gathered(x, **w, index=index, count=count, out=poison(rows, dim, dtype=dtype))
    assert same_bits(out[~on], poison(int((~on).sum()), dim, dtype=dtype))
    if share:
        reference = ffn_gathered_reference(x, **w, index=index, count=count)
        exact = ffn_gathered_reference(x.double(), **doubled(w), index=index, count=count)
        assert_accurate(out[on], reference[on], exact[on])


def test_more_rows_than_one_compaction_holds_run_the_plain_ffn():
    w = weights(16, 16, False, torch.float32)
    norm = Norm(torch.ones(16))
    up, down = Linear(w["w_up"], w["b_up"]), Linear(w["w_down"], w["b_down"])
    block = Block(norm, norm, q=up, kv=None, qkv=None, out=down, up=up, down=down, gated=False, post=False)
    x = noise(compact.MAX_ROWS + 1, 16)
    active = torch.ones(len(x), dtype=torch.int8, device=x.device)
    assert torch.equal(block.ffn(x, active), block.ffn(x))


@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_compaction_lists_the_active_rows_in_order(rows, share):
    active = (torch.rand(rows, generator=torch.Generator().manual_seed(rows)) < share).to(torch.int8)
    index, count = compact.compact_rows(active.to(noise(1).device), index=ints([99] * rows), count=ints([99]))
    expected = active.nonzero()[:, 0].tolist()
    assert count.tolist() == [len(expected)]
    assert index.tolist() == expected + [-1] * (rows - len(expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gather_and_scatter_move_bits_and_nothing_else(dtype):
    x = noise(6, 1100, dtype=dtype)
    index, count = compact.compact_rows(ints([0, 1, 1, 0, 1, 0], torch.int8))
    packed = compact.gather_rows(x, index, count, out=poison(6, 1100, dtype=dtype))
    assert same_bits(packed, torch.cat([x[[1, 2, 4]], poison(3, 1100, dtype=dtype)]))
    spread = compact.scatter_rows(packed, index, count, out=poison(6, 1100, dtype=dtype))
    assert same_bits(spread[[1, 2, 4]], x[[1, 2, 4]])
    assert same_bits(spread[[0, 3, 5]], poison(3, 1100, dtype=dtype))
