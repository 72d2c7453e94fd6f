"""What a batch of known texts does under a plan: per layer the positions that take part, all of them at once.

With the tokens known in advance nothing has to be fed back, so a whole text runs in one pass. Where a plan's layer sets
are nested (SkipDecode) the positions that run a layer are a prefix of the text, where it leaves out a prompt (SwiftKV)
a suffix: a span bounds them, and a mask says which rows of the batch are meant inside it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.errors import PlanError
from sim.plans.plan import ATTN, FFN, SkipPlan


@dataclass(frozen=True)
class Span:
    """Positions low..high-1; `mask` [rows, high - low, 1] is None where every row takes part in all of them."""

    low: int
    high: int
    mask: Tensor | None

    @property
    def empty(self) -> bool:
        """Whether nobody takes part."""
        return self.low == self.high


@dataclass(frozen=True)
class Schedule:
    """A plan laid over texts: who attends and who feeds forward in each layer, and how far each cache is read."""

    plan: SkipPlan
    attends: tuple[Span, ...]  # by layer
    feeds: tuple[Span, ...]
    read_to: tuple[int, ...]  # by layer that owns a cache: positions that somebody may attend to
    eligible: Tensor | None  # bool [rows, positions], generated tokens that the FFN gate may thin out


def schedule_of(plan: SkipPlan, prompt_tokens: Tensor, positions: int, *, layers: int) -> Schedule:
    """The schedule of texts of up to `positions` tokens whose first `prompt_tokens` [rows] are the prompt.

    Raises PlanError for a plan of another depth.
    """
    if plan.layers != layers:
        raise PlanError(
            f"plan {plan.name!r} is for {plan.layers} layers, the model has {layers}; make it for this model"
        )
    device = prompt_tokens.device
    fed = np.arange(positions)[None, :] - prompt_tokens.cpu().numpy()[:, None]
    table = np.concatenate([plan.prompt[None], plan.sampled[None], plan.decode])
    row = np.where(fed < -1, 0, np.minimum(fed, plan.decode.shape[0] - 1) + 2)
    flags = table[row]  # [rows, positions, L]
    attends = tuple(_span((flags[..., layer] & ATTN) > 0, device) for layer in range(layers))
    feeds = tuple(_span((flags[..., layer] & FFN) > 0, device) for layer in range(layers))
    readers = [[j for j in range(layers) if plan.kv_owner[j] == layer] for layer in range(layers)]
    read_to = tuple(max((attends[j].high for j in group), default=0) for group in readers)
    return Schedule(plan, attends, feeds, read_to, _eligible(plan, fed, device))


def _span(mask: NDArray[np.bool_], device: torch.device) -> Span:
    used = np.flatnonzero(mask.any(axis=0))
    if not used.size:
        return Span(0, 0, None)
    low, high = int(used[0]), int(used[-1]) + 1
    inside = mask[:, low:high]
    return Span(low, high, None if inside.all() else torch.from_numpy(inside[..., None].copy()).to(device))


def _eligible(plan: SkipPlan, fed: NDArray[np.int64], device: torch.device) -> Tensor | None:
    """Generated tokens after the gate's warm-up, but for each cadence's last."""
    gate = plan.gate
    if gate is None:
        return None
    since = fed - gate.warmup_tokens
    looked_at = (since >= 0) & (since % gate.cadence != gate.cadence - 1)
    return torch.from_numpy(looked_at).to(device) if looked_at.any() else None
