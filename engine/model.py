"""A loaded model: embeddings, blocks, where keys and values come from, head."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.block import Block, Linear, Norm
from engine.config import ModelConfig
from engine.weights import Source
from sim.errors import InputError
from sim.plans.plan import SkipPlan


@dataclass(frozen=True)
class BulkKv:
    """One fused projection of keys and values of many layers from one stream (SwiftKV's SingleInputKV)."""

    norm: Norm
    kv: Linear  # [layers * 2 * d_kv, hidden]: per layer keys, then values
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """Everything the runner needs to take tokens to logits."""

    config: ModelConfig
    embedding: Tensor  # [vocab, embed_dim]
    positions: Tensor | None  # [context + 2, hidden], OPT's learned positions
    project_in: Linear | None
    blocks: tuple[Block | None, ...]  # None for a layer that no token of the plan runs
    bulk: dict[int, BulkKv]  # by the layer whose input stream is projected
    final_norm: Norm
    project_out: Linear | None
    head: Linear
    rope: tuple[Tensor, Tensor] | None  # cos and sin [context, head_dim / 2], float32
    notes: tuple[str, ...] = ()

    def embed(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Residual streams of token ids at positions, [rows, hidden]."""
        x = self.embedding[tokens]
        if self.project_in is not None:
            x = self.project_in(x)
        return x if self.positions is None else x + self.positions[position + 2]

    def logits(self, normed: Tensor) -> Tensor:
        """Float32 (or float64) logits [rows, vocab] of rows that passed the final norm."""
        if self.project_out is not None:
            normed = self.project_out(normed)
        logits = self.head(normed)
        return logits if logits.dtype == torch.float64 else logits.float()

    @property
    def weight_bytes(self) -> int:
        """Bytes of one parameter."""
        return self.embedding.element_size()


@dataclass
class KvLoader:
    """Keys' and values' projections of each layer, as plan and checkpoint place them."""

    config: ModelConfig
    plan: SkipPlan
    source: Source
    projection: Callable[[int, str], Linear]  # (layer, "k" | "v" | "q" and "_swiftkv" or not)
    attn_norm: Callable[[int], Norm]
    swift_norm: Callable[[], Norm]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.distilled = bool(self.config.swift_keep) and self._wants_swift()
        own = np.arange(self.plan.layers)
        moved = (self.plan.kv_input != own).any() or (self.plan.kv_owner != own).any()
        if moved and not self.distilled:
            self.notes.append(
                f"plan {self.plan.name!r} moves keys and values on weights that were not trained for it: projections"
                " are copied from the layers' own, averaged over each group that shares a cache"
            )

    def _wants_swift(self) -> bool:
        plan, keep, group = self.plan, self.config.swift_keep, self.config.swift_group
        layer = np.arange(plan.layers)
        owner = np.where(layer >= keep, layer - (layer - keep) % group, layer)
        if (plan.kv_input == np.minimum(layer, keep)).all() and (plan.kv_owner == owner).all():
            return True
        if (plan.kv_input == layer).all() and self.source.has("model.layers.0.self_attn.k_proj.weight"):
            return False  # the teacher inside the checkpoint, if its files still hold it
        raise InputError(
            f"plan {plan.name!r} takes keys and values from other layers than this SwiftKV checkpoint was made for;"
            f" use swift_kv:keep={keep},group={group}"
        )

    def q(self, layer: int) -> Linear:
        """The query projection of a layer."""
        swift = self.distilled and layer >= self.config.swift_keep
        return self.projection(layer, "q_swiftkv" if swift else "q")

    def kv(self, layer: int) -> Linear:
        """Keys' and values' projection of the layer that owns a cache, [2 * d_kv, hidden]."""
        if self.distilled and layer >= self.config.swift_keep:
            return _stack([self.projection(layer, "k_swiftkv"), self.projection(layer, "v_swiftkv")])
        sharing = [int(j) for j in np.flatnonzero(self.plan.kv_owner == layer)]
        pairs = [_stack([self.projection(j, "k"), self.projection(j, "v")]) for j in sharing]
        return pairs[0] if len(pairs) == 1 else _mean(pairs)

    def bulk(self) -> dict[int, BulkKv]:
        """The fused projections, for every stream that serves another layer than its own."""
        plan, bulk = self.plan, {}
        for source in np.unique(plan.kv_input):
            served = [int(j) for j in plan.caches if plan.kv_input[j] == source]
            start = int(source)
            fused = served == [start] and not (self.distilled and start >= self.config.swift_keep)
            if fused or not served:
                continue
            norm = self.swift_norm() if self.distilled else self.attn_norm(start)
            bulk[start] = BulkKv(norm, _stack([self.kv(j) for j in served]), tuple(served))
        return bulk


def _stack(parts: list[Linear]) -> Linear:
    """Projections of one input as one."""
    biases = [part.bias for part in parts if part.bias is not None]
    return Linear(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None)


def _mean(parts: list[Linear]) -> Linear:
    """The average of projections of equal shape (SwiftKV's initialisation of a group's shared projection)."""
    biases = [part.bias for part in parts if part.bias is not None]
    weight = torch.stack([part.weight.double() for part in parts]).mean(0)
    bias = torch.stack([b.double() for b in biases]).mean(0).to(biases[0].dtype) if biases else None
    return Linear(weight.to(parts[0].weight.dtype), bias)


def block_of(
    loader: KvLoader,
    bulk: dict[int, BulkKv],
    layer: int,
    *,
    attn_norm: Norm,
    ffn_norm: Norm,
    out: Linear,
    up: Linear,
    down: Linear,
) -> Block:
    """A layer's block: with its own keys and values fused to its queries, unless they are another layer's business."""
    plan, config = loader.plan, loader.config
    d_q = config.shape.d_q
    owns = layer in plan.caches and int(plan.kv_input[layer]) == layer and layer not in bulk
    q = loader.q(layer)
    qkv = _stack([q, loader.kv(layer)]) if owns else None
    return Block(
        attn_norm=attn_norm,
        ffn_norm=ffn_norm,
        q=qkv.part(0, d_q) if qkv else q,
        kv=qkv.part(d_q, d_q + 2 * config.shape.d_kv) if qkv else None,
        qkv=qkv,
        out=out,
        up=up,
        down=down,
        gated=config.shape.gated_ffn,
        post=config.post_norm,
    )
