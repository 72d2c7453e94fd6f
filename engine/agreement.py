"""What the dense model would have said: a second engine at full depth, asked about a sample of tokens.

The share of sampled tokens whose likeliest entry is the dense model's too (top-1 agreement) moves long before task
accuracy does. The dense model reads the same tokens as the strategy, those that the strategy chose included.
"""

from collections.abc import Sequence

import numpy as np

from engine.loading import load, plan_for
from engine.loop import Engine
from engine.model import Model
from engine.sampler import SamplingParams
from sim.errors import InputError
from sim.serving.config import SchedulerConfig

BLOCK_TOKENS = 16


class DenseTwin:
    """A dense engine that keeps the prefixes it has seen, so that a longer text of the same request is cheap."""

    def __init__(self, engine: Engine, share: float) -> None:
        if not 0 < share <= 1:
            raise InputError(f"agreement={share} is no share of tokens; choose one above 0 and at most 1")
        self.engine = engine
        self.share = share

    def wants(self, request: int, step: int) -> bool:
        """Whether this token is one of the sample: a matter of request and step alone."""
        return bool(np.random.default_rng((self.engine.seed, request, step)).random() < self.share)

    def top1(self, tokens: Sequence[int]) -> int:
        """The dense model's likeliest token after these; -1 where its logits are not numbers."""
        request = self.engine.add(tokens, SamplingParams(max_tokens=1, ignore_eos=True))
        while self.engine.busy:
            self.engine.step()
        stream = self.engine.streams[request]
        stream.prompt = []  # it is not asked for again
        return stream.tokens[0] if stream.tokens else -1


def dense_twin(model: Model, *, share: float, max_context: int, seed: int) -> DenseTwin:
    """A twin of the model under the dense plan, with room for one context; its weights are read again."""
    plan = plan_for(model.config, "dense")
    number, device = model.embedding.dtype, model.embedding.device
    dense = load(model.config, plan, dtype=number, device=device, seed=seed)
    config = SchedulerConfig(
        max_num_seqs=1, max_num_batched_tokens=2048, block_tokens=BLOCK_TOKENS, prefix_caching=True
    )
    blocks = -(-max_context // BLOCK_TOKENS)
    return DenseTwin(Engine(dense, plan, config, kv_blocks=blocks, max_context=max_context, seed=seed), share)
