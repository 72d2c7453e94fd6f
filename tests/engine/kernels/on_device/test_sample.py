"""The sampler: the reference's own tokens, seeds that fix them, and rows that cannot be sampled."""

import pytest
import torch

from engine.kernels.backend import jit, tl
from engine.kernels.sample import _gumbel, gumbel_noise, sample, sample_reference
from tests.engine.kernels.support import DTYPES, ints, noise


@jit
def _noise(out_ptr, seed, step, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    tl.store(out_ptr + i, _gumbel(seed, step, i))


def test_the_kernels_noise_is_the_references():
    for seed, step in ((5, 9), (-(2**40), 2**31 - 1)):
        out = noise(16384)
        _noise[(1,)](out, seed, step, SIZE=16384)
        expected = gumbel_noise(ints([seed], torch.int64), ints([step]), 16384)[0]
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)


def draw(logits, temperature, seed, step=0, *, op=sample):
    """Tokens at one temperature, seeds and one step."""
    rows = len(logits)
    heat = torch.full((rows,), float(temperature), device=logits.device)
    return op(logits, heat, ints(seed, torch.int64), ints([step] * rows))


@pytest.mark.parametrize("vocab", [5, 4096, 9001])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0, 0.7, 3])
def test_sampled_tokens_are_the_references(vocab, dtype, temperature):
    logits, seed = noise(4, vocab, dtype=dtype) * 2, [0, 1, -5, 2**62 + 3]
    expected = draw(logits, temperature, seed, 7, op=sample_reference)
    assert draw(logits, temperature, seed, 7).tolist() == expected.tolist()


def test_rows_mix_greedy_and_warm_and_do_not_depend_on_their_place():
    logits = noise(4, 500)
    heat = torch.tensor([0, 1.0, 0, 0.5], device=logits.device)
    seed, step = ints([3, 4, 5, 6], torch.int64), ints([1, 2, 3, 4])
    tokens = sample(logits, heat, seed, step)
    assert tokens[[0, 2]].tolist() == logits[[0, 2]].argmax(-1).tolist()
    order = [3, 0, 2, 1]
    assert sample(logits[order], heat[order], seed[order], step[order]).tolist() == tokens[order].tolist()


def test_ties_go_to_the_lowest_entry_across_blocks():
    logits = torch.zeros(2, 9000, device=noise(1).device)
    logits[0, [4097, 8500]] = 1
    assert draw(logits, 0, [0, 0]).tolist() == [4097, 0]


def test_rows_that_cannot_be_sampled_say_so_and_the_others_are_unharmed():
    logits = noise(6, 5000)
    logits[0, 4500], logits[1], logits[2, 3] = float("nan"), float("-inf"), float("inf")
    logits[3, 1:] = float("-inf")
    logits[4, 17] = float("-inf")
    for temperature in (0, 1):
        tokens = draw(logits, temperature, [1] * 6, op=sample)
        assert tokens[:4].tolist() == [-1, -1, -1, 0]
        assert tokens.tolist() == draw(logits, temperature, [1] * 6, op=sample_reference).tolist()


def test_out_takes_the_tokens_in_its_own_dtype():
    logits, out = noise(3, 50), ints([9, 9, 9])
    heat = torch.zeros(3, device=logits.device)
    assert sample(logits, heat, ints([0] * 3, torch.int64), ints([0] * 3), out=out) is out
    assert out.tolist() == logits.argmax(-1).tolist()
