"""Rotation and KV writes: single layer, many layers, no rotation, padded rows, NaN in untouched slots."""

import pytest
import torch

from engine.kernels.rope_kv import rope_kv, rope_kv_reference, rope_q, write_kv, write_kv_reference
from tests.engine.kernels.support import DTYPES, assert_accurate, ints, noise, poison, same_bits

SLOTS = [7, -1, 33, 0, -1]
POSITIONS = [3, 0, 41, 0, 63]
SHAPES = [(4, 2, 64), (9, 3, 128), (7, 1, 80), (20, 20, 64)]


def tables(head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of the usual frequencies for 64 positions."""
    frequency = 10000.0 ** (-torch.arange(head_dim // 2).double() * 2 / head_dim)
    angle = torch.arange(64)[:, None] * frequency
    return tuple(f(angle).float().to(noise(1).device) for f in (torch.cos, torch.sin))


def fused(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """q, k and v as views of one projection of five rows."""
    qkv = noise(5, (heads + 2 * kv_heads) * head_dim, dtype=dtype)
    parts = qkv.split([heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], 1)
    return tuple(part.unflatten(1, (-1, head_dim)) for part in parts)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_and_write_equal_the_reference_and_leave_other_slots(dtype, shape):
    heads, kv_heads, head_dim = shape
    slot, position = ints(SLOTS), ints(POSITIONS)
    results = []
    for op, to in ((rope_kv, dtype), (rope_kv_reference, dtype), (rope_kv_reference, torch.float64)):
        q, k, v = (part.to(to) for part in fused(heads, kv_heads, head_dim, dtype))
        pages = [poison(3, 16, kv_heads, head_dim, dtype=to) for _ in "kv"]
        op(q, k, v, *pages, slot, position, *tables(head_dim))
        results.append((q, *(p.flatten(0, 1) for p in pages)))
    written = [s for s in SLOTS if s >= 0]
    for mine, theirs, exact in zip(*results):
        rows = slice(None) if len(mine) == 5 else written
        assert_accurate(mine[rows], theirs[rows], exact[rows])
    for pages in results[0][1:]:
        other = [s for s in range(48) if s not in written]
        assert same_bits(pages[other], poison(len(other), kv_heads, head_dim, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rope_in_place_keeps_the_rest_of_the_fused_projection(dtype):
    q, k, v = fused(4, 2, 64, dtype)
    k_before, v_before, expected = k.clone(), v.clone(), q.clone()
    rope_q(q, ints(POSITIONS), *tables(64))
    pages = poison(3, 16, 2, 64, dtype=dtype)
    rope_kv(expected, k, v, pages, pages.clone(), ints(SLOTS), ints(POSITIONS), *tables(64))
    assert same_bits(q, expected)
    assert same_bits(k, k_before)
    assert same_bits(v, v_before)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bulk_write_equals_the_reference_layer_by_layer(dtype, turned, per_layer):
    kv = noise(5, 3, 2, 2, 64, dtype=dtype)
    slot = ints([[7, -1, 33, 0, -1], [-1, 1, 2, 3, 4], [47, -1, -1, -1, 0]]) if per_layer else ints(SLOTS)
    turn = (ints(POSITIONS), *tables(64)) if turned else ()
    results = []
    for op, to in ((write_kv, dtype), (write_kv_reference, dtype), (write_kv_reference, torch.float64)):
        caches = [poison(4, 3, 16, 2, 64, dtype=to)[1:] for _ in "kv"]
        op(kv[:, :, 0].to(to), kv[:, :, 1].to(to), *caches, slot, *turn)
        results.append(caches)
    for mine, theirs, exact in zip(*results):
        assert torch.equal(mine.isnan(), exact.isnan())
        there = ~exact.isnan()
        assert_accurate(mine[there], theirs[there], exact[there])


def test_a_write_without_rotation_copies_bits():
    _, k, v = fused(4, 2, 64, torch.bfloat16)
    k_pages, v_pages = (poison(3, 16, 2, 64, dtype=torch.bfloat16) for _ in "kv")
    write_kv(k, v, k_pages, v_pages, ints(SLOTS))
    for x, pages in ((k, k_pages), (v, v_pages)):
        assert same_bits(pages.flatten(0, 1)[[7, 33, 0]], x[[0, 2, 3]])
        assert int(pages.flatten(0, 1).isnan().all((1, 2)).sum()) == 45
