"""What a training run will cost, before a GPU is held for it: parameters, tokens, FLOPs, memory, seconds."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from calibration.quality.sampling import packed, training_step
from calibration.quality.sizes import Family, Size
from calibration.quality.tasks import tasks_of
from calibration.quality.vocabulary import Vocabulary

RATES = (200e12, 316e12)  # FLOP/s that a model of this size reaches on an H200: 25 % and 40 % of its bf16 matrix rate
STATE = 16  # bytes per parameter: fp32 weights and gradients, two moments
ACTIVATION = (
    34  # bytes per token, layer and hidden element that backward needs in bf16 (Korthikanti et al., 2205.05198)
)


def budget_of(size: Size, family: Family, *, steps: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Figures of the whole run, from the shapes and the first step's texts; nothing is trained and no weight is made.

    `tokens` are fed ones, padding included; FLOPs are 6 per parameter and token, plus attention's 12 per layer, hidden
    element, token and mean context (Kaplan et al., arXiv 2001.08361). `seconds` are for two assumed rates and hold
    neither compilation nor looking.
    """
    vocabulary, count = Vocabulary(size.world), steps or size.steps
    items = training_step(tasks_of(vocabulary), size.mix, seed=seed, step=0)
    batches = packed(items, tokens=size.batch_tokens, widths=size.widths, full=True)
    shapes = [(len(b.prompt), b.tokens.shape[1]) for b in batches]
    tokens = sum(rows * width for rows, width in shapes)
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(family, **size.config(family, len(vocabulary)))
        )
    parameters = sum(p.numel() for p in hf.parameters())
    attention = 12 * size.layers * size.hidden * sum(rows * width * width / 2 for rows, width in shapes)
    flops = count * (6 * parameters * tokens + attention)
    widest = max(rows * width for rows, width in shapes)
    return {
        "size": size.name,
        "family": family,
        "parameters": parameters,
        "vocabulary": len(vocabulary),
        "steps": count,
        "batches_per_step": sorted(set(shapes)),
        "tokens_per_step": tokens,
        "padding": 1 - sum(len(i.prompt) + len(i.answer) for i in items) / tokens,
        "tokens": count * tokens,
        "petaflops": flops / 1e15,
        "memory_gb": (STATE * parameters + ACTIVATION * size.layers * size.hidden * widest) / 1e9,
        "seconds": {f"{rate / 1e12:.0f} TFLOP/s": flops / rate for rate in RATES},
    }
