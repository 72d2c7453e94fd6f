"""The sampler's reference: the generator's published vectors, the distribution it draws from, and the filters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from engine.kernels.sample import _philox, filter_logits, gumbel_noise, sample_reference

VECTORS = [  # known answers of Random123 (Salmon et al., SC 2011): counter, key, first word
    ([0, 0, 0, 0], [0, 0], 0x6627E8D5),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, 0x408F276D),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0], 0xD16CFE09),
]


@pytest.mark.parametrize(("counter", "key", "word"), VECTORS)
def test_philox_gives_the_published_words(counter, key, word):
    assert int(_philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])) == word


def test_the_noise_is_standard_gumbel_and_fresh_for_every_seed_and_step():
    noise = gumbel_noise(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 0]), 20000)
    assert kstest(noise.flatten().numpy(), "gumbel_r").pvalue > 1e-3
    assert abs(torch.corrcoef(noise)[0, 1:]).max() < 0.03
    assert noise.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_softmax_of_the_heated_logits(temperature):
    logits, draws = torch.tensor([0.0, 1.0, 2.0, -1.0, float("-inf")]), 8000
    rows = logits.expand(draws, -1)
    heat = torch.full((draws,), temperature)
    tokens = sample_reference(rows, heat, torch.arange(draws), torch.zeros(draws, dtype=torch.int32))
    seen = tokens.bincount(minlength=5).numpy()
    assert seen[4] == 0
    expected = draws * (logits / temperature).softmax(-1)[:4].double()
    assert chisquare(seen[:4], (expected * draws / expected.sum()).numpy()).pvalue > 1e-3


def keep(logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> set[int]:
    """Entries that stay, by the definitions, one at a time."""
    scaled = torch.tensor(logits, dtype=torch.float64) / (temperature or 1)
    kth = sorted(scaled.tolist(), reverse=True)[min(top_k or len(logits), len(logits)) - 1]
    left = [i for i in range(len(logits)) if scaled[i] >= kth]
    total = sum(scaled[i].exp() for i in left)
    kept, mass = set(), 0.0
    for i in sorted(left, key=lambda i: (-scaled[i], i)):
        share = scaled[i].exp() / total
        if not kept or ((mass < top_p or top_p == 1) and share >= min_p * max(scaled[j].exp() / total for j in left)):
            kept.add(i)
        mass += share
    return kept


grid = st.integers(-12, 12).map(lambda i: i * 0.37)  # coarse: ties happen, and float32 sums stay clear of thresholds


@given(
    st.lists(grid, min_size=1, max_size=9),
    st.sampled_from([0.0, 0.7, 1.0, 1.9]),
    st.integers(0, 12),
    st.sampled_from([0.013, 0.317, 0.733, 0.971, 1.0]),
    st.sampled_from([0.0, 0.0213, 0.291, 1.0]),
)
def test_filters_keep_what_their_definitions_keep(logits, temperature, top_k, top_p, min_p):
    options = {"top_k": torch.tensor([top_k]), "top_p": torch.tensor([top_p]), "min_p": torch.tensor([min_p])}
    filtered = filter_logits(torch.tensor([logits]), torch.tensor([temperature]), **options)[0]
    assert set(filtered.isfinite().nonzero()[:, 0].tolist()) == keep(logits, temperature, top_k, top_p, min_p)
    assert all(value in (float("-inf"), pytest.approx(logit)) for value, logit in zip(filtered.tolist(), logits))


def test_neutral_filters_keep_every_bit_and_rows_have_their_own():
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0)) * 5
    options = {"top_k": torch.tensor([0, 3]), "top_p": torch.tensor([1.0, 1.0]), "min_p": torch.zeros(2)}
    filtered = filter_logits(logits, torch.ones(2), **options)
    assert torch.equal(filtered[0], logits[0])
    assert filtered[1].isfinite().nonzero()[:, 0].tolist() == sorted(logits[1].topk(3).indices.tolist())


def test_a_nan_survives_the_filters_and_fails_its_row_alone():
    logits = torch.randn(2, 30, generator=torch.Generator().manual_seed(0))
    logits[0, 11] = float("nan")
    options = {"top_k": torch.tensor([5, 5]), "top_p": torch.tensor([0.9, 0.9]), "min_p": torch.tensor([0.1, 0.1])}
    filtered = filter_logits(logits, torch.ones(2), **options)
    tokens = sample_reference(filtered, torch.ones(2), torch.tensor([1, 2]), torch.tensor([0, 0], dtype=torch.int32))
    assert tokens[0] == -1
    assert tokens[1] in logits[1].topk(5).indices
