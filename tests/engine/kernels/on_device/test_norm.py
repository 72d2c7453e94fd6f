"""Add and norm kernels against their references: accuracy, inactive rows, the cosine gate."""

import pytest
import torch

from engine.kernels import norm
from engine.kernels.norm import CosineGate
from tests.engine.kernels.support import DTYPES, assert_accurate, ints, noise, poison, same_bits

ROWS = 5
ACTIVE = [1, 0, 1, 1, 0]


def normed(kind, stream, delta, weight, bias, *, kernel=True, **options):
    """RMSNorm or LayerNorm, by the op or by its reference."""
    op = getattr(norm, f"add_{kind}_norm" + ("" if kernel else "_reference"))
    return op(stream, delta, weight, *([bias] if kind == "layer" else []), eps=1e-5, **options)


@pytest.mark.parametrize("dim", [96, 256, 1000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_add_and_norm_equal_the_reference_and_mask_rows(kind, dtype, dim):
    stream, weight, bias = noise(ROWS, dim, dtype=dtype) + 1, noise(dim, seed=2, dtype=dtype), noise(dim, seed=3)
    stream[1, 3] = -0.0  # adding zero would lose its sign
    active = ints(ACTIVE, torch.int8)
    delta = noise(ROWS, 2 * dim, seed=1, dtype=dtype)[:, :dim]
    delta[active == 0] = float("nan")
    mine, theirs, exact = stream.clone(), stream.clone(), stream.double()
    out = normed(kind, mine, delta, weight, bias, active=active, out=poison(ROWS, dim, dtype=dtype))
    reference = normed(kind, theirs, delta, weight, bias, active=active, kernel=False)
    ideal = normed(kind, exact, delta.double(), weight.double(), bias.double(), active=active, kernel=False)
    assert_accurate(out, reference, ideal)
    assert_accurate(mine, theirs, exact)
    assert same_bits(mine[active == 0], stream[active == 0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_normalised_is_the_stream_as_it_was_stored(dtype):
    stream, delta, weight = noise(3, 500, dtype=dtype), noise(3, 500, seed=1, dtype=dtype), noise(500, seed=2)
    out = normed("rms", stream, delta, weight, None)
    assert same_bits(out, normed("rms", stream, None, weight, None))


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_without_a_delta_the_stream_keeps_its_bits(kind):
    stream, weight, bias = noise(3, 128), noise(128, seed=1), noise(128, seed=2)
    before = stream.clone()
    out = normed(kind, stream, None, weight, bias)
    assert same_bits(stream, before)
    exact = normed(kind, stream.double(), None, weight.double(), bias.double(), kernel=False)
    assert_accurate(out, normed(kind, stream, None, weight, bias, kernel=False), exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_post_norm_replaces_the_stream_of_active_rows(dtype):
    stream, delta = noise(ROWS, 192, dtype=dtype), noise(ROWS, 192, seed=1, dtype=dtype)
    weight, bias = noise(192, seed=2, dtype=dtype), noise(192, seed=3, dtype=dtype)
    active = ints(ACTIVE, torch.int8)
    mine, theirs, exact = stream.clone(), stream.clone(), stream.double()
    out = normed("layer", mine, delta, weight, bias, active=active, post=True)
    normed("layer", theirs, delta, weight, bias, active=active, post=True, kernel=False)
    normed("layer", exact, delta.double(), weight.double(), bias.double(), active=active, post=True, kernel=False)
    assert out is mine
    assert_accurate(mine, theirs, exact)
    assert same_bits(mine[active == 0], stream[active == 0])


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_clears_the_runs_of_rows_that_barely_moved(dtype, kind):
    stream = noise(ROWS, 320, dtype=dtype)
    size = torch.tensor([0.01, 0.01, 2.0, 0.01, 0.01], device=stream.device)
    delta = (noise(ROWS, 320, seed=1) * size[:, None]).to(dtype)
    armed, active = ints([1, 1, 1, 0, 1], torch.int8), ints([1, 1, 1, 1, 0], torch.int8)
    masks = ints([[1] * ROWS] * 6, torch.int8)
    gate = CosineGate(0.95, armed, masks[2:5])
    normed(kind, stream, delta, noise(320, seed=2), noise(320, seed=3), active=active, gate=gate)
    assert armed.tolist() == [0, 0, 1, 0, 1]  # the third moved, the fourth had its run, the fifth did not run its FFN
    assert masks.tolist() == [[1] * 5, [1] * 5, *[[0, 0, 1, 1, 1]] * 3, [1] * 5]


def test_a_gate_with_nothing_ahead_spends_nothing():
    armed, masks = ints([1], torch.int8), ints([[1]], torch.int8)
    normed("rms", noise(1, 64), noise(1, 64) * 0, noise(64), None, gate=CosineGate(0.5, armed, masks[1:]))
    assert armed.tolist() == [1]
    assert masks.tolist() == [[1]]
