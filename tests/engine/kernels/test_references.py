"""The references, CPU backend and oracle of the kernels, against independent statements of the same maths."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from engine.kernels.attn_decode import attn_decode_reference, decode_splits
from engine.kernels.attn_prefill import attn_prefill_reference
from engine.kernels.compact import compact_rows_reference, gather_rows_reference, scatter_rows_reference
from engine.kernels.ffn_predicated import ffn_gathered_reference, ffn_predicated_reference
from engine.kernels.norm import CosineGate, add_layer_norm_reference, add_rms_norm_reference
from engine.kernels.rope_kv import rope_kv_reference, rope_q_reference
from tests.engine.kernels.support import ints, noise, paged

HEADS, KV_HEADS, DIM = 6, 2, 16


def dense(cache, row: int, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of one sequence, [1, heads, context, dim], gathered token by token."""
    size = cache.k.shape[1]
    where = [(int(cache.table[row, t // size]), t % size) for t in range(context)]
    stacked = (torch.stack([pages[at] for at in where], 1) for pages in (cache.k, cache.v))
    return tuple(x.repeat_interleave(HEADS // KV_HEADS, 0)[None] for x in stacked)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any), st.sampled_from([4, 16]))
def test_decode_attention_is_scaled_dot_product_attention(contexts, page_size):
    cache = paged(contexts, KV_HEADS, DIM, page_size, torch.float32)
    q = noise(len(contexts), HEADS, DIM, seed=50)
    out = attn_decode_reference(q, *cache.args, scale=0.3, out=torch.zeros_like(q))
    for row, context in enumerate(contexts):
        if context:
            k, v = dense(cache, row, context)
            expected = F.scaled_dot_product_attention(q[row][None, :, None], k, v, scale=0.3)[0, :, 0]
            torch.testing.assert_close(out[row], expected, rtol=1e-5, atol=1e-6)
        else:
            assert not out[row].any()


@given(st.integers(1, 40), st.lists(st.integers(1, 15), min_size=1, max_size=6))
def test_prefill_attention_is_causal_and_indifferent_to_chunks(prompt, cuts):
    cache = paged([prompt], KV_HEADS, DIM, 16, torch.float32)
    q = noise(prompt, HEADS, DIM, seed=60)
    whole = attn_prefill_reference(q, *cache.args, ints([0, prompt]), scale=0.3)
    k, v = dense(cache, 0, prompt)
    expected = F.scaled_dot_product_attention(q.transpose(0, 1)[None], k, v, is_causal=True, scale=0.3)
    torch.testing.assert_close(whole, expected[0].transpose(0, 1), rtol=1e-5, atol=1e-6)
    lo = 0
    for size in [*cuts, prompt]:
        hi = min(lo + size, prompt)
        piece = attn_prefill_reference(
            q[lo:hi], cache.k, cache.v, cache.table, ints([hi]), ints([0, hi - lo]), scale=0.3
        )
        torch.testing.assert_close(piece, whole[lo:hi], rtol=1e-5, atol=1e-6)
        lo = hi


@given(st.integers(1, 512), st.sampled_from([1, 2, 8, 32]), st.integers(1, 131072))
def test_splits_fill_the_device_and_never_outnumber_the_key_tiles(rows, kv_heads, capacity):
    splits = decode_splits(rows, kv_heads, capacity)
    assert splits & (splits - 1) == 0
    assert splits == 1 or splits < 2 * -(-capacity // 64)
    assert rows * kv_heads * splits >= 132 or splits == 32 or splits >= -(-capacity // 64)


def test_norms_are_torchs():
    stream, delta, weight, bias = noise(5, 48), noise(5, 48, seed=1), noise(48, seed=2), noise(48, seed=3)
    total = stream + delta
    mine = stream.clone()
    out = add_rms_norm_reference(mine, delta, weight, eps=1e-5)
    torch.testing.assert_close(out, F.rms_norm(total, (48,), weight, 1e-5))
    assert torch.equal(mine, total)
    mine = stream.clone()
    out = add_layer_norm_reference(mine, delta, weight, bias, eps=1e-5, post=True)
    torch.testing.assert_close(out, F.layer_norm(total, (48,), weight, bias, 1e-5))
    assert out is mine


def published_skips(passes: list[bool], cold: int, budget: int) -> list[int]:
    """Layers whose FFN one token leaves out: the loop of the FFN-SkipLLM authors, for a given outcome of each test."""
    layers, skipped, layer = len(passes), [], cold
    while layer < layers - cold:
        if passes[layer - 1] and budget:
            run = list(range(layer, min(layer + budget, layers - cold)))
            skipped += run
            layer, budget = run[-1] + 1, 0
        else:
            layer += 1
    return skipped


outcomes = st.lists(st.booleans(), min_size=9, max_size=9)


@given(st.lists(outcomes, min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 5))
def test_the_gate_skips_what_the_authors_loop_skips(passes, cold, run):
    rows, layers = len(passes), 9
    masks, armed = torch.ones(layers, rows, dtype=torch.int8), torch.ones(rows, dtype=torch.int8)
    stream, weight = noise(rows, 32), torch.ones(32)
    for layer in range(layers):
        barely = torch.tensor([p[layer] for p in passes])[:, None]
        delta = torch.where(barely, stream * 0.01, stream * -2)
        ahead = masks[layer + 1 : min(layer + 1 + run, layers - cold)] if layer + 1 >= cold else masks[:0]
        add_rms_norm_reference(
            stream, delta, weight, eps=1e-6, active=masks[layer].clone(), gate=CosineGate(0.95, armed, ahead)
        )
    expected = [published_skips(p, cold, run) for p in passes]
    assert [(masks[:, row] == 0).nonzero()[:, 0].tolist() for row in range(rows)] == expected


def angles(positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin tables for DIM values per head."""
    turn = torch.arange(positions)[:, None] * 100.0 ** (-torch.arange(DIM // 2) * 2 / DIM)
    return turn.cos(), turn.sin()


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_rotated_products_depend_on_distance_alone(m, n, shift):
    cos, sin = angles(64)
    products = []
    for a, b in ((m, n), (m + shift, n + shift)):
        q, k = noise(1, 1, DIM, seed=1), noise(1, 1, DIM, seed=2)
        rope_q_reference(q, ints([a]), cos, sin)
        rope_q_reference(k, ints([b]), cos, sin)
        products.append(float((q * k).sum()))
    assert products[0] == pytest.approx(products[1], rel=1e-3, abs=1e-4)


def test_rotation_turns_complex_numbers_and_the_write_lands_in_its_slot():
    cos, sin = angles(32)
    q, k, v = noise(3, 4, DIM), noise(3, 2, DIM, seed=1), noise(3, 2, DIM, seed=2)
    k_pages, v_pages = torch.zeros(2, 4, 2, DIM), torch.zeros(2, 4, 2, DIM)
    turn = torch.complex(cos, sin)[[5, 0, 31]][:, None]
    as_complex = [torch.complex(*x.chunk(2, -1)) * turn for x in (q, k)]
    rope_kv_reference(q, k, v, k_pages, v_pages, ints([6, -1, 1]), ints([5, 0, 31]), cos, sin)
    q_turned, k_turned = (torch.cat((x.real, x.imag), -1) for x in as_complex)
    torch.testing.assert_close(q, q_turned)
    torch.testing.assert_close(k_pages[[1, 0], [2, 1]], k_turned[[0, 2]])
    torch.testing.assert_close(v_pages[[1, 0], [2, 1]], v[[0, 2]])
    assert int(v_pages.any(-1).sum()) == 4


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_packing_and_unpacking_active_rows_is_the_identity_on_them(active):
    mask = torch.tensor(active, dtype=torch.int8)
    x = noise(len(active), 3)
    index, count = compact_rows_reference(mask)
    packed = gather_rows_reference(x, index, count, out=torch.zeros_like(x))
    spread = scatter_rows_reference(packed, index, count, out=torch.full_like(x, 7))
    assert torch.equal(spread, torch.where(mask[:, None] != 0, x, 7.0))
    assert index[: int(count)].tolist() == [i for i, on in enumerate(active) if on]


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_gathered_and_predicated_ffns_agree_with_the_dense_one(active):
    mask, x = torch.tensor(active, dtype=torch.int8), noise(len(active), 8)
    w_up, w_down = noise(20, 8, seed=1), noise(8, 10, seed=2)
    gate, up = (x @ w_up.T).chunk(2, -1)
    expected = torch.where(mask[:, None] != 0, F.silu(gate) * up @ w_down.T, 5.0)
    blank = torch.full_like(x, 5)
    out = ffn_predicated_reference(x, w_up, w_down, active=mask, out=blank.clone())
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    out = ffn_gathered_reference(x, w_up, w_down, *compact_rows_reference(mask), out=blank.clone())
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_the_references_serve_where_triton_is_missing():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch\n"
        "from engine.kernels import attn_decode, attn_prefill, compact, ffn_predicated, norm, rope_kv, sample\n"
        "from engine.kernels.act import swiglu\n"
        "print(swiglu(torch.ones(1, 4)).shape)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "torch.Size([1, 2])\n", run.stderr
