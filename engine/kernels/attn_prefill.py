"""Paged causal attention of prompt chunks: a ragged batch of query tokens over their paged contexts.

Tiles of 64 or 128 query tokens of one head, so that the tensor cores run warp-group products (wgmma): with 16 rows the
compiler falls back to the slower instructions. Key tiles before the diagonal skip the mask.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import LOG2_E, check_packed, check_whole, dot, jit, pow2, tl, use_triton
from engine.kernels.paged import attend, slots, softmax_step


@jit
def _attend_tile(state, q, k_ptr, v_ptr, page_ptr, position, lo, hi, scale, kv_stride,
                 HEAD_DIM: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
                 STAGES: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """Numerator, denominator and peak after keys lo..hi-1; unmasked tiles are whole and visible to every query."""
    acc, total, peak = state
    d = tl.arange(0, DIM)
    for start in tl.range(lo, hi, BLOCK_N, num_stages=STAGES):
        n = start + tl.arange(0, BLOCK_N)
        offset = slots(page_ptr, start, n, hi, PAGE, BLOCK_N)[:, None] * kv_stride + d[None, :]
        if MASKED:
            there = (n < hi)[:, None] & (d < HEAD_DIM)[None, :]
        else:
            there = tl.broadcast_to((d < HEAD_DIM)[None, :], [BLOCK_N, DIM])
        k = tl.load(k_ptr + offset, mask=there, other=0.0)
        scores = dot(q, tl.trans(k), tl.zeros([q.shape[0], BLOCK_N], tl.float32))
        if MASKED:
            scores = tl.where(n[None, :] <= position[:, None], scores, float("-inf"))
        weights, rescale, peak, total = softmax_step(scores, scale, peak, total)
        v = tl.load(v_ptr + offset, mask=there, other=0.0)
        acc = dot(weights, v, acc * rescale[:, None])
    return acc, total, peak


@jit
def _tile_of(cu_ptr, tile, seqs, SEQS: tl.constexpr, BLOCK_M: tl.constexpr):
    """Which sequence a query tile belongs to, its first query row, its number of queries, and the tile's place in it.

    Sequence s owns tiles cu[s] // BLOCK_M + s onwards: at least as many as it needs, found with one load.
    """
    s = tl.arange(0, SEQS)
    begins = tl.load(cu_ptr + s, mask=s < seqs, other=0) // BLOCK_M + s
    seq = tl.sum(((begins <= tile) & (s < seqs)).to(tl.int32), 0) - 1
    first = tl.load(cu_ptr + seq)
    return seq, first, tl.load(cu_ptr + seq + 1) - first, tile - (first // BLOCK_M + seq)


@jit(do_not_specialize=["page_stride", "seqs"])  # these change from step to step: none shall wait for the compiler
def _prefill(q_ptr, k_ptr, v_ptr, page_ptr, ctx_ptr, cu_ptr, out_ptr, scale, q_stride, kv_stride, page_stride, seqs,
             GROUP: tl.constexpr, SEQS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    head = tl.program_id(0)
    tile = tl.num_programs(1) - 1 - tl.program_id(1)  # late tiles see the most keys: start them first
    seq, first, queries, part = _tile_of(cu_ptr, tile, seqs, SEQS, BLOCK_M)
    context = tl.load(ctx_ptr + seq)
    m = part * BLOCK_M + tl.arange(0, BLOCK_M)
    if (part * BLOCK_M >= queries) | (context == 0):
        return
    d = tl.arange(0, DIM)
    inside = (m < queries)[:, None] & (d < HEAD_DIM)[None, :]
    row = (first + m).to(tl.int64)
    q = tl.load(q_ptr + row[:, None] * q_stride + head * HEAD_DIM + d[None, :], mask=inside, other=0.0)
    position = context - queries + m
    begin = context - queries + part * BLOCK_M
    middle = (begin + 1) // BLOCK_N * BLOCK_N  # keys below are visible to the tile's first query, hence to all
    end = tl.minimum(begin + BLOCK_M, context)
    shift = head // GROUP * HEAD_DIM
    state = (tl.zeros([BLOCK_M, DIM], tl.float32), tl.zeros([BLOCK_M], tl.float32),
             tl.full([BLOCK_M], float("-inf"), tl.float32))  # fmt: skip
    pages = page_ptr + seq.to(tl.int64) * page_stride
    state = _attend_tile(state, q, k_ptr + shift, v_ptr + shift, pages, position, 0, middle, scale, kv_stride,
                         HEAD_DIM, DIM, PAGE, BLOCK_N, STAGES, MASKED=False)  # fmt: skip
    state = _attend_tile(state, q, k_ptr + shift, v_ptr + shift, pages, position, middle, end, scale, kv_stride,
                         HEAD_DIM, DIM, PAGE, BLOCK_N, STAGES, MASKED=True)  # fmt: skip
    acc, total, _ = state
    place = row * tl.num_programs(0) + head
    tl.store(out_ptr + place[:, None] * HEAD_DIM + d[None, :], acc / total[:, None], mask=inside)


def prefill_tiles(tokens: int, seqs: int, dtype: torch.dtype) -> dict[str, int]:
    """Block sizes and warps for a chunk of `tokens` queries in `seqs` sequences: small tiles for short pieces.

    Three stages, because a key tile's page lookup has to run a tile ahead of its load. float32 has no warp-group
    product, and its larger tiles would not fit the registers.
    """
    if dtype == torch.float32:
        return {"BLOCK_M": 16, "BLOCK_N": 32, "STAGES": 3, "num_warps": 4}
    short = tokens < 128 * seqs
    return {"BLOCK_M": 64 if short else 128, "BLOCK_N": 64, "STAGES": 3, "num_warps": 4 if short else 8}


def attn_prefill_triton(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, ctx_len: Tensor, cu_seqlens: Tensor, *,
    scale: float, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `attn_prefill`."""
    check_packed(q=q, page_table=page_table)
    check_whole(k_pages=k_pages, v_pages=v_pages, ctx_len=ctx_len, cu_seqlens=cu_seqlens, out=out)
    tokens, heads, head_dim = q.shape
    page_size, kv_heads = k_pages.shape[1:3]
    seqs = page_table.shape[0]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    tiles = prefill_tiles(tokens, seqs, q.dtype)
    grid = (heads, tokens // tiles["BLOCK_M"] + seqs)
    _prefill[grid](
        q, k_pages, v_pages, page_table, ctx_len, cu_seqlens, out,
        scale * LOG2_E, q.stride(0), k_pages.stride(1), page_table.stride(0), seqs,
        GROUP=heads // kv_heads, SEQS=pow2(seqs), HEAD_DIM=head_dim, DIM=max(16, pow2(head_dim)), PAGE=page_size,
        **tiles,
    )  # fmt: skip
    return out


def attn_prefill_reference(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, ctx_len: Tensor, cu_seqlens: Tensor, *,
    scale: float, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `attn_prefill`, one sequence at a time in float32."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device) if out is None else out
    bounds = cu_seqlens.tolist()
    for seq, context in enumerate(ctx_len.tolist()):
        lo, hi = bounds[seq], bounds[seq + 1]
        if context and hi > lo:
            out[lo:hi] = attend(q[lo:hi], k_pages, v_pages, page_table[seq], context, scale).to(q.dtype)
    return out


def attn_prefill(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, page_table: Tensor, ctx_len: Tensor, cu_seqlens: Tensor, *,
    scale: float, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Causal attention of ragged prompt chunks over their paged contexts, [tokens, heads, head_dim] in q's dtype.

    q [tokens, heads, head_dim], heads and values adjacent, tokens at any stride; sequence s owns query rows
    cu_seqlens[s] .. cu_seqlens[s+1]-1 (int32 [seqs+1], non-decreasing, from 0); ctx_len int32 [seqs] counts its keys
    including this chunk's own, which must be in the cache already, so its query i stands at position
    ctx_len - queries + i. Rows of `out` that no sequence owns, or whose sequence has ctx_len 0, stay as they were.
    Arguments left out are those of `attn_decode`.
    """
    op = attn_prefill_triton if use_triton(q) else attn_prefill_reference
    return op(q, k_pages, v_pages, page_table, ctx_len, cu_seqlens, scale=scale, out=out)
