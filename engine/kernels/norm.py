"""Residual add and normalisation in one pass, with the cosine test that gates later FFN blocks.

One program per row holds the whole row in registers: the stream is read once, written once, and both the norm and the
three sums of the cosine test come from the same registers. The sum is rounded to the stream's dtype before it is
normalised, because the rounded stream is what later layers see.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.kernels.backend import check_packed, check_whole, jit, pow2, tl, use_triton, wide


class CosineGate(NamedTuple):
    """FFN-SkipLLM's test (arXiv 2404.03865; rule of the authors' code), decided per row on the device.

    Where `armed[row]` is set, the row is active, and cos(stream before, stream after the FFN's add) > threshold,
    `armed[row]` is cleared (one run per token) and the row is cleared in each mask of `ahead`, the FFN masks of the
    next run_length layers that may be skipped (possibly none).
    """

    threshold: float
    armed: Tensor  # int8 [rows]
    ahead: Tensor  # int8 [run, rows], a slice of the [layers, rows] FFN masks


@jit
def _normalise(x, w_ptr, b_ptr, eps, mask, d, D: tl.constexpr, LAYER: tl.constexpr):
    """RMSNorm, or LayerNorm with its bias, of one float32 row padded with zeros."""
    if LAYER:
        x = tl.where(mask, x - tl.sum(x, 0) / D, 0.0)
    x = x / tl.sqrt(tl.sum(x * x, 0) / D + eps)
    x = x * tl.load(w_ptr + d, mask=mask, other=0.0).to(tl.float32)
    if LAYER:
        x = x + tl.load(b_ptr + d, mask=mask, other=0.0).to(tl.float32)
    return x


@jit
def _gate(before, after, row, threshold, armed_ptr, ahead_ptr, ahead_stride, run):
    """Clears the row in the next `run` FFN masks if its first passed test is this one."""
    length = tl.sqrt(tl.sum(before * before, 0)) * tl.sqrt(tl.sum(after * after, 0))
    if (tl.load(armed_ptr + row) != 0) & (tl.sum(before * after, 0) > threshold * length):
        tl.store(armed_ptr + row, 0)
        for layer in range(run):
            tl.store(ahead_ptr + layer * ahead_stride + row, 0)


@jit(  # none of these shall make a step wait for the compiler
    do_not_specialize=["ahead_stride", "run"],
    do_not_specialize_on_alignment=["active_ptr", "armed_ptr", "ahead_ptr"],
)
def _add_norm(stream_ptr, delta_ptr, w_ptr, b_ptr, out_ptr, active_ptr, armed_ptr, ahead_ptr,
              eps, threshold, stream_stride, delta_stride, out_stride, ahead_stride, run,
              D: tl.constexpr, BLOCK: tl.constexpr, LAYER: tl.constexpr, POST: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    if POST and active_ptr is not None and tl.load(active_ptr + row) == 0:
        return
    d = tl.arange(0, BLOCK)
    mask = d < D
    x = tl.load(stream_ptr + row * stream_stride + d, mask=mask, other=0.0).to(tl.float32)
    if delta_ptr is not None:
        on = True if active_ptr is None else tl.load(active_ptr + row) != 0
        before = x
        delta = tl.load(delta_ptr + row * delta_stride + d, mask=mask & on, other=0.0).to(tl.float32)
        x = (x + delta).to(stream_ptr.dtype.element_ty).to(tl.float32)
        if not POST:
            tl.store(stream_ptr + row * stream_stride + d, x, mask=mask & on)
        if armed_ptr is not None and on:
            _gate(before, x, row, threshold, armed_ptr, ahead_ptr, ahead_stride, run)
    normed = _normalise(x, w_ptr, b_ptr, eps, mask, d, D, LAYER)
    tl.store(out_ptr + row * out_stride + d, normed, mask=mask)


def _launch(
    stream: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor | None, out: Tensor, *,
    eps: float, active: Tensor | None, gate: CosineGate | None, post: bool = False,
) -> Tensor:  # fmt: skip
    check_packed(stream=stream, delta=delta, out=out)
    check_whole(weight=weight, bias=bias, active=active)
    rows, dim = stream.shape
    if gate is not None and gate.ahead.shape[0] == 0:
        gate = None
    block = pow2(dim)
    _add_norm[(rows,)](
        stream, delta, weight, bias, out, active, gate and gate.armed, gate and gate.ahead,
        eps, gate.threshold if gate else 0.0,
        stream.stride(0), 0 if delta is None else delta.stride(0), out.stride(0),
        gate.ahead.stride(0) if gate else 0, gate.ahead.shape[0] if gate else 0,
        D=dim, BLOCK=block, LAYER=bias is not None, POST=post, num_warps=min(16, max(1, block // 512)),
    )  # fmt: skip
    return out


def _reference(
    stream: Tensor, delta: Tensor | None, active: Tensor | None, gate: CosineGate | None
) -> tuple[Tensor, Tensor]:
    """The new stream, rounded, and which rows changed, [rows] bool."""
    on = torch.ones(len(stream), dtype=torch.bool, device=stream.device) if active is None else active != 0
    if delta is None:
        return stream, on
    after = torch.where(on[:, None], (wide(stream) + wide(delta)).to(stream.dtype), stream)
    if gate is not None and gate.ahead.shape[0]:
        x, y = wide(stream), wide(after)
        passed = (x * y).sum(-1) > gate.threshold * x.norm(dim=-1) * y.norm(dim=-1)
        passed &= on & (gate.armed != 0)
        gate.armed.masked_fill_(passed, 0)
        gate.ahead.masked_fill_(passed[None, :], 0)
    return after, on


def add_rms_norm_triton(
    stream: Tensor, delta: Tensor | None, weight: Tensor, *, eps: float,
    active: Tensor | None = None, gate: CosineGate | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `add_rms_norm`."""
    out = torch.empty_like(stream) if out is None else out
    return _launch(stream, delta, weight, None, out, eps=eps, active=active, gate=gate)


def add_rms_norm_reference(
    stream: Tensor, delta: Tensor | None, weight: Tensor, *, eps: float,
    active: Tensor | None = None, gate: CosineGate | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `add_rms_norm`."""
    after, _ = _reference(stream, delta, active, gate)
    stream.copy_(after)
    x = wide(after)
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * wide(weight)
    return normed.to(stream.dtype) if out is None else out.copy_(normed)


def add_layer_norm_triton(
    stream: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float, post: bool = False,
    active: Tensor | None = None, gate: CosineGate | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `add_layer_norm`."""
    out = stream if post else torch.empty_like(stream) if out is None else out
    return _launch(stream, delta, weight, bias, out, eps=eps, active=active, gate=gate, post=post)


def add_layer_norm_reference(
    stream: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float, post: bool = False,
    active: Tensor | None = None, gate: CosineGate | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `add_layer_norm`."""
    after, on = _reference(stream, delta, active, gate)
    normed = torch.nn.functional.layer_norm(wide(after), after.shape[-1:], wide(weight), wide(bias), eps)
    normed = normed.to(stream.dtype)
    if post:
        return stream.copy_(torch.where(on[:, None], normed, stream))
    stream.copy_(after)
    return normed if out is None else out.copy_(normed)


def add_rms_norm(
    stream: Tensor, delta: Tensor | None, weight: Tensor, *, eps: float,
    active: Tensor | None = None, gate: CosineGate | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """RMSNorm(stream + delta) * weight, [rows, dim] in the stream's dtype; the stream becomes stream + delta in place.

    stream and delta [rows, dim], values adjacent, rows at any stride; delta None norms the stream as it is. Where
    active (int8 [rows]) is 0, the stream keeps its bits, whatever delta holds (NaN included), and the norm is that of
    the unchanged stream. RMSNorm: arXiv 1910.07467; `gate` needs a delta.
    """
    op = add_rms_norm_triton if use_triton(stream) else add_rms_norm_reference
    return op(stream, delta, weight, eps=eps, active=active, gate=gate, out=out)


def add_layer_norm(
    stream: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, *, eps: float, post: bool = False,
    active: Tensor | None = None, gate: CosineGate | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """LayerNorm(stream + delta) * weight + bias, with everything else as in `add_rms_norm`.

    `post` is the post-norm of OPT-350m: the result replaces the stream and is returned as it, `out` is not used, and
    inactive rows of the stream keep their bits.
    """
    op = add_layer_norm_triton if use_triton(stream) else add_layer_norm_reference
    return op(stream, delta, weight, bias, eps=eps, post=post, active=active, gate=gate, out=out)
