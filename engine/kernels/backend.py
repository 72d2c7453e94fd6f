"""Where the kernels meet Triton: the choice between kernel and reference, and the one dot product.

Every op of this package is a function `op(...)` beside `op_triton` and `op_reference` of the same signature. `op` runs
the kernel on CUDA tensors, or on CPU tensors when TRITON_INTERPRET=1 was set before the first import, and the reference
everywhere else. The references compute in float32 (float64 for float64 input) and serve as the engine's CPU backend
and as the kernels' oracle. Launchers never synchronise, and allocate nothing but results (and scratch) not passed in.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

__all__ = [
    "INTERPRETED", "LOG2_E", "SMS", "cdiv", "check_packed", "check_whole", "dot", "jit", "pow2", "tl", "use_triton",
    "wide",
]  # fmt: skip

if find_spec("triton"):
    import triton
    import triton.language as tl

    jit = triton.jit
    INTERPRETED = bool(triton.knobs.runtime.interpret)
    UPCAST = tl.constexpr(INTERPRETED)
else:  # no wheel outside Linux: the references serve there
    tl, INTERPRETED, UPCAST = None, False, None

    def jit(fn=None, **_options):
        """The function itself, never launched."""
        return fn or jit


LOG2_E = 1.4426950408889634
SMS = 132  # streaming multiprocessors of an H100 or H200: how many programs fill the device once


def use_triton(x: Tensor) -> bool:
    """Whether the op of a tensor is a kernel launch."""
    return x.is_cuda or INTERPRETED


def wide(x: Tensor) -> Tensor:
    """The tensor in the dtype its reference computes in: float32, or float64 if it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def check_packed(**tensors: Tensor | None) -> None:
    """Raises ValueError unless each tensor's last two dimensions (values of a row, heads of a row) are adjacent."""
    for name, x in tensors.items():
        if x is not None and (x.stride(-1) != 1 or (x.ndim > 2 and x.stride(-2) != x.shape[-1])):
            raise ValueError(f"{name} {tuple(x.shape)} has strides {x.stride()}; its rows must be contiguous")


def check_whole(**tensors: Tensor | None) -> None:
    """Raises ValueError unless each tensor is contiguous."""
    for name, x in tensors.items():
        if x is not None and not x.is_contiguous():
            raise ValueError(f"{name} {tuple(x.shape)} has strides {x.stride()}; it must be contiguous")


def cdiv(a: int, b: int) -> int:
    """Tiles of size b that cover a."""
    return -(-a // b)


def pow2(n: int) -> int:
    """The least power of two ≥ n: Triton's block sizes are powers of two."""
    return 1 << (n - 1).bit_length()


@jit
def dot(a, b, acc):
    """acc + a @ b in float32; a is rounded to b's dtype first, as the tensor cores need it.

    The interpreter multiplies bfloat16 as bit patterns, so there both operands are upcast.
    """
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a.to(b.dtype), b, acc, input_precision="ieee")
