"""Top-1 agreement with full depth: counted on the sampled tokens, against what a dense run of the same text says."""

import math

import pytest
import torch

from engine.sampler import SamplingParams
from sim.errors import InputError
from tests.engine.tinies import greedy, hf_of, llm_of, prompts_of

PROMPTS = prompts_of(9, 5, 14, seed=3)


def dense_top1(tokens: list[int]) -> int:
    with torch.no_grad():
        return int(hf_of("llama-gqa")(torch.tensor([tokens])).logits[0, -1].argmax())


@pytest.mark.parametrize("pipelined", [False, True])
def test_every_token_compared_with_transformers(pipelined):
    spec = "skip_decode:max_budget=5,min_budget=4,schedule_tokens=3"
    llm = llm_of("llama-gqa", spec, agreement=1.0, pipelined=pipelined)
    done = llm.generate(PROMPTS, greedy(8))
    pairs = [(c, p, i) for c, p in zip(done, PROMPTS) for i in range(8)]
    agreed = sum(dense_top1(p + c.token_ids[:i]) == c.token_ids[i] for c, p, i in pairs)
    assert (llm.metrics.agreed, llm.metrics.compared) == (agreed, len(pairs))
    assert 0 < agreed < len(pairs)
    assert llm.metrics.summary()["agreement_top1"] == agreed / len(pairs)


def test_the_dense_plan_agrees_with_itself_though_its_tokens_are_drawn():
    hot = SamplingParams(max_tokens=10, temperature=2.0, seed=1, ignore_eos=True)
    llm = llm_of("llama-gqa", dtype="float64", agreement=1.0)
    done = llm.generate(PROMPTS, hot)
    assert any(c.token_ids != d.token_ids for c, d in zip(done, llm_of("llama-gqa").generate(PROMPTS, greedy(10))))
    assert llm.metrics.agreed == llm.metrics.compared == 30


def test_a_share_of_the_tokens_is_asked_about_and_none_changes():
    plain, some = llm_of("llama-gqa", "early_exit:at=5,kv_fill=1"), llm_of(
        "llama-gqa", "early_exit:at=5,kv_fill=1", agreement=0.3
    )
    expected, done = (llm.generate(PROMPTS, greedy(20)) for llm in (plain, some))
    assert [c.token_ids for c in done] == [c.token_ids for c in expected]
    assert 5 < some.metrics.compared < 40
    assert plain.metrics.compared == 0
    assert math.isnan(plain.metrics.summary()["agreement_top1"])
    assert some.metrics.tokens == plain.metrics.tokens, "the dense runs are not the strategy's work"


def test_no_share():
    with pytest.raises(InputError, match=r"agreement=1\.5"):
        llm_of("llama-gqa", agreement=1.5)
