"""The activations between the two halves of an FFN, for FFNs whose products are cuBLAS's."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import cdiv, check_packed, check_whole, jit, tl, use_triton, wide

BLOCK = 1024  # eight values per thread of four warps: 128-bit accesses


@jit
def _swiglu(gate_up_ptr, out_ptr, in_stride, width, BLOCK: tl.constexpr):
    row, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    gate_up_ptr += row * in_stride
    gate = tl.load(gate_up_ptr + f, mask=f < width, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + width + f, mask=f < width, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + f, gate * tl.sigmoid(gate) * up, mask=f < width)


@jit
def _relu(x_ptr, size, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < size, other=0.0).to(tl.float32)
    tl.store(x_ptr + i, tl.where(x < 0, 0.0, x), mask=i < size)


def swiglu_triton(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """As `swiglu`."""
    check_packed(gate_up=gate_up)
    check_whole(out=out)
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width) if out is None else out
    _swiglu[(rows, cdiv(width, BLOCK))](gate_up, out, gate_up.stride(0), width, BLOCK=BLOCK, num_warps=4)
    return out


def swiglu_reference(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """As `swiglu`."""
    gate, up = wide(gate_up).chunk(2, -1)
    result = torch.nn.functional.silu(gate) * up
    return result.to(gate_up.dtype) if out is None else out.copy_(result)


def swiglu(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """silu(gate) * up, [rows, width], of a fused projection gate_up [rows, 2 * width], gates first; `out` contiguous.

    SwiGLU: arXiv 2002.05202.
    """
    op = swiglu_triton if use_triton(gate_up) else swiglu_reference
    return op(gate_up, out=out)


def relu_triton(x: Tensor) -> Tensor:
    """As `relu`."""
    check_whole(x=x)
    _relu[(cdiv(x.numel(), BLOCK),)](x, x.numel(), BLOCK=BLOCK, num_warps=4)
    return x


def relu_reference(x: Tensor) -> Tensor:
    """As `relu`."""
    return x.relu_()


def relu(x: Tensor) -> Tensor:
    """x itself, contiguous, its negative values replaced by zero in place; NaN stays NaN, so that errors show."""
    op = relu_triton if use_triton(x) else relu_reference
    return op(x)
