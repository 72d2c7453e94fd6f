"""Paged attention kernels against their references, with poison wherever nothing may be read."""

import pytest
import torch

from engine.kernels.attn_decode import attn_decode, attn_decode_reference, decode_scratch
from engine.kernels.attn_prefill import attn_prefill, attn_prefill_reference
from tests.engine.kernels.support import DTYPES, assert_accurate, ints, noise, paged, poison, same_bits

SHAPES = [(4, 4, 64, 16), (6, 2, 128, 64), (8, 2, 64, 64), (7, 1, 80, 16)]  # heads, kv_heads, head_dim, page_size
CONTEXTS = [1, 64, 0, 130, 17]


def fused_q(rows: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Queries as a view of a fused projection, NaN in the rest of it."""
    fused = poison(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    q = fused[:, : heads * head_dim].unflatten(1, (heads, head_dim))
    return q.copy_(noise(rows, heads, head_dim, seed=99, dtype=dtype))


@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_equals_the_reference_and_leaves_inactive_rows(dtype, shape, splits):
    heads, kv_heads, head_dim, page_size = shape
    cache = paged(CONTEXTS, kv_heads, head_dim, page_size, dtype)
    q = fused_q(len(CONTEXTS), heads, kv_heads, head_dim, dtype)
    scratch = tuple(part.fill_(float("nan")) for part in decode_scratch(q, splits))
    active = ints([1, 1, 1, 1, 0], torch.int8)
    out = attn_decode(
        q, *cache.args, scale=0.1, active=active, out=poison(*q.shape, dtype=dtype), scratch=scratch
    )
    kept = [0, 1, 3]
    reference = attn_decode_reference(q, *cache.args, scale=0.1, active=active)
    exact = attn_decode_reference(q.double(), *cache.double().args, scale=0.1, active=active)
    assert_accurate(out[kept], reference[kept], exact[kept])
    assert same_bits(out[[2, 4]], poison(2, heads, head_dim, dtype=dtype))


def test_a_decode_row_does_not_depend_on_its_mates():
    cache = paged(CONTEXTS, 1, 64, 16, torch.float16)
    q = noise(len(CONTEXTS), 4, 64, dtype=torch.float16)
    together = attn_decode(q, *cache.args, scale=0.1, scratch=decode_scratch(q, 2))
    alone = attn_decode(
        q[3:4], cache.k, cache.v, cache.table[3:4], cache.ctx[3:4], scale=0.1, scratch=decode_scratch(q[3:4], 2)
    )
    assert same_bits(alone[0], together[3])


PIECES = {  # queries per sequence, contexts, rows of q that nobody owns
    "whole prompts": ([70, 33], [70, 33], 0),
    "chunks after a context": ([65, 1, 16], [100, 129, 16], 7),
    "an empty piece and an inactive sequence": ([40, 0, 9], [40, 20, 0], 3),
    "large tiles": ([130], [200], 0),
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 1, 128, 64), (2, 2, 64, 16)])
def test_prefill_equals_the_reference_and_leaves_unowned_rows(shape, dtype, pieces):
    queries, contexts, surplus = pieces
    heads, kv_heads, head_dim, page_size = shape
    cache = paged(contexts, kv_heads, head_dim, page_size, dtype)
    cu = ints([sum(queries[:i]) for i in range(len(queries) + 1)])
    q = fused_q(sum(queries) + surplus, heads, kv_heads, head_dim, dtype)
    out = attn_prefill(q, *cache.args, cu, scale=0.1, out=poison(*q.shape, dtype=dtype))
    owned = torch.cat([torch.full((n,), context > 0) for n, context in zip(queries, contexts)])
    owned = torch.cat([owned, torch.zeros(surplus, dtype=torch.bool)])
    reference = attn_prefill_reference(q, *cache.args, cu, scale=0.1)
    exact = attn_prefill_reference(q.double(), *cache.double().args, cu, scale=0.1)
    assert_accurate(out[owned], reference[owned], exact[owned])
    assert same_bits(out[~owned], poison(int((~owned).sum()), heads, head_dim, dtype=dtype))


@pytest.mark.parametrize("page_size", [16, 64])
def test_prefill_of_odd_heads_equals_the_reference(page_size):
    cache = paged([75], 1, 80, page_size, torch.float32)
    q, cu = fused_q(75, 7, 1, 80, torch.float32), ints([0, 75])
    exact = attn_prefill_reference(q.double(), *cache.double().args, cu, scale=0.1)
    reference = attn_prefill_reference(q, *cache.args, cu, scale=0.1)
    assert_accurate(attn_prefill(q, *cache.args, cu, scale=0.1), reference, exact)


def test_pages_in_another_layout_are_refused():
    cache = paged([20], 2, 64, 16, torch.float32)
    heads_first = cache.k.transpose(1, 2)
    with pytest.raises(ValueError, match="it must be contiguous"):
        attn_decode(noise(1, 4, 64), heads_first, heads_first, cache.table, cache.ctx, scale=0.1)
