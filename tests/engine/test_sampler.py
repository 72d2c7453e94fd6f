"""Sampling per request: filters, seeds, penalties, logprobs, and where a text ends."""

import pytest
import torch

from engine.llm import LLM
from engine.sampler import Draw, SamplingParams, draw_tokens
from engine.text import GrowingText, read_tokenizer
from tests.engine.tinies import folder_of, greedy, hf_of, llm_of, prompts_of

LOGITS = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)) * 3


def draw(step: int = 0, history: tuple[int, ...] = (), seed: int = 7, **params) -> list[int]:
    draws = [Draw(SamplingParams(**params), seed, step, history)] * len(LOGITS)
    return draw_tokens(LOGITS, draws).tokens.tolist()


def test_greedy_is_argmax():
    assert draw() == LOGITS.argmax(-1).tolist()


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_the_tightest_filter_is_greedy(filters):
    assert draw(temperature=5.0, **filters) == LOGITS.argmax(-1).tolist()


def test_top_k_never_leaves_the_k_likeliest():
    top = LOGITS.topk(3).indices
    seen = [draw(step=i, temperature=3.0, top_k=3) for i in range(60)]
    for row in range(len(LOGITS)):
        assert {tokens[row] for tokens in seen} == set(top[row].tolist())


def test_noise_belongs_to_seed_and_step():
    hot = {"temperature": 2.0}
    assert draw(step=1, **hot) == draw(step=1, **hot)
    assert draw(step=1, **hot) != draw(step=2, **hot)
    assert draw(seed=1, **hot) != draw(seed=2, **hot)


def test_frequencies_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(4000, 3)
    draws = [Draw(SamplingParams(temperature=0.5), 3, i) for i in range(4000)]
    counts = torch.bincount(draw_tokens(logits, draws).tokens, minlength=3) / 4000
    assert (counts - (logits[0] / 0.5).softmax(0)).abs().max() < 0.03


def test_repetition_penalty_matches_transformers():
    prompt = prompts_of(12)[0]
    expected = hf_of("llama-gqa").generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=15, repetition_penalty=1.7, eos_token_id=None
    )
    done = llm_of("llama-gqa").generate([prompt], greedy(15, repetition_penalty=1.7))
    assert done[0].token_ids == expected[0, 12:].tolist()


def test_filters_of_one_row_leave_the_others_alone():
    draws = [Draw(SamplingParams(), 0, 0), Draw(SamplingParams(temperature=9.0, top_k=2), 0, 0)]
    tokens = draw_tokens(LOGITS[:2], draws).tokens.tolist()
    assert tokens[0] == int(LOGITS[0].argmax())
    assert tokens[1] in LOGITS[1].topk(2).indices.tolist()


def test_seeded_requests_do_not_depend_on_their_batch():
    params = SamplingParams(max_tokens=10, temperature=1.0, seed=11, ignore_eos=True)
    prompt, *others = prompts_of(8, 5, 12)
    alone = llm_of("llama-gqa").generate([prompt], params)[0].token_ids
    mixed = llm_of("llama-gqa").generate([*others, prompt], params)[-1].token_ids
    assert alone == mixed


def test_logprobs_are_of_the_chosen_and_the_likeliest():
    done = llm_of("llama-gqa").generate(prompts_of(8), greedy(3, logprobs=4))[0]
    for token, logprobs in zip(done.token_ids, done.logprobs, strict=True):
        assert len(logprobs) == 4
        assert token == max(logprobs, key=logprobs.__getitem__)
        assert all(p < 0 for p in logprobs.values())


def test_end_of_text_ends_a_request():
    free = llm_of("llama-gqa").generate(prompts_of(8), greedy(12))[0].token_ids
    stop = free[5]
    first = free.index(stop)
    done = llm_of("llama-gqa").generate(prompts_of(8), greedy(12, stop_token_ids=(stop,)))[0]
    assert (done.token_ids, done.finish) == (free[: first + 1], "stop")
    llm = llm_of("llama-gqa")
    object.__setattr__(llm.config, "eos", (stop,))
    assert llm.generate(prompts_of(8), SamplingParams(max_tokens=12))[0].token_ids == free[: first + 1]
    assert llm.generate(prompts_of(8), greedy(12))[0].token_ids == free


@pytest.mark.parametrize("plan", ["dense", "self_speculative:exit_layer=4"])
def test_stop_strings_end_the_text_before_them(plan):
    whole = llm_of("llama-gqa").generate(["The quick"], greedy(20))[0]
    stop = whole.text[6:8]
    llm = llm_of("llama-gqa", plan)
    done = llm.generate(["The quick"], greedy(20, stop=(stop,)))[0]
    assert done.text == whole.text[: whole.text.find(stop)]
    assert done.finish == "stop"
    assert len(done.token_ids) < 20
    assert "".join(c.text for c in llm.stream("The quick", greedy(20, stop=(stop,)))) == done.text


def test_a_stream_never_shows_the_start_of_a_stop_string():
    whole = llm_of("llama-gqa").generate(["The quick"], greedy(20))[0]
    stop = whole.text[3:12]  # longer than any token, so that it comes in pieces
    llm = llm_of("llama-gqa")
    chunks = [c.text for c in llm.stream("The quick", greedy(20, stop=(stop, stop[:4] + "?")))]
    assert "".join(chunks) == whole.text[: whole.text.find(stop)]
    unmet = [c.text for c in llm.stream("The quick", greedy(20, stop=(whole.text[-4:] + "?",)))]
    assert "".join(unmet) == whole.text, "what was held back for a stop string that never came is text"


def test_a_top_k_beyond_the_vocabulary_keeps_all():
    llm = llm_of("llama-gqa")
    done = llm.generate(prompts_of(5, 5), [SamplingParams(temperature=1.0, top_k=k, seed=3) for k in (0, 2**40)])
    assert done[1].error is None
    alone = llm_of("llama-gqa").generate(prompts_of(5, 5)[1:], SamplingParams(temperature=1.0, seed=3))
    assert done[1].token_ids == alone[0].token_ids


def test_growing_text_is_the_whole_text():
    tokenizer = read_tokenizer(folder_of("llama-gqa"), "llama")
    tokens = tokenizer("Skip layers – überall 漢字 🙂, done.")["input_ids"]
    text, seen = GrowingText(tokenizer), ""
    for n in range(1, len(tokens) + 1):
        text(tokens[:n])
        assert text.text.startswith(seen), "text that was shown is never taken back"
        assert "\ufffd" not in text.text
        seen = text.text
    assert text.finish(tokens) == tokenizer.decode(tokens)


def test_random_weights_from_a_shape():
    shape = llm_of("llama-gqa").config.shape
    done = [LLM(shape, device="cpu", seed=s).generate([[3, 4, 5]], greedy(4))[0].token_ids for s in (1, 1, 2)]
    assert done[0] == done[1] != done[2]
