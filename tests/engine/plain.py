"""Llama in plain torch, one token after the other, without pages, batches or kernels: what the engine must equal.

Weights come from a transformers model; float64 keeps rounding away from the comparison of tokens.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sim.plans.plan import ATTN, FFN, KV, SkipPlan

Cache = list[dict[int, tuple[Tensor, Tensor]]]  # by layer, by position


class Plain:
    """The parts of a Llama, Qwen2 or Mistral as functions of one row."""

    def __init__(self, hf: Any) -> None:
        self.w = {name: tensor.double() for name, tensor in hf.state_dict().items()}
        self.config = hf.config
        self.layers = hf.config.num_hidden_layers
        self.heads, self.kv_heads = hf.config.num_attention_heads, hf.config.num_key_value_heads
        self.head_dim = hf.config.head_dim or hf.config.hidden_size // self.heads
        self.inv_freq = hf.model.rotary_emb.inv_freq.float()

    def embed(self, token: int) -> Tensor:
        return self.w["model.embed_tokens.weight"][token]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.square().mean() + self.config.rms_norm_eps) * self.w[f"model.{name}.weight"]

    def input_norm(self, layer: int, x: Tensor) -> Tensor:
        return self.norm(x, f"layers.{layer}.input_layernorm")

    def project(self, layer: int, which: str, u: Tensor) -> Tensor:
        name = f"model.layers.{layer}.self_attn.{which}_proj"
        return self.w[f"{name}.weight"] @ u + self.w.get(f"{name}.bias", 0.0)

    def rope(self, x: Tensor, position: int) -> Tensor:
        angle = position * self.inv_freq
        cos, sin = angle.cos().double(), angle.sin().double()
        a, b = x.view(-1, self.head_dim).chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def key_value(self, layer: int, u: Tensor, position: int, group: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """K and V of one token at one layer; those of a group are projected with the mean of its layers' weights."""
        k, v = (torch.stack([self.project(j, which, u) for j in group or (layer,)]).mean(0) for which in "kv")
        return self.rope(k, position), v.view(self.kv_heads, self.head_dim)

    def attn(self, layer: int, u: Tensor, position: int, cache: dict[int, tuple[Tensor, Tensor]]) -> Tensor:
        """Attention over every position up to this one; a missing one raises KeyError."""
        q = self.rope(self.project(layer, "q", u), position)
        keys, values = (torch.stack([cache[p][i] for p in range(position + 1)]) for i in (0, 1))
        each = self.heads // self.kv_heads
        scores = torch.einsum("hd,phd->hp", q, keys.repeat_interleave(each, 1)) * self.head_dim**-0.5
        mixed = torch.einsum("hp,phd->hd", scores.softmax(-1), values.repeat_interleave(each, 1))
        return self.w[f"model.layers.{layer}.self_attn.o_proj.weight"] @ mixed.reshape(-1)

    def ffn(self, layer: int, x: Tensor) -> Tensor:
        u = self.norm(x, f"layers.{layer}.post_attention_layernorm")
        gate, up, down = (self.w[f"model.layers.{layer}.mlp.{n}_proj.weight"] for n in ("gate", "up", "down"))
        return down @ (torch.nn.functional.silu(gate @ u) * (up @ u))

    def logits(self, x: Tensor) -> Tensor:
        return self.w["lm_head.weight"] @ self.norm(x, "norm")

    def full(self, layer: int, x: Tensor, position: int, cache: Cache) -> tuple[Tensor, Tensor]:
        """A dense layer: the stream after it, and between attention and FFN."""
        u = self.input_norm(layer, x)
        cache[layer][position] = self.key_value(layer, u, position)
        middle = x + self.attn(layer, u, position, cache[layer])
        return middle + self.ffn(layer, middle), middle


def follow(plain: Plain, plan: SkipPlan, prompt: list[int], outputs: int) -> tuple[list[int], list[Tensor]]:
    """Greedy tokens and their logits under any plan, executed flag by flag."""
    cache: Cache = [{} for _ in range(plain.layers)]
    tokens, logits = list(prompt), []
    for position in range(len(prompt) + outputs - 1):
        x = _feed(plain, plan, tokens[position], position, len(prompt), cache)
        if position >= len(prompt) - 1:
            logits.append(plain.logits(x))
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(prompt) :], logits


def _feed(plain: Plain, plan: SkipPlan, token: int, position: int, prompt: int, cache: Cache) -> Tensor:
    flags, x = plan.flags_at(position, prompt), plain.embed(token)
    left_out = set[int]()
    may_skip = _may_skip(plan, position - prompt)
    for layer in range(plan.layers):
        for j in np.flatnonzero((plan.kv_input == layer) & ((flags & KV) > 0)):
            group = tuple(np.flatnonzero(plan.kv_owner == j).tolist())
            cache[j][position] = plain.key_value(j, plain.input_norm(layer, x), position, group)
        if flags[layer] & ATTN:
            owner = int(plan.kv_owner[layer])
            x = x + plain.attn(layer, plain.input_norm(layer, x), position, cache[owner])
        if flags[layer] & FFN and layer not in left_out:
            before, x = x, x + plain.ffn(layer, x)
            gate = plan.gate
            if gate is None or not may_skip:
                continue
            end = plan.layers - gate.cold_layers
            tested = max(1, gate.cold_layers) <= layer + 1 < end
            if tested and torch.cosine_similarity(before, x, dim=0) > gate.threshold:
                left_out = set(range(layer + 1, min(layer + 1 + gate.run_length, end)))
                may_skip = False
    return x


def _may_skip(plan: SkipPlan, generated: int) -> bool:
    if plan.gate is None or generated < plan.gate.warmup_tokens:
        return False
    return (generated - plan.gate.warmup_tokens + 1) % plan.gate.cadence != 0
