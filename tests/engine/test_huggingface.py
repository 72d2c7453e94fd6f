"""The dense engine is the model that transformers runs: same logits, same greedy tokens, whatever the schedule."""

import pytest
import torch

from engine.llm import LLM
from engine.tiny import make_tiny
from sim.errors import InputError
from tests.engine.tinies import VARIANTS, greedy, hf_greedy, hf_of, llm_of, prompts_of, recorded, tokens_of

LENGTHS = (5, 37, 18, 1, 11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_logits(variant):
    prompt = prompts_of(33)[0]
    llm = llm_of(variant, max_num_batched_tokens=64)
    seen = recorded(llm)
    llm.generate([prompt], greedy(1))
    with torch.no_grad():
        expected = hf_of(variant)(torch.tensor([prompt])).logits[0, -1]
    assert expected.std() > 0.1, "flat logits would hide mistakes"
    assert (seen[0][0] - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_tokens_of_ragged_batches(variant):
    prompts = prompts_of(*LENGTHS)
    expected = [hf_greedy(variant, tuple(p), 12) for p in prompts]
    assert tokens_of(llm_of(variant), prompts, 12) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 16, 64])
def test_every_chunk_size(chunk):
    prompts = prompts_of(*LENGTHS)
    expected = [hf_greedy("llama-gqa", tuple(p), 6) for p in prompts]
    llm = llm_of("llama-gqa", max_num_batched_tokens=max(chunk, 4), long_prefill_token_threshold=chunk)
    assert tokens_of(llm, prompts, 6) == expected


@pytest.mark.parametrize("policy", ["chunked", "prefill_first", "static"])
@pytest.mark.parametrize("block_tokens", [1, 4, 16])
def test_every_policy_and_page_size(policy, block_tokens):
    prompts = prompts_of(*LENGTHS)
    expected = [hf_greedy("opt", tuple(p), 6) for p in prompts]
    llm = llm_of("opt", policy=policy, block_tokens=block_tokens, kv_blocks=800 // block_tokens)
    assert tokens_of(llm, prompts, 6) == expected


def test_active_sliding_window_is_refused(tmp_path):
    folder = make_tiny(tmp_path, "mistral", layers=2, sliding_window=64)
    with pytest.raises(InputError, match="sliding_window=64"):
        LLM(folder)
