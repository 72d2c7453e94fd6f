"""What both attention kernels share: the paged cache's addressing, the online softmax, and the reference.

Layout of the KV cache, per layer (or per cache of a sharing group): k_pages and v_pages are
[num_pages, page_size, kv_heads, head_dim], contiguous, so that token t of a page table row lives at slot
`page_table[row, t // page_size] * page_size + t % page_size` and a slot is one stretch of kv_heads * head_dim values.
Page tables are int32 [rows, max_pages]; entries past a row's context are never read.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import jit, tl, wide


@jit
def slots(page_ptr, start, n, end, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Cache slots (int64 [BLOCK_N]) of tokens n = start + arange, start a multiple of BLOCK_N."""
    if PAGE % BLOCK_N == 0:  # one page holds the whole tile: a scalar lookup, and affine addresses
        page = tl.load(page_ptr + start // PAGE).to(tl.int64)
        return page * PAGE + n % PAGE
    page = tl.load(page_ptr + n // PAGE, mask=n < end, other=0).to(tl.int64)
    return page * PAGE + n % PAGE


@jit
def softmax_step(scores, scale, peak, total):
    """One step of the online softmax (FlashAttention, arXiv 2205.14135): weights, rescale, peak, total.

    `scale` > 0 includes log2(e), so that powers are of two; it is applied beside the subtraction, as one operation.
    """
    new_peak = tl.maximum(peak, tl.max(scores, 1) * scale)
    rescale = tl.exp2(peak - new_peak)
    weights = tl.exp2(scores * scale - new_peak[:, None])
    return weights, rescale, new_peak, total * rescale + tl.sum(weights, 1)


def attend(q: Tensor, k_pages: Tensor, v_pages: Tensor, pages: Tensor, context: int, scale: float) -> Tensor:
    """Causal attention of the last n tokens of one sequence, [n, heads, head_dim] in the reference dtype.

    q [n, heads, head_dim] are the queries of tokens context-n .. context-1; `pages` is the sequence's page table row.
    """
    n, heads, head_dim = q.shape
    page_size, kv_heads = k_pages.shape[1:3]
    held = pages[: -(-context // page_size)].long()
    keys, values = (wide(p[held].reshape(-1, kv_heads, head_dim)[:context]) for p in (k_pages, v_pages))
    grouped = wide(q).reshape(n, kv_heads, heads // kv_heads, head_dim)
    scores = torch.einsum("nhgd,mhd->hgnm", grouped, keys) * scale
    position = torch.arange(context, device=q.device)
    scores = scores.masked_fill(position[None, :] > position[context - n :, None], float("-inf"))
    return torch.einsum("hgnm,mhd->nhgd", scores.softmax(-1), values).reshape(n, heads, head_dim)
