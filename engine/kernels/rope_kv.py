"""Rotary position embedding and the write of keys and values into the paged cache, in one launch.

A cache slot is page * page_size + place in the page (see `engine.kernels.paged`); a negative slot writes nothing, so
padded rows, and rows that keep no KV in this layer, need no special case. Rotation is rotate-half (RoFormer,
arXiv 2104.09864, in the GPT-NeoX pairing): value i turns with value i + head_dim / 2. cos and sin are tables
[positions, head_dim / 2] in float32, so that any frequency scaling is the model's business.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import cdiv, check_packed, check_whole, jit, pow2, tl, use_triton, wide


@jit
def _rotate(x_ptr, y_ptr, cos_ptr, sin_ptr, heads, first,
            BLOCK_H: tl.constexpr, HALF: tl.constexpr, HALF_DIM: tl.constexpr):  # fmt: skip
    """Copies heads first.. of one token from x to y, rotated unless cos is None; y may be x."""
    h, d = first + tl.arange(0, BLOCK_H), tl.arange(0, HALF_DIM)
    there = (h < heads)[:, None] & (d < HALF)[None, :]
    offset = h[:, None] * (2 * HALF) + d[None, :]
    x1 = tl.load(x_ptr + offset, mask=there, other=0.0)
    x2 = tl.load(x_ptr + offset + HALF, mask=there, other=0.0)
    if cos_ptr is not None:
        cos = tl.load(cos_ptr + d, mask=d < HALF, other=0.0)[None, :]
        sin = tl.load(sin_ptr + d, mask=d < HALF, other=0.0)[None, :]
        a, b = x1.to(tl.float32), x2.to(tl.float32)
        x1 = (a * cos - b * sin).to(x_ptr.dtype.element_ty)
        x2 = (b * cos + a * sin).to(x_ptr.dtype.element_ty)
    tl.store(y_ptr + offset, x1, mask=there)
    tl.store(y_ptr + offset + HALF, x2, mask=there)


@jit(do_not_specialize_on_alignment=["slot_ptr", "position_ptr"])  # no step shall wait for the compiler
def _rope_kv(q_ptr, k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, slot_ptr, position_ptr, cos_ptr, sin_ptr,
             q_stride, k_stride, v_stride, k_layer, v_layer, slot_stride, cache_layer, slot_layer,
             q_blocks, heads, kv_heads,
             BLOCK_H: tl.constexpr, HALF: tl.constexpr, HALF_DIM: tl.constexpr):  # fmt: skip
    """Program (row, block, layer): a block of query heads of one row, or of KV heads of one row and cache."""
    row, block, layer = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    if cos_ptr is not None:
        turn = tl.load(position_ptr + row).to(tl.int64) * HALF
        cos_ptr += turn
        sin_ptr += turn
    if q_ptr is not None and block < q_blocks:
        q_row = q_ptr + row * q_stride
        _rotate(q_row, q_row, cos_ptr, sin_ptr, heads, block * BLOCK_H, BLOCK_H, HALF, HALF_DIM)
    elif k_ptr is not None:
        slot = tl.load(slot_ptr + row + layer * slot_layer).to(tl.int64)
        if slot >= 0:
            first = (block - q_blocks) * BLOCK_H
            k_row = k_ptr + row * k_stride + layer * k_layer
            v_row = v_ptr + row * v_stride + layer * v_layer
            place = slot * slot_stride + layer * cache_layer
            _rotate(k_row, k_cache_ptr + place, cos_ptr, sin_ptr, kv_heads, first, BLOCK_H, HALF, HALF_DIM)
            _rotate(v_row, v_cache_ptr + place, None, None, kv_heads, first, BLOCK_H, HALF, HALF_DIM)


def _launch(
    q: Tensor | None, k: Tensor | None, v: Tensor | None, k_cache: Tensor | None, v_cache: Tensor | None,
    slot: Tensor | None, position: Tensor | None, cos: Tensor | None, sin: Tensor | None,
) -> None:  # fmt: skip
    """One launch; k and v are [rows, layers, kv_heads, head_dim], the caches have a leading layer index."""
    check_packed(q=q, k=k, v=v, slot=slot)
    check_whole(k_cache=k_cache, v_cache=v_cache, position=position, cos=cos, sin=sin)
    some = q if q is not None else k
    assert some is not None
    rows, head_dim = some.shape[0], some.shape[-1]
    heads = 0 if q is None else q.shape[1]
    layers, kv_heads = (1, 0) if k is None else k.shape[1:3]
    block = max(1, 1024 // pow2(head_dim))  # eight values per thread of two warps in each half: 128-bit accesses
    q_blocks = cdiv(heads, block)
    strides = [0 if q is None else q.stride(0)]
    if k is not None and v is not None and k_cache is not None and slot is not None:
        strides += [k.stride(0), v.stride(0), k.stride(1), v.stride(1), k_cache.stride(2), k_cache.stride(0)]
        strides += [slot.stride(0) if slot.ndim == 2 else 0]
    else:
        strides += [0] * 7
    _rope_kv[(rows, q_blocks + cdiv(kv_heads, block), layers)](
        q, k, v, k_cache, v_cache, slot, position, cos, sin, *strides, q_blocks, heads, kv_heads,
        BLOCK_H=block, HALF=head_dim // 2, HALF_DIM=pow2(head_dim // 2), num_warps=2,
    )  # fmt: skip


def _rotated(x: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [rows, ..., head_dim] turned by its rows' positions, in x's dtype."""
    shape = (len(x),) + (1,) * (x.ndim - 2) + (-1,)
    c, s = (wide(table)[position.long()].view(shape).to(wide(x).dtype) for table in (cos, sin))
    a, b = wide(x).chunk(2, -1)
    return torch.cat((a * c - b * s, b * c + a * s), -1).to(x.dtype)


def _write(x: Tensor, cache: Tensor, slot: Tensor) -> None:
    """Copies x [rows, kv_heads, head_dim] to the slots ≥ 0 of one layer's pages."""
    kept = slot >= 0
    cache.view(-1, *cache.shape[2:])[slot[kept].long()] = x[kept].to(cache.dtype)


def rope_kv_triton(
    q: Tensor, k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slot: Tensor,
    position: Tensor, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """As `rope_kv`."""
    _launch(q, k[:, None], v[:, None], k_pages[None], v_pages[None], slot, position, cos, sin)


def rope_kv_reference(
    q: Tensor, k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slot: Tensor,
    position: Tensor, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """As `rope_kv`."""
    rope_q_reference(q, position, cos, sin)
    _write(_rotated(k, position, cos, sin), k_pages, slot)
    _write(v, v_pages, slot)


def rope_kv(
    q: Tensor, k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slot: Tensor,
    position: Tensor, cos: Tensor, sin: Tensor,
) -> None:  # fmt: skip
    """None: rotates q in place, and writes the rotated k and v into the pages; k and v keep their values.

    q [rows, heads, head_dim], k and v [rows, kv_heads, head_dim], heads and values adjacent, rows at any stride (views
    of one fused projection do); slot int [rows], negative to write nothing; position int [rows], valid in padded rows
    too. Every row of q is rotated, whatever its slot.
    """
    op = rope_kv_triton if use_triton(q) else rope_kv_reference
    op(q, k, v, k_pages, v_pages, slot, position, cos, sin)


def rope_q_triton(q: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> None:
    """As `rope_q`."""
    _launch(q, None, None, None, None, None, position, cos, sin)


def rope_q_reference(q: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> None:
    """As `rope_q`."""
    q.copy_(_rotated(q, position, cos, sin))


def rope_q(q: Tensor, position: Tensor, cos: Tensor, sin: Tensor) -> None:
    """None: rotates q in place, for layers whose keys are another's business (SwiftKV's upper half, AcrossKV)."""
    op = rope_q_triton if use_triton(q) else rope_q_reference
    op(q, position, cos, sin)


def write_kv_triton(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot: Tensor,
    position: Tensor | None = None, cos: Tensor | None = None, sin: Tensor | None = None,
) -> None:  # fmt: skip
    """As `write_kv`."""
    if k.ndim == 3:
        k, v, k_cache, v_cache = k[:, None], v[:, None], k_cache[None], v_cache[None]
    _launch(None, k, v, k_cache, v_cache, slot, position, cos, sin)


def write_kv_reference(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot: Tensor,
    position: Tensor | None = None, cos: Tensor | None = None, sin: Tensor | None = None,
) -> None:  # fmt: skip
    """As `write_kv`."""
    if k.ndim == 3:
        k, v, k_cache, v_cache = k[:, None], v[:, None], k_cache[None], v_cache[None]
    if position is not None and cos is not None and sin is not None:
        k = _rotated(k, position, cos, sin)
    for layer, slots in enumerate(slot.expand(k.shape[1], -1)):
        _write(k[:, layer], k_cache[layer], slots)
        _write(v[:, layer], v_cache[layer], slots)


def write_kv(
    k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot: Tensor,
    position: Tensor | None = None, cos: Tensor | None = None, sin: Tensor | None = None,
) -> None:  # fmt: skip
    """None: writes k (rotated where tables are given) and v into the pages of one layer, or of many at once.

    One layer: k and v [rows, kv_heads, head_dim], caches as `rope_kv`'s pages. Many, the bulk write of SwiftKV's one
    fused KV projection: k and v [rows, layers, kv_heads, head_dim] at any row and layer strides, caches
    [layers, num_pages, page_size, kv_heads, head_dim] contiguous, slot [rows] or, per layer, [layers, rows].
    """
    op = write_kv_triton if use_triton(k) else write_kv_reference
    op(k, v, k_cache, v_cache, slot, position, cos, sin)
