"""A plan's worth by arithmetic: what counting FLOPs and bytes promises before a batch, a queue or a kernel is known."""

import numpy as np

from sim.plans.closed_forms import decode_weight_bytes, prefill_weight_bytes, resident_kv_bytes
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.strategies import dense

OUTPUT = 256  # generated tokens over which the decode is averaged


def ceilings(plan: SkipPlan, model: ModelShape) -> dict[str, float]:
    """Ratios dense / plan for a single sequence without attention over long contexts: 1 is no gain.

    `prefill` compares the weights that a chunk of prompt touches, `decode` those that a step reads, averaged over the
    first 256 generated tokens; `kv_memory` compares resident caches after a prompt of 1,000 tokens.
    """
    base, tokens = dense(model), np.arange(OUTPUT)

    def reads(p: SkipPlan) -> float:
        return float(sum(decode_weight_bytes(p, model, int(t)) for t in tokens))

    return {
        "prefill": prefill_weight_bytes(base, model, samples=False) / prefill_weight_bytes(plan, model, samples=False),
        "decode": reads(base) / reads(plan),
        "kv_memory": resident_kv_bytes(base, model, 1000, 0) / resident_kv_bytes(plan, model, 1000, 0),
    }
