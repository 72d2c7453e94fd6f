"""Paged decode attention: one query token per row, keys split over programs, partial results reduced.

Decode attention reads every key and value of a row once and does little with them, so memory bandwidth bounds it;
splitting the keys (Flash-Decoding) keeps all multiprocessors reading when rows are few. The query heads that share a
KV head form one tile, padded to 16 rows because a tensor-core product has no fewer.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import LOG2_E, SMS, cdiv, check_packed, check_whole, dot, jit, pow2, tl, use_triton
from engine.kernels.paged import attend, slots, softmax_step

BLOCK_N = 64
MAX_SPLITS = 32

Scratch = tuple[Tensor, Tensor]


@jit
def _attend_row(q, k_ptr, v_ptr, page_ptr, lo, hi, scale, kv_stride,
                HEAD_DIM: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
                STAGES: tl.constexpr):  # fmt: skip
    """Attention of q over keys lo..hi-1 (hi > lo) of one KV head, and the base-2 log of its denominator."""
    ROWS: tl.constexpr = q.shape[0]
    d = tl.arange(0, DIM)
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    for start in tl.range(lo, hi, BLOCK_N, num_stages=STAGES):
        n = start + tl.arange(0, BLOCK_N)
        offset = slots(page_ptr, start, n, hi, PAGE, BLOCK_N)[:, None] * kv_stride + d[None, :]
        seen = (n < hi)[:, None] & (d < HEAD_DIM)[None, :]
        k = tl.load(k_ptr + offset, mask=seen, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros([ROWS, BLOCK_N], tl.float32))
        scores = tl.where((n < hi)[None, :], scores, float("-inf"))
        weights, rescale, peak, total = softmax_step(scores, scale, peak, total)
        v = tl.load(v_ptr + offset, mask=seen, other=0.0)
        acc = dot(weights, v, acc * rescale[:, None])
    return acc / total[:, None], peak + tl.log2(total)


@jit
def _span(ctx_ptr, active_ptr, row, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr):
    """Keys of a row (0 if it is inactive), and how many of them each split takes."""
    context = tl.load(ctx_ptr + row)
    if active_ptr is not None:
        context = tl.where(tl.load(active_ptr + row) != 0, context, 0)
    return context, tl.cdiv(tl.cdiv(context, BLOCK_N), SPLITS) * BLOCK_N


@jit(do_not_specialize=["page_stride"])  # tables grow as texts do: no step shall wait for the compiler
def _decode(q_ptr, k_ptr, v_ptr, page_ptr, ctx_ptr, active_ptr, out_ptr, part_ptr, lse_ptr,
            scale, q_stride, kv_stride, page_stride,
            GROUP: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
            PAGE: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    context, span = _span(ctx_ptr, active_ptr, row, BLOCK_N, SPLITS)
    lo = split * span
    hi = tl.minimum(lo + span, context)
    if lo >= hi:  # an inactive row, or a split past the end of a short one
        return
    g, d = tl.arange(0, ROWS), tl.arange(0, DIM)
    inside = (g < GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    lane = (kv_head * GROUP + g)[:, None] * HEAD_DIM + d[None, :]
    q = tl.load(q_ptr + row * q_stride + lane, mask=inside, other=0.0)
    shift = kv_head * HEAD_DIM
    acc, lse = _attend_row(q, k_ptr + shift, v_ptr + shift, page_ptr + row * page_stride, lo, hi, scale, kv_stride,
                           HEAD_DIM, DIM, PAGE, BLOCK_N, STAGES)  # fmt: skip
    head = row * tl.num_programs(1) * GROUP + kv_head * GROUP + g
    if SPLITS == 1:
        tl.store(out_ptr + head[:, None] * HEAD_DIM + d[None, :], acc, mask=inside)
    else:
        part = head * SPLITS + split
        tl.store(part_ptr + part[:, None] * HEAD_DIM + d[None, :], acc, mask=inside)
        tl.store(lse_ptr + part, lse, mask=g < GROUP)


@jit
def _reduce(part_ptr, lse_ptr, ctx_ptr, active_ptr, out_ptr,
            HEAD_DIM: tl.constexpr, DIM: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    context, span = _span(ctx_ptr, active_ptr, row, BLOCK_N, SPLITS)
    if context == 0:
        return
    s, d = tl.arange(0, SPLITS), tl.arange(0, DIM)
    used = s * span < context  # the others were never written
    place = row * tl.num_programs(1) + head
    lse = tl.load(lse_ptr + place * SPLITS + s, mask=used, other=float("-inf"))
    weight = tl.exp2(lse - tl.max(lse, 0))
    inside = used[:, None] & (d < HEAD_DIM)[None, :]
    part = tl.load(part_ptr + (place * SPLITS + s)[:, None] * HEAD_DIM + d[None, :], mask=inside, other=0.0)
    out = tl.sum(part * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out_ptr + place * HEAD_DIM + d, out, mask=d < HEAD_DIM)


def decode_splits(rows: int, kv_heads: int, capacity: int) -> int:
    """Programs per row and KV head: about three per multiprocessor in all, a power of two, none without a key tile.

    `capacity` is the longest context that the page table can hold; the choice depends on shapes alone, so that a
    captured graph keeps it.
    """
    wanted = pow2(max(1, 3 * SMS // (rows * kv_heads)))
    return min(wanted, MAX_SPLITS, pow2(cdiv(capacity, BLOCK_N)))


def decode_scratch(q: Tensor, splits: int) -> Scratch:
    """Fresh float32 partial results, values [rows, heads, splits, head_dim] and logs [rows, heads, splits].

    `splits` is a power of two; it fixes the split of every decode call that is given the result.
    """
    rows, heads, head_dim = q.shape
    return (
        q.new_empty(rows, heads, splits, head_dim, dtype=torch.float32),
        q.new_empty(rows, heads, splits, dtype=torch.float32),
    )


def attn_decode_triton(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, ctx_len: Tensor, *, scale: float,
    active: Tensor | None = None, out: Tensor | None = None, scratch: Scratch | None = None,
) -> Tensor:  # fmt: skip
    """As `attn_decode`; the number of splits is that of `scratch`, or `decode_splits`."""
    check_packed(q=q, page_table=page_table)
    check_whole(k_pages=k_pages, v_pages=v_pages, ctx_len=ctx_len, active=active, out=out)
    rows, heads, head_dim = q.shape
    page_size, kv_heads = k_pages.shape[1:3]
    group = heads // kv_heads
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    splits = scratch[0].shape[2] if scratch else decode_splits(rows, kv_heads, page_table.shape[1] * page_size)
    part, lse = scratch or (decode_scratch(q, splits) if splits > 1 else (None, None))
    shape = {"HEAD_DIM": head_dim, "DIM": max(16, pow2(head_dim)), "BLOCK_N": BLOCK_N, "SPLITS": splits}
    _decode[(rows, kv_heads, splits)](
        q, k_pages, v_pages, page_table, ctx_len, active, out, part, lse,
        scale * LOG2_E, q.stride(0), k_pages.stride(1), page_table.stride(0),
        GROUP=group, ROWS=max(16, pow2(group)), PAGE=page_size, STAGES=3, num_warps=4, **shape,
    )  # fmt: skip
    if splits > 1:
        _reduce[(rows, heads)](part, lse, ctx_len, active, out, num_warps=4, **shape)
    return out


def attn_decode_reference(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, ctx_len: Tensor, *, scale: float,
    active: Tensor | None = None, out: Tensor | None = None, scratch: Scratch | None = None,
) -> Tensor:  # fmt: skip
    """As `attn_decode`, row by row in float32, so that no row's bits depend on another row."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    for row, context in enumerate(ctx_len.tolist()):
        if context and (active is None or active[row]):
            out[row] = attend(q[row : row + 1], k_pages, v_pages, page_table[row], context, scale)[0].to(q.dtype)
    return out


def attn_decode(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, ctx_len: Tensor, *, scale: float,
    active: Tensor | None = None, out: Tensor | None = None, scratch: Scratch | None = None,
) -> Tensor:  # fmt: skip
    """Attention of one query token per row over its paged context, [rows, heads, head_dim] in q's dtype.

    q [rows, heads, head_dim], heads and values adjacent, rows at any stride; pages as in `engine.kernels.paged`;
    page_table int32 [rows, max_pages]; ctx_len int32 [rows] counts the keys including the query's own, which must be
    in the cache already; active int8 [rows] or None. A row with ctx_len 0, or inactive, returns at once: its row of
    `out` stays as it was. `scratch` comes from `decode_scratch`.
    """
    op = attn_decode_triton if use_triton(q) else attn_decode_reference
    return op(q, k_pages, v_pages, page_table, ctx_len, scale=scale, active=active, out=out, scratch=scratch)
