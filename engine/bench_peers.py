"""transformers on the same prompts, in the same process: one static batch of `generate`, and continuous batching."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from sim.plans.model import ModelShape

Prompts = Sequence[Sequence[int]]
PAGE = 256  # transformers' own


def peers_of(
    source: Path | ModelShape, *, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[Prompts, int], float]]:
    """By system: a function of prompts of equal length and tokens to generate, to output tokens per second."""
    model = _random(source, device) if isinstance(source, ModelShape) else _read(source)
    model = model.to(device, dtype).eval()

    def static(prompts: Prompts, tokens: int) -> float:
        ids = torch.tensor(prompts, device=device)
        options = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
        started = perf_counter()
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return _rate(started, out.numel() - ids.numel(), device)

    def limits(prompts: Prompts, tokens: int) -> dict[str, Any]:
        """On a CPU, the cache that this run needs: it would take most of the machine's memory, and touch all of it."""
        if device.type == "cuda":
            return {}
        pages = len(prompts) * (-(-(len(prompts[0]) + tokens) // PAGE) + 1)
        together = sum(map(len, prompts)) + len(prompts)
        own = ContinuousBatchingConfig(page_size=PAGE, num_blocks=pages, max_batch_tokens=together)
        return {"continuous_batching_config": own}

    def continuous(prompts: Prompts, tokens: int) -> float:
        greedy = {"do_sample": False, "max_new_tokens": tokens, "eos_token_id": -1, "pad_token_id": 0}
        config = GenerationConfig(**greedy)  # type: ignore[no-untyped-call]
        started = perf_counter()
        out = model.generate_batch([list(p) for p in prompts], generation_config=config, **limits(prompts, tokens))
        return _rate(started, sum(len(each.generated_tokens) for each in out.values()), device)

    return {"transformers generate": static, "transformers generate_batch": continuous}


def _read(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _random(shape: ModelShape, device: torch.device) -> Any:
    """A model of that shape with random weights, made where it will run."""
    fields: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "max_position_embeddings": shape.max_context,
        "tie_word_embeddings": shape.tied_embeddings,
    }
    if shape.family == "opt":
        fields |= {"ffn_dim": shape.ffn, "word_embed_proj_dim": shape.hidden}
    else:
        fields |= {"intermediate_size": shape.ffn, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim}
    if shape.family == "mistral":
        fields |= {"sliding_window": None}
    with torch.device(device):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.family, **fields))  # type: ignore[no-untyped-call]


def _rate(started: float, tokens: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return tokens / (perf_counter() - started)
