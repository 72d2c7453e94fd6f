"""A model that runs known texts under any plan in one differentiable pass: the engine's twin for training and scoring.

The engine feeds token after token through paged caches; this runs all positions of a text at once, in plain autograd.
Both read the same plan table, and the tests hold their logits together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, linear, scaled_dot_product_attention

from engine.adapt_parts import Parts, parts_of
from engine.adapt_schedule import Schedule, Span, schedule_of
from engine.config import ModelConfig
from sim.plans.plan import SkipPlan

KeyValue = tuple[Tensor, Tensor]  # [rows, heads, positions, head_dim] each


@dataclass(frozen=True)
class Seen:
    """What one layer did, for those who watch: streams around its FFN, and the tokens whose FFN the gate left out."""

    layer: int
    before: Tensor  # [rows, positions, hidden], after attention
    after: Tensor
    entered: Tensor  # the layer's input
    skipped: Tensor | None  # bool [rows, positions]


class Twin(nn.Module):
    """A transformers model, its weights under transformers' names, that follows skip plans.

    With `distilled` (keep, group), layers from `keep` on have SwiftKV's own projections beside the original ones; they
    are used by plans whose keys come from layer `keep`.
    """

    def __init__(self, hf: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.hf = hf
        self.config = config
        self.shape = config.shape
        self.parts: Parts = parts_of(hf, config)
        self.distilled: tuple[int, int] | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def schedule(self, plan: SkipPlan, prompt_tokens: Tensor, positions: int) -> Schedule:
        """The plan laid over texts of this model. Raises PlanError for a plan of another depth."""
        return schedule_of(plan, prompt_tokens, positions, layers=self.shape.layers)

    def forward(
        self, tokens: Tensor, schedule: Schedule, watch: Callable[[Seen], None] | None = None, until: int | None = None
    ) -> Tensor:
        """Streams [rows, positions, hidden] after the last layer (before layer `until`) of token ids [rows, positions].

        Positions that a plan leaves out keep the stream they had. Padding belongs behind the texts.
        """
        x = self.parts.embed(tokens)
        caches: dict[int, KeyValue] = {}
        gate = _Gate(schedule)
        for layer in range(self.shape.layers if until is None else until):
            entered = x
            self._fill(layer, x, schedule, caches)
            span = schedule.attends[layer]
            if not span.empty:
                cache = caches[int(schedule.plan.kv_owner[layer])]
                x = _join(x, self._attend(layer, x, span, cache, schedule.plan), span)
            before, span = x, schedule.feeds[layer]
            skipped = gate.skipped(layer)
            if not span.empty:
                x = _join(x, self.parts.ffn(layer, x[:, span.low : span.high]), span, skipped=skipped)
                gate.test(layer, before, x, span)
            if watch:
                watch(Seen(layer, before, x, entered, skipped))
        return x

    def logits(self, streams: Tensor) -> Tensor:
        """Float32 logits of streams that left the last layer."""
        return self.parts.head(streams).float()

    def uses_distilled(self, plan: SkipPlan) -> bool:
        """Whether the plan moves keys and values just as the distilled projections were made for."""
        if self.distilled is None:
            return False
        keep, group = self.distilled
        layer = np.arange(plan.layers)
        owner = np.where(layer >= keep, layer - (layer - keep) % group, layer)
        return bool((plan.kv_input == np.minimum(layer, keep)).all() and (plan.kv_owner == owner).all())

    def _fill(self, layer: int, x: Tensor, schedule: Schedule, caches: dict[int, KeyValue]) -> None:
        """Keys and values of every cache that is projected from this layer's input."""
        plan = schedule.plan
        swift = self.distilled[0] if self.distilled and self.uses_distilled(plan) else plan.layers
        for owner in range(plan.layers):
            end = schedule.read_to[owner]
            if plan.kv_input[owner] != layer or plan.kv_owner[owner] != owner or not end:
                continue
            if owner >= swift:
                u, attn = self.parts.norm(self.hf.model.norm_swiftkv, x[:, :end]), self.parts.layers[owner].self_attn
                k, v = attn.k_proj_swiftkv(u), attn.v_proj_swiftkv(u)
            else:
                u = self.parts.attn_norm(layer, x[:, :end])
                members = [j for j in range(plan.layers) if plan.kv_owner[j] == owner]
                k, v = (self._projected(members, name, u) for name in ("k_proj", "v_proj"))
            caches[owner] = self._rotate(self._heads(k)), self._heads(v)

    def _projected(self, members: list[int], name: str, u: Tensor) -> Tensor:
        """The projection of one layer, or the mean of those that share a cache."""
        modules: list[Any] = [getattr(self.parts.layers[j].self_attn, name) for j in members]
        if len(modules) == 1:
            return modules[0](u)
        weight = torch.stack([m.weight for m in modules]).mean(0)
        bias = None if modules[0].bias is None else torch.stack([m.bias for m in modules]).mean(0)
        return linear(u, weight, bias)

    def _attend(self, layer: int, x: Tensor, span: Span, cache: KeyValue, plan: SkipPlan) -> Tensor:
        """What the layer's attention adds to positions low..high-1."""
        attn = self.parts.layers[layer].self_attn
        swift = self.distilled is not None and layer >= self.distilled[0] and self.uses_distilled(plan)
        u = self.parts.attn_norm(layer, x[:, span.low : span.high])
        q = self._rotate(self._heads((attn.q_proj_swiftkv if swift else attn.q_proj)(u)), start=span.low)
        k, v = (part[:, :, : span.high] for part in cache)
        if k.shape[1] != q.shape[1]:
            each = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
        mask = None
        if span.low:
            place = torch.arange(span.high, device=x.device)
            mask = place[None, :] <= place[span.low :, None]
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.parts.out(layer)(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)

    def _rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotary positions start.. of [rows, heads, positions, head_dim]; OPT's stay as they are."""
        if self.parts.rope is None:
            return x
        cos, sin = (t[start : start + x.shape[2]].to(x.device) for t in self.parts.rope)
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class _Gate:
    """FFN-SkipLLM's rule (arXiv 2404.03865, the authors' code) for all positions at once, layer after layer.

    Whether a token's FFN is left out depends on that token's lower layers alone, so nothing here runs along positions.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.rule = schedule.plan.gate if schedule.eligible is not None else None
        if self.rule is not None:
            assert schedule.eligible is not None
            self.armed = schedule.eligible
            self.left = torch.zeros_like(self.armed, dtype=torch.int64)  # FFNs that each token has still to leave out
            self.first, self.end = max(1, self.rule.cold_layers), schedule.plan.layers - self.rule.cold_layers

    def skipped(self, layer: int) -> Tensor | None:
        """Tokens [rows, positions] whose FFN of this layer is left out; None where there can be none."""
        if self.rule is None or not self.first <= layer < self.end:
            return None
        skips = self.left > 0
        self.left = self.left - skips.long()
        return skips

    def test(self, layer: int, before: Tensor, after: Tensor, span: Span) -> None:
        """Start the run of every token that this layer's FFN hardly moved."""
        if self.rule is None or not self.first - 1 <= layer < self.end - 1:
            return
        fed = torch.zeros_like(self.armed)
        fed[:, span.low : span.high] = True if span.mask is None else span.mask[..., 0]
        with torch.no_grad():
            near = cosine_similarity(before.float(), after.float(), dim=-1) > self.rule.threshold
        starts = self.armed & fed & near
        self.left = torch.where(starts, self.rule.run_length, self.left)
        self.armed = self.armed & ~starts


def _join(x: Tensor, delta: Tensor, span: Span, *, skipped: Tensor | None = None) -> Tensor:
    """The streams with what their positions low..high-1 gain, but for those masked or skipped."""
    if span.mask is not None:
        delta = delta * span.mask
    if skipped is not None:
        delta = delta.masked_fill(skipped[:, span.low : span.high, None], 0.0)
    if span.low == 0 and span.high == x.shape[1]:
        return x + delta
    return torch.cat([x[:, : span.low], x[:, span.low : span.high] + delta, x[:, span.high :]], 1)
