"""Tiny models on disk, made once per session, and engines over them."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from engine.llm import LLM
from engine.sampler import SamplingParams
from engine.tiny import make_tiny
from sim.serving.config import SchedulerConfig

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {}),
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "llama-gqa": ("llama", {}),
    "llama-tied-llama3": ("llama", {"tie_word_embeddings": True, "rope_parameters": LLAMA3, "head_dim": 32}),
    "llama-linear-rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "qwen2": ("qwen2", {}),
    "mistral": ("mistral", {}),
}
LAYERS = 6


@cache
def folder_of(variant: str) -> Path:
    """The folder of one of VARIANTS."""
    family, changes = VARIANTS[variant]
    return make_tiny(Path(mkdtemp()) / variant, family, layers=LAYERS, **changes)


@cache
def hf_of(variant: str) -> Any:
    """The same as a transformers model, in float32."""
    return AutoModelForCausalLM.from_pretrained(folder_of(variant), local_files_only=True).eval()


def llm_of(
    variant: str,
    plan: Any = None,
    *,
    kv_blocks: int = 200,
    dtype: str = "float32",
    pipelined: bool = False,
    agreement: float = 0.0,
    **knobs: Any,
) -> LLM:
    """An engine with small limits, so that batches, chunks and pages all have edges."""
    defaults = {"max_num_seqs": 4, "max_num_batched_tokens": 24, "block_tokens": 4}
    config = SchedulerConfig(**(defaults | knobs))
    return LLM(
        folder_of(variant),
        plan=plan,
        device="cpu",
        dtype=dtype,
        scheduler=config,
        kv_blocks=kv_blocks,
        pipelined=pipelined,
        agreement=agreement,
    )


def prompts_of(*lengths: int, seed: int = 0, vocab: int = 300) -> list[list[int]]:
    """Random prompts of these lengths; token 1 ends a text, so it is left out."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(2, vocab, (n,), generator=generator).tolist() for n in lengths]


def greedy(tokens: int, **more: Any) -> SamplingParams:
    """Greedy parameters that do not stop early."""
    return SamplingParams(max_tokens=tokens, ignore_eos=True, **more)


@cache
def hf_greedy(variant: str, prompt: tuple[int, ...], tokens: int) -> list[int]:
    """What transformers generates."""
    out = hf_of(variant).generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, eos_token_id=None
    )
    return out[0, len(prompt) :].tolist()


def tokens_of(llm: LLM, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy tokens of all prompts, served together."""
    done = llm.generate(prompts, greedy(tokens))
    assert [c.error for c in done] == [None] * len(prompts)
    assert_idle(llm)
    return [c.token_ids for c in done]


def recorded(llm: LLM) -> list[Tensor]:
    """A list that the logits of every later forward pass are put on."""
    seen: list[Tensor] = []
    forward = llm.engine.forward

    def spy(batch: Any) -> Any:
        outcome = forward(batch)
        seen.append(outcome.logits)
        return outcome

    llm.engine.forward = spy  # type: ignore[assignment]
    return seen


def assert_idle(llm: LLM) -> None:
    """Nothing runs, and no page is held but by resident prefix entries."""
    engine = llm.engine
    assert not engine.busy
    entries = engine.cache._entries
    assert engine.cache.pages_in_use == sum(pages.size for pages in entries.values())
    assert not engine.cache._tables
