"""Sampling on the device: greedy, or the Gumbel-max trick with a counter-based generator per row.

argmax(logits / T + Gumbel noise) is a sample of softmax(logits / T), without a softmax. The noise of vocabulary entry i
is a function of (seed, step, i) alone (Philox4x32-10, Salmon et al., SC 2011), so a request's tokens depend neither on
its row nor on its batch mates, and the reference draws the very same noise. Filters (top-k, top-p, min-p) come before
it in plain torch: they need a sort, and few requests ask for them.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import cdiv, check_packed, check_whole, jit, pow2, tl, use_triton, wide

BLOCK_V = 4096


@jit
def _gumbel(seed, step, i):
    """Standard Gumbel noise -log(-log(1 - u)), u uniform on (0, 1) and finest where the noise is largest, near 0."""
    zero = tl.zeros_like(i)
    bits, _, _, _ = tl.philox(seed, i, zero + step, zero, zero)
    u = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994)
    series = u * (1 + u * (1 / 2 + u * (1 / 3 + u * (1 / 4 + u * (1 / 5)))))  # 1 - u would lose a small u's digits
    return -tl.log(tl.where(u < 0.03125, series, -tl.log(1.0 - u)))


@jit
def _score(logits_ptr, temperature_ptr, seed_ptr, step_ptr, best_ptr, where_ptr, stride, vocab, BLOCK: tl.constexpr):
    """Best score of one block of one row, and its entry; -1 if a logit is NaN."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + row * stride + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
    broken = tl.max((x != x).to(tl.int32), 0)
    temperature = tl.load(temperature_ptr + row)
    if temperature > 0:
        x = x / temperature + _gumbel(tl.load(seed_ptr + row), tl.load(step_ptr + row), i)
    x = tl.where(x == x, x, float("-inf"))
    best, where = tl.max(x, 0, return_indices=True)
    place = row * tl.num_programs(1) + block
    tl.store(best_ptr + place, best)
    tl.store(where_ptr + place, tl.where(broken != 0, -1, block * BLOCK + where))


@jit
def _choose(best_ptr, where_ptr, out_ptr, blocks, BLOCKS: tl.constexpr):
    row, b = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCKS)
    best = tl.load(best_ptr + row * blocks + b, mask=b < blocks, other=float("-inf"))
    where = tl.load(where_ptr + row * blocks + b, mask=b < blocks, other=0)
    top, chosen = tl.max(best, 0, return_indices=True)
    token = tl.sum(tl.where(b == chosen, where, 0), 0)
    healthy = (tl.min(where, 0) >= 0) & (top > float("-inf")) & (top < float("inf"))
    tl.store(out_ptr + row, tl.where(healthy, token, -1))


def sample_triton(
    logits: Tensor, temperature: Tensor, seed: Tensor, step: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """As `sample`."""
    check_packed(logits=logits)
    check_whole(temperature=temperature, seed=seed, step=step, out=out)
    rows, vocab = logits.shape
    out = logits.new_empty(rows, dtype=torch.int64) if out is None else out
    blocks = cdiv(vocab, BLOCK_V)
    best = logits.new_empty(rows, blocks, dtype=torch.float32)
    where = logits.new_empty(rows, blocks, dtype=torch.int32)
    _score[(rows, blocks)](
        logits, temperature, seed, step, best, where, logits.stride(0), vocab, BLOCK=BLOCK_V, num_warps=8
    )
    _choose[(rows,)](best, where, out, blocks, BLOCKS=pow2(blocks), num_warps=1)
    return out


def _philox(counter: list[Tensor], key: list[Tensor]) -> Tensor:
    """First of the four words of Philox4x32-10; words are int64 tensors below 2**32."""
    word = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # the products wrap, their words stay right
        c0, c1, c2, c3 = (b >> 32) & word ^ c1 ^ k0, b & word, (a >> 32) & word ^ c3 ^ k1, a & word
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    return c0


def gumbel_noise(seed: Tensor, step: Tensor, vocab: int) -> Tensor:
    """The noise that `sample` adds, float32 [rows, vocab], for seeds and steps [rows]."""
    word = 0xFFFFFFFF
    seed, step = seed.long()[:, None], step.long()[:, None]
    i = torch.arange(vocab, device=seed.device)[None, :].expand(len(seed), -1)
    zero = torch.zeros_like(i)
    bits = _philox([i, zero + (step & word), zero, zero], [zero + (seed & word), zero + (seed >> 32 & word)])
    u = ((bits.float() + 0.5) * 2.0**-32).clamp_max(0.99999994)
    return -torch.log(-torch.log1p(-u))


def sample_reference(
    logits: Tensor, temperature: Tensor, seed: Tensor, step: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """As `sample`."""
    scores = wide(logits)
    warm = temperature > 0
    noisy = scores / temperature.where(warm, 1.0)[:, None] + gumbel_noise(seed, step, logits.shape[1])
    best, tokens = torch.where(warm[:, None], noisy, scores).max(-1)
    tokens = tokens.where(best.isfinite(), -1)
    return tokens if out is None else out.copy_(tokens)


def sample(
    logits: Tensor, temperature: Tensor, seed: Tensor, step: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """One token per row, int64 [rows] (or `out`, any integer dtype); -1 where no token can be drawn.

    logits [rows, vocab], values adjacent; temperature float32 [rows], 0 for greedy (ties go to the lowest entry); seed
    int64 [rows]; step int32 [rows], the number of tokens the request has generated. Entries at -inf are never drawn.
    A row with a NaN or +inf, or with nothing but -inf, yields -1: its request has failed, the others are unharmed.
    """
    op = sample_triton if use_triton(logits) else sample_reference
    return op(logits, temperature, seed, step, out=out)


def filter_logits(
    logits: Tensor, temperature: Tensor, *, top_k: Tensor, top_p: Tensor, min_p: Tensor
) -> Tensor:
    """The logits with every filtered entry at -inf, float32 [rows, vocab]; the order is top-k, top-p, min-p.

    top_k int [rows] (0 keeps all), top_p in (0, 1] (1 keeps all; arXiv 1904.09751), min_p in [0, 1] (0 keeps all;
    arXiv 2407.01082), each float32 [rows]; probabilities are those at the row's temperature, at 1 where it is 0.
    The likeliest entry always stays, and so do entries that tie with the k-th.
    """
    scores = wide(logits)
    order = (scores / temperature.where(temperature > 0, 1.0)[:, None]).sort(dim=-1, descending=True, stable=True)
    ranked, vocab = order.values, logits.shape[1]
    kth = ranked.gather(1, (top_k.long().where(top_k > 0, vocab).clamp_max(vocab) - 1)[:, None])
    probs = ranked.masked_fill(ranked < kth, float("-inf")).softmax(-1)
    before = probs.cumsum(-1) - probs
    past = (before >= top_p[:, None]) & (top_p < 1)[:, None]  # a sum may reach 1 early by rounding
    dropped = (ranked < kth) | past | (probs < min_p[:, None] * probs[:, :1])
    dropped[:, 0] = False
    return scores.masked_fill(torch.zeros_like(dropped).scatter(1, order.indices, dropped), float("-inf"))
