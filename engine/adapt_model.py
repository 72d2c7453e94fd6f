"""A model that runs known texts under any plan in one differentiable pass: the engine's twin for training and scoring.

The engine feeds token after token through paged caches; this runs all positions of a text at once, in plain autograd.
Both read the same plan table, and the tests hold their logits together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, linear, scaled_dot_product_attention

from engine.adapt_parts import Parts, parts_of
from engine.adapt_schedule import Fill, Schedule, Span, schedule_of
from engine.config import ModelConfig
from engine.kernels.backend import wide
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

    def schedule(
        self, plan: SkipPlan, prompt_tokens: Tensor, positions: int, *, vote: int = 0, live: Tensor | None = None
    ) -> Schedule:
        """The plan laid over texts of this model, as `schedule_of`. Raises PlanError for a plan of another depth."""
        layers, distilled = self.shape.layers, self.distilled
        return schedule_of(plan, prompt_tokens, positions, layers=layers, distilled=distilled, vote=vote, live=live)

    def forward(self, tokens: Tensor, schedule: Schedule, watch: Callable[[Seen], None] | None = None) -> Tensor:
        """Streams [rows, positions, hidden] after the last layer of token ids [rows, positions].

        Positions that a plan leaves out keep the stream they had. Padding belongs behind the texts.
        """
        x = self.parts.embed(tokens)
        caches: dict[int, KeyValue] = {}
        gate = _Gate(schedule)
        for layer in range(self.shape.layers):
            entered = x
            self._fill(layer, x, schedule.fills[layer], caches)
            span = schedule.attends[layer]
            if span.high:
                cache, distilled = caches[schedule.owner[layer]], layer >= schedule.distilled
                x = _join(x, self._attend(layer, x, span, cache, distilled=distilled), span)
            before, span = x, schedule.feeds[layer]
            skipped = gate.skipped(layer)
            if span.high:
                x = _join(x, self.parts.ffn(layer, x[:, span.low : span.high]), span, skipped=skipped)
                gate.test(layer, before, x, span)
            if watch:
                watch(Seen(layer, before, x, entered, skipped))
        return x

    def logits(self, streams: Tensor) -> Tensor:
        """Float32 (or float64) logits of streams that left the last layer."""
        return wide(self.parts.head(streams))

    def _fill(self, layer: int, x: Tensor, fills: tuple[Fill, ...], caches: dict[int, KeyValue]) -> None:
        """Keys and values of every cache that is projected from this stream."""
        for fill in fills:
            attn = self.parts.layers[fill.owner].self_attn
            if fill.distilled:
                u = self.parts.swift_norm(x[:, : fill.end])
                k, v = attn.k_proj_swiftkv(u), attn.v_proj_swiftkv(u)
            else:
                u = self.parts.attn_norm(layer, x[:, : fill.end])
                k, v = (self._projected(fill.members, name, u) for name in ("k_proj", "v_proj"))
            caches[fill.owner] = self._rotate(self._heads(k)), self._heads(v)

    def _projected(self, members: tuple[int, ...], name: str, u: Tensor) -> Tensor:
        """The projection of one layer, or the mean of those that share a cache."""
        modules: list[Any] = [getattr(self.parts.layers[j].self_attn, name) for j in members]
        if len(modules) == 1:
            return modules[0](u)
        weight = torch.stack([m.weight for m in modules]).mean(0)
        bias = None if modules[0].bias is None else torch.stack([m.bias for m in modules]).mean(0)
        return linear(u, weight, bias)

    def _attend(self, layer: int, x: Tensor, span: Span, cache: KeyValue, *, distilled: bool) -> Tensor:
        """What the layer's attention adds to positions low..high-1."""
        attn = self.parts.layers[layer].self_attn
        u = self.parts.attn_norm(layer, x[:, span.low : span.high])
        q = self._rotate(self._heads((attn.q_proj_swiftkv if distilled else attn.q_proj)(u)), start=span.low)
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
        return x.view(*x.shape[:2], -1, self.shape.head_dim).transpose(1, 2)

    def _rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Rotary positions start.. of [rows, heads, positions, head_dim]; OPT's stay as they are."""
        if self.parts.rope is None:
            return x
        cos, sin = (t[start : start + x.shape[2]].to(x.device) for t in self.parts.rope)
        a, b = wide(x).chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class _Gate:
    """FFN-SkipLLM's rule (arXiv 2404.03865, the authors' code) for all positions at once, layer after layer.

    Whether a token's FFN is left out depends on that token's lower layers alone, so nothing here runs along positions.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.rule = schedule.gate
        if self.rule is not None:
            assert schedule.eligible is not None
            self.armed = schedule.eligible
            self.ballots = schedule.ballots
            self.left = torch.zeros_like(self.armed, dtype=torch.int64)  # FFNs that each token has still to leave out
            self.first, self.end = max(1, self.rule.cold_layers), len(schedule.owner) - self.rule.cold_layers

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
            near = cosine_similarity(wide(before), wide(after), dim=-1) > self.rule.threshold
        starts = self.armed & fed & near
        if self.ballots is not None:
            starts = self._carried(self.armed & fed, starts, self.ballots)
        self.left = torch.where(starts, self.rule.run_length, self.left)
        self.armed = self.armed & ~starts

    @staticmethod
    def _carried(asked: Tensor, for_it: Tensor, ballots: Tensor) -> Tensor:
        """Tokens whose batch wants the run: at least half of those that were asked with them."""
        votes = torch.zeros(int(ballots.max()) + 1, 2, device=asked.device)
        votes.index_add_(0, ballots[asked], torch.stack([torch.ones_like(asked), for_it], -1)[asked].float())
        return asked & (2 * votes[:, 1] >= votes[:, 0])[ballots]


def _join(x: Tensor, delta: Tensor, span: Span, *, skipped: Tensor | None = None) -> Tensor:
    """The streams with what their positions low..high-1 gain, but for those masked or skipped."""
    if span.mask is not None:
        delta = delta * span.mask
    if skipped is not None:
        delta = delta.masked_fill(skipped[:, span.low : span.high, None], 0.0)
    if span.low == 0 and span.high == x.shape[1]:
        return x + delta
    return torch.cat([x[:, : span.low], x[:, span.low : span.high] + delta, x[:, span.high :]], 1)
