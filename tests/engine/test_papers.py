"""Each strategy against a model written from its paper: unbatched, unpaged, token by token, without the plan's table.

The models compute in float64 and so does the engine here, so that tokens do not depend on rounding.
"""

from functools import cache

import pytest
import torch

from tests.engine.plain import Cache, Plain
from tests.engine.tinies import LAYERS, assert_idle, greedy, hf_greedy, hf_of, llm_of, prompts_of, tokens_of

OUTPUTS = 10
PROMPTS = prompts_of(9, 23, 4, 14)
VOCAB_LOGPROBS = 10_000


@cache
def plain() -> Plain:
    return Plain(hf_of("llama-gqa"))


def prefill(model: Plain, prompt: list[int], cache: Cache) -> torch.Tensor:
    """A dense prompt; the stream of its last token."""
    for position, token in enumerate(prompt):
        x = model.embed(token)
        for layer in range(model.layers):
            x, _ = model.full(layer, x, position, cache)
    return x


def skip_decode(model: Plain, prompt: list[int], budgets: list[int], warmup: int) -> list[int]:
    """SkipDecode (arXiv 2307.02628): one budget per token; bottom w and top b - w layers run."""
    cache: Cache = [{} for _ in range(model.layers)]
    x, tokens = prefill(model, prompt, cache), []
    for i in range(OUTPUTS):
        tokens.append(int(model.logits(x).argmax()))
        budget = budgets[min(i, len(budgets) - 1)]
        x, position = model.embed(tokens[-1]), len(prompt) + i
        for layer in range(model.layers):
            if layer < warmup or layer >= max(warmup, model.layers - (budget - warmup)):
                assert len(cache[layer]) == position, "the cache of a layer that runs has no hole"
                x, _ = model.full(layer, x, position, cache)
    return tokens


def ffn_skip(model: Plain, prompt: list[int], k: int, threshold: float, cold: int, cadence: int, warmup: int):
    """FFN-SkipLLM (arXiv 2404.03865) as its authors' loop; also which FFNs each token left out."""
    cache: Cache = [{} for _ in range(model.layers)]
    x, tokens, trace = prefill(model, prompt, cache), [], []
    pattern = [0] * warmup + ([k] * (cadence - 1) + [0]) * OUTPUTS
    for i in range(OUTPUTS):
        tokens.append(int(model.logits(x).argmax()))
        budget, x, position, skipped = pattern[i], model.embed(tokens[-1]), len(prompt) + i, []
        layer = max(1, cold)  # the authors have cold layers; without any, the first test is of layer 0
        for below in range(layer):
            x, middle = model.full(below, x, position, cache)
        while layer < model.layers - cold:
            if torch.cosine_similarity(x, middle, dim=0) > threshold and budget > 0:
                for _ in range(budget):
                    u = model.input_norm(layer, x)
                    cache[layer][position] = model.key_value(layer, u, position)
                    x = x + model.attn(layer, u, position, cache[layer])
                    skipped.append(layer)
                    layer += 1
                    if layer == model.layers - cold:
                        break
                budget = 0
            else:
                x, middle = model.full(layer, x, position, cache)
                layer += 1
        for above in range(model.layers - cold, model.layers):
            x, middle = model.full(above, x, position, cache)
        trace.append(skipped)
    return tokens, trace


def swift_kv(model: Plain, prompt: list[int], keep: int, group: int) -> tuple[list[int], list[torch.Tensor]]:
    """SwiftKV with AcrossKV (arXiv 2410.03960), run in full: every token through every layer, as in training."""
    cache: Cache = [{} for _ in range(model.layers)]
    tokens, logits = list(prompt), []
    for position in range(len(prompt) + OUTPUTS - 1):
        x = model.embed(tokens[position])
        for layer in range(keep):
            x, _ = model.full(layer, x, position, cache)
        u = model.input_norm(keep, x)
        for leader in range(keep, model.layers, group):
            shared = tuple(range(leader, leader + group))
            for layer in shared:
                cache[layer][position] = model.key_value(leader, u, position, shared)
        for layer in range(keep, model.layers):
            x = x + model.attn(layer, model.input_norm(layer, x), position, cache[layer])
            x = x + model.ffn(layer, x)
        if position >= len(prompt) - 1:
            logits.append(model.logits(x))
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], logits


def masked(variant: str, prompt: list[int], runs, *, full_prompt: bool = True) -> list[int]:
    """Whole layers left out, recomputed from scratch for each token with transformers' own layers and a mask.

    `runs(i)` is the set of layers of generated token i; prompts run all, unless told otherwise. Exact where later
    tokens run a subset.
    """
    base = hf_of(variant).model
    decoder = base.decoder if variant.startswith("opt") else base
    tokens = list(prompt)
    for _ in range(OUTPUTS):
        states, first = torch.tensor([tokens]), len(prompt) * full_prompt
        hooks = [layer.register_forward_hook(_bypass(j, first, runs)) for j, layer in enumerate(decoder.layers)]
        with torch.no_grad():
            tokens.append(int(hf_of(variant)(states, use_cache=False).logits[0, -1].argmax()))
        for hook in hooks:
            hook.remove()
    return tokens[len(prompt) :]


def _bypass(layer: int, prompt: int, runs):
    def hook(module, args, output):
        keep = torch.tensor([p < prompt or layer in runs(p - prompt) for p in range(output.shape[1])])
        return torch.where(keep[None, :, None], output, args[0])

    return hook


@pytest.mark.parametrize("budgets", [(6, 3), (5, 2), (4, 4)])
@pytest.mark.parametrize("warmup", [0, 1])
def test_skip_decode(budgets, warmup):
    high, low = budgets
    steps = high - low + 1
    spec = f"skip_decode:max_budget={high},min_budget={low},warmup_layers={warmup},schedule_tokens={max(2, steps)}"
    schedule = list(range(high, low - 1, -1))
    expected = [skip_decode(plain(), p, schedule, warmup) for p in PROMPTS]
    assert tokens_of(llm_of("llama-gqa", spec, dtype="float64"), PROMPTS, OUTPUTS) == expected


@pytest.mark.parametrize(
    ("k", "cold", "cadence", "warmup", "threshold"),
    [(2, 1, 3, 2, 0.75), (6, 0, 4, 0, 0.75), (1, 2, 2, 1, 0.75), (6, 1, 4, 0, 0.2), (6, 2, 4, 0, 0.2)],
)
def test_ffn_skip(k, cold, cadence, warmup, threshold):
    spec = f"ffn_skip:run_length={k},threshold={threshold},cold_layers={cold},cadence={cadence},warmup_tokens={warmup}"
    expected = [ffn_skip(plain(), p, k, threshold, cold, cadence, warmup)[0] for p in PROMPTS]
    llm = llm_of("llama-gqa", spec, dtype="float64")
    assert tokens_of(llm, PROMPTS, OUTPUTS) == expected
    assert llm.metrics.gated[0] > 0, "nothing was skipped: the threshold tests nothing"


def test_ffn_skip_counts_what_the_paper_skips():
    spec = "ffn_skip:run_length=2,threshold=0.75,cold_layers=1,cadence=3,warmup_tokens=2"
    trace = ffn_skip(plain(), PROMPTS[0], 2, 0.75, 1, 3, 2)[1][: OUTPUTS - 1]  # the last token is never fed back
    llm = llm_of("llama-gqa", spec, dtype="float64")
    tokens_of(llm, PROMPTS[:1], OUTPUTS)
    assert all(len(layers) <= 2 and not {0, LAYERS - 1} & {*layers} for layers in trace)
    assert trace[0] == trace[1] == trace[4] == [], "warm-up tokens and each third token run in full"
    assert llm.metrics.gated == (sum(map(len, trace)),) * 2, "alone, each FFN it skips is one nobody reads"


@pytest.mark.parametrize(("keep", "group"), [(3, 1), (4, 1), (2, 2), (2, 4), (5, 1), (1, 5)])
def test_swift_kv(keep, group):
    llm = llm_of("llama-gqa", f"swift_kv:keep={keep},group={group}", dtype="float64")
    done = llm.generate(PROMPTS, greedy(OUTPUTS, logprobs=VOCAB_LOGPROBS))
    for prompt, completion in zip(PROMPTS, done):
        tokens, logits = swift_kv(plain(), prompt, keep, group)
        assert completion.token_ids == tokens
        for expected, have in zip(logits, completion.logprobs):
            column = torch.tensor([have[i] for i in range(len(expected))], dtype=torch.float64)
            assert (column - expected.log_softmax(-1)).abs().max() < 1e-9
    assert_idle(llm)


def test_swift_kv_runs_only_sampled_rows_above_the_split():
    llm = llm_of("llama-gqa", "swift_kv:keep=3")
    tokens_of(llm, PROMPTS, OUTPUTS)
    sampled_and_decoded = len(PROMPTS) * OUTPUTS
    assert llm.metrics.rows_above == sampled_and_decoded
    assert llm.metrics.tokens == sum(map(len, PROMPTS)) + len(PROMPTS) * (OUTPUTS - 1)


@pytest.mark.parametrize("variant", ["llama-gqa", "opt", "opt-350m", "qwen2"])
def test_whole_layers(variant):
    kept = {
        "early_exit:at=3": lambda i: {0, 1, 2},
        "early_exit:at=4,kv_fill=1": lambda i: {0, 1, 2, 3},
        "unified_skip:speedup=2": lambda i: {0, 3, 5},
        "skip_decode:max_budget=6,min_budget=2,schedule_tokens=5": lambda i: {0, *range(1 + min(i, 4), 6)},
    }
    for spec, runs in kept.items():
        expected = [masked(variant, p, runs) for p in PROMPTS[:2]]
        assert tokens_of(llm_of(variant, spec), PROMPTS[:2], OUTPUTS) == expected, spec


def test_static_depth_drops_layers_for_prompts_too():
    llm = llm_of("llama-gqa", "static_depth:drop=2/4/")
    assert [block is None for block in llm.model.blocks] == [False, False, True, False, True, False]
    expected = [masked("llama-gqa", p, lambda i: {0, 1, 3, 5}, full_prompt=False) for p in PROMPTS]
    assert tokens_of(llm, PROMPTS, OUTPUTS) == expected


@pytest.mark.parametrize("variant", ["llama-gqa", "opt", "opt-350m"])
@pytest.mark.parametrize("exit_layer", [1, 4])
def test_self_speculation_is_lossless(variant, exit_layer):
    llm = llm_of(variant, f"self_speculative:exit_layer={exit_layer},tokens=3")
    expected = [hf_greedy(variant, tuple(p), OUTPUTS) for p in PROMPTS]
    assert tokens_of(llm, PROMPTS, OUTPUTS) == expected
    assert llm.metrics.drafted > 0


def test_self_speculation_accepts_what_the_full_model_says():
    """A draft of all layers but a last one that does nothing is always right: each step emits 1 + tokens."""
    llm = llm_of("llama-gqa", f"self_speculative:exit_layer={LAYERS - 1},tokens=3")
    last = llm.model.blocks[-1]
    last.out.weight.zero_()
    last.down.weight.zero_()
    tokens_of(llm, PROMPTS[:1], 13)
    assert llm.metrics.accepted == llm.metrics.drafted == 9
    assert llm.metrics.iterations == 4


def test_self_speculation_is_lossless_under_sampling():
    """Noise belongs to a request's step, so a draft is right exactly when the full model would have drawn it."""
    params = greedy(OUTPUTS, seed=5)
    sampled = [type(params)(**{**vars(params), "temperature": 1.5, "top_k": 20}) for _ in PROMPTS]
    dense = llm_of("llama-gqa").generate(PROMPTS, sampled)
    drafted = llm_of("llama-gqa", "self_speculative:exit_layer=4,tokens=3").generate(PROMPTS, sampled)
    assert [c.token_ids for c in drafted] == [c.token_ids for c in dense]
