"""Any plan on any mix of rows: each layer runs for the tokens whose flags say so, gathered from the stream.

No row's depth depends on another row's: a token runs exactly what the plan gives its position. Weights of a layer that
no token of the iteration runs are not touched.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.batch import Batch, RowSet
from engine.block import Block, Norm
from engine.cache import Cache
from engine.gates import GateState
from engine.kernels.attn_decode import attn_decode
from engine.kernels.attn_prefill import attn_prefill
from engine.kernels.rope_kv import rope_kv, rope_q, write_kv
from engine.model import BulkKv, Model
from sim.plans.plan import ATTN, FFN, KV, SkipPlan


class Streams:
    """The residual streams of all tokens, and the rows that are being worked on."""

    def __init__(self, x: Tensor, every: RowSet) -> None:
        self.x = x
        self.rows = every
        self.part = x
        self.normed: tuple[Norm, Tensor] | None = None  # a norm of these rows, if their last add left it

    def focus(self, rows: RowSet) -> Tensor:
        """The streams of these rows, to be changed in place; those of the last rows are put back first."""
        if rows is not self.rows:
            if self.rows.index is not None:
                self.x[self.rows.index] = self.part
            self.rows = rows
            self.part = self.x if rows.index is None else self.x[rows.index]
            self.normed = None
        return self.part

    def input(self, rows: RowSet, norm: Norm) -> Tensor:
        """The normed streams of these rows."""
        part = self.focus(rows)
        left, self.normed = self.normed, None
        return left[1] if left is not None and left[0] is norm else norm(part)


@dataclass(frozen=True)
class Outcome:
    """What a forward pass leaves: logits of the output tokens, and what the gate did."""

    logits: Tensor  # [outputs, vocab]
    gate: GateState | None
    replayed: NDArray[np.bool_] | None = None  # [L] layers that `engine.graphs` ran whatever the rows' flags say


class DecodePath(Protocol):
    """A faster way for steps of single tokens (`engine.graphs`); None means that the batch is not for it."""

    def __call__(self, batch: Batch) -> Outcome | None:
        """The whole step."""

    def finish(self, batch: Batch, streams: Tensor, layer: int) -> Outcome | None:
        """A mixed step from `layer` on."""


class Forward:
    """A model bound to a plan and a cache."""

    def __init__(self, model: Model, plan: SkipPlan, cache: Cache) -> None:
        self.model = model
        self.plan = plan
        self.cache = cache
        shape = model.config.shape
        self.heads, self.kv_heads, self.head_dim = shape.heads, shape.kv_heads, shape.head_dim
        self.scale = shape.head_dim**-0.5
        self.decode: DecodePath | None = None
        self.slots_by_layer = {int(layer): i for i, layer in enumerate(plan.caches)}
        norms = [block.input_norm if block else None for block in model.blocks]
        following = model.final_norm
        self.following: list[Norm] = []  # by layer: the norm of the next layer that there is
        for norm in reversed(norms):
            self.following.insert(0, following)
            following = norm or following

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Outcome:
        """The logits of the batch's output tokens; keys and values go to the cache."""
        if self.decode is not None and (outcome := self.decode(batch)) is not None:
            return outcome
        x = self.model.embed(batch.tokens, batch.position)
        streams = Streams(x, batch.every)
        gate = None
        if self.plan.gate is not None and batch.eligible is not None:
            gate = GateState.of(self.plan.gate, batch.eligible, self.plan.layers)
        for layer, block in enumerate(self.model.blocks):
            if layer in self.model.bulk:
                self._project_bulk(self.model.bulk[layer], batch, streams)
                if self.decode is not None and len(batch.sampled):
                    outcome = self.decode.finish(batch, streams.focus(batch.every), layer)
                    if outcome is not None:
                        return outcome
            if block is not None:
                self._layer(layer, block, batch, streams, gate)
        outputs = streams.focus(batch.every)[batch.outputs]
        return Outcome(self.model.logits(self.model.final_norm(outputs)), gate)

    def _layer(self, layer: int, block: Block, batch: Batch, streams: Streams, gate: GateState | None) -> None:
        attends, feeds = batch.rows(layer, ATTN), batch.rows(layer, FFN)
        writes = batch.rows(layer, KV) if block.kv is not None else attends
        if writes.count and writes is not attends:
            self._write_only(layer, block, batch, streams, writes)
        ffn_input = None
        if attends.count:
            normed = streams.input(attends, block.input_norm)
            delta = self._attend(layer, block, normed, batch, attends, writes=writes is attends)
            ffn_input = block.after_attn(streams.part, delta)
        if feeds.count:
            if feeds is not attends or ffn_input is None:
                ffn_input = block.ffn_input(streams.focus(feeds))
            active = gate.mask(layer, feeds) if gate else None
            test = gate.test(layer, feeds) if gate else None
            delta = block.ffn(ffn_input, active)
            following = self.following[layer]
            streams.normed = following, block.after_ffn(streams.part, delta, following, active=active, gate=test)
            if gate:
                gate.settle(test, layer, feeds)

    def _attend(self, layer: int, block: Block, normed: Tensor, batch: Batch, rows: RowSet, *, writes: bool) -> Tensor:
        position = batch.position if rows.index is None else batch.position[rows.index]
        if writes and block.qkv is not None:
            q, k, v = self.split_qkv(block.qkv(normed))
            self._rope_kv(layer, batch, rows, position, q, k, v)
        else:
            q = block.q(normed).view(rows.count, self.heads, self.head_dim)
            if self.model.rope:
                rope_q(q, position, *self.model.rope)
        owner = self.slots_by_layer[int(self.plan.kv_owner[layer])]
        return block.out(self._attention(q, batch, rows, batch.table[owner]).view(rows.count, -1))

    def _rope_kv(
        self, layer: int, batch: Batch, rows: RowSet, position: Tensor, q: Tensor, k: Tensor, v: Tensor
    ) -> None:
        slot, pages = batch.slot_of(layer, rows), (self.cache.k_pages, self.cache.v_pages)
        if self.model.rope:
            rope_kv(q, k, v, *pages, slot, position, *self.model.rope)
        else:
            write_kv(k, v, *pages, slot)

    def _attention(self, q: Tensor, batch: Batch, rows: RowSet, table: Tensor) -> Tensor:
        """Attention of the queries over their contexts: one kernel for single ones, one for runs."""
        spans, pages = batch.spans(rows), (self.cache.k_pages, self.cache.v_pages)
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        if len(spans.single_row):
            tables = table[spans.single_row]
            if spans.single is None:
                return attn_decode(q, *pages, tables, spans.single_ctx, scale=self.scale, out=out)
            single = q[spans.single]
            out[spans.single] = attn_decode(single, *pages, tables, spans.single_ctx, scale=self.scale)
        runs = q if spans.runs is None else q[spans.runs]
        tables = table[spans.run_row]
        result = attn_prefill(runs, *pages, tables, spans.run_ctx, spans.cu_seqlens, scale=self.scale)
        if spans.runs is None:
            return result
        out[spans.runs] = result
        return out

    def _write_only(self, layer: int, block: Block, batch: Batch, streams: Streams, rows: RowSet) -> None:
        """Leave keys and values of rows whose queries differ from them in this layer (an exit state's KV fill)."""
        assert block.kv is not None
        normed = streams.input(rows, block.input_norm)
        position = batch.position if rows.index is None else batch.position[rows.index]
        k, v = block.kv(normed).view(rows.count, 2, self.kv_heads, self.head_dim).unbind(1)
        self.write(k, v, batch.slot_of(layer, rows), position)

    def _project_bulk(self, bulk: BulkKv, batch: Batch, streams: Streams) -> None:
        """Keys and values of all layers that one stream serves: one product, one write."""
        rows = batch.rows_of_any(bulk.layers, KV)
        if not rows.count:
            return
        part = streams.focus(rows)
        position = batch.position if rows.index is None else batch.position[rows.index]
        n = len(bulk.layers)
        kv = bulk.kv(bulk.norm(part)).view(rows.count * n, 2, self.kv_heads, self.head_dim)
        slot = batch.slots_of(bulk.layers, rows).view(-1)
        self.write(kv[:, 0], kv[:, 1], slot, position.repeat_interleave(n))

    def split_qkv(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [rows, heads, head_dim] of a fused projection, as views."""
        heads = fused.view(len(fused), -1, self.head_dim)
        edge = self.heads + self.kv_heads
        return heads[:, : self.heads], heads[:, self.heads : edge], heads[:, edge:]

    def write(self, k: Tensor, v: Tensor, slot: Tensor, position: Tensor) -> None:
        """None: keys, rotated where the model rotates, and values go to their slots."""
        rope = (position, *self.model.rope) if self.model.rope else (None, None, None)
        write_kv(k, v, self.cache.k_pages, self.cache.v_pages, slot, *rope)
