"""Decode rows with fixed shapes and fixed addresses: what a CUDA graph can hold.

`engine.forward` gathers the rows that run a layer; here every row passes every layer, and masks on the device decide
what sticks: rows that a plan sends past a layer keep their stream, write no keys, and read none. Segments of a few
layers are separate functions of the same buffers, so that any subset of them can be replayed. On a CPU the same code
runs as it is, which is how it is tested against `engine.forward`.
"""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.batch import Batch, RowSet
from engine.block import Block
from engine.forward import Forward
from engine.gates import GateState
from engine.kernels.attn_decode import attn_decode
from engine.kernels.rope_kv import rope_kv, rope_q, write_kv
from engine.model import BulkKv
from engine.transfer import to_device
from sim.plans.plan import ATTN, FFN, KV, SkipPlan


class Buffers:
    """One bucket's inputs, at addresses that never change; padded rows have no slot, no context and no flags."""

    def __init__(self, rows: int, plan: SkipPlan, *, blocks: int, hidden: int, like: Tensor) -> None:
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=like.device)

        self.rows = rows
        self.x = zeros(rows, hidden, dtype=like.dtype)
        self.tokens = zeros(rows, dtype=torch.int64)
        self.position = zeros(rows, dtype=torch.int64)
        self.context = zeros(rows, dtype=torch.int32)
        self.table = zeros(plan.caches.size, rows, blocks, dtype=torch.int32)
        self.slot = zeros(plan.caches.size, rows, dtype=torch.int64) - 1
        self.attn = zeros(plan.layers, rows, dtype=torch.int8)
        self.ffn = zeros(plan.layers, rows, dtype=torch.int8)
        self.armed = zeros(rows, dtype=torch.int8)

    def fill(self, batch: Batch) -> None:
        """Copy a batch of single tokens in; rows past its end are padding."""
        n = len(batch.place)
        flags = np.zeros((batch.plan.layers, self.rows), dtype=np.uint8)
        flags[:, :n] = batch.flags.T
        self._put(self.attn, ((flags & ATTN) > 0).astype(np.int8))
        self._put(self.ffn, ((flags & FFN) > 0).astype(np.int8))
        context = np.zeros(self.rows, dtype=np.int32)
        context[:n] = batch.place + 1
        self._put(self.context, context)
        writes = to_device((batch.flags.T[batch.plan.caches] & KV) > 0, self.slot.device)
        self.slot.fill_(-1)
        self.slot[:, :n] = batch.slot.where(writes, -1)
        self.table[:, :n, : batch.table.shape[2]] = batch.table
        self.tokens.zero_()
        self.tokens[:n] = batch.tokens
        self.position.zero_()
        self.position[:n] = batch.position
        self.armed.zero_()
        if batch.eligible is not None:
            self.armed[:n] = batch.eligible

    def _put(self, target: Tensor, source: NDArray[np.generic]) -> None:
        target.copy_(to_device(source, target.device), non_blocking=True)


class Segments:
    """The model as functions of one bucket's buffers: embed, segments of layers, head."""

    def __init__(self, forward: Forward, buffers: Buffers, count: int) -> None:
        self.forward = forward
        self.buffers = buffers
        layers = forward.plan.layers
        edges = {round(i * layers / count) for i in range(count + 1)} | {*forward.model.bulk}
        draft = forward.plan.draft
        self.spans = list(pairwise(sorted(edges | ({draft.exit_layer} if draft else set()))))
        self.everyone = RowSet(buffers.rows, None, np.arange(buffers.rows))
        decode = forward.plan.decode
        self._masks_attn = ((decode & ATTN) == 0).any(axis=0)  # layers that some generated token leaves out
        self._masks_ffn = ((decode & FFN) == 0).any(axis=0)
        rule = forward.plan.gate
        self.gate = GateState(rule, buffers.armed, buffers.ffn) if rule else None

    def embed(self) -> None:
        """Token ids to streams."""
        b = self.buffers
        b.x.copy_(self.forward.model.embed(b.tokens, b.position))

    def needed(self, batch: Batch) -> list[int]:
        """The segments in which some token of the batch does something, or leaves keys for layers above."""
        does = np.logical_or.reduce(batch.flags > 0, axis=0)
        does = np.asarray(does, dtype=bool)
        for source, bulk in self.forward.model.bulk.items():
            does[source] |= ((batch.flags[:, np.asarray(bulk.layers)] & KV) > 0).any()
        return [i for i, (first, last) in enumerate(self.spans) if does[first:last].any()]

    def layers_of(self, batch: Batch) -> NDArray[np.bool_]:
        """The layers of the needed segments, [L]: their weights are read, but for FFNs that a mask leaves out."""
        runs = np.zeros(len(self.forward.model.blocks), dtype=bool)
        for i in self.needed(batch):
            runs[slice(*self.spans[i])] = True
        return runs & [block is not None for block in self.forward.model.blocks]

    def covers(self, batch: Batch) -> bool:
        """Whether the masks that the segments look at say all that the batch's tokens leave out."""
        runs = self.layers_of(batch)
        flags = batch.flags[:, runs]
        attn, ffn = (flags & ATTN) > 0, (flags & FFN) > 0
        return bool((attn | self._masks_attn[runs]).all() and (ffn | self._masks_ffn[runs]).all())

    def run(self, segment: int) -> None:
        """The layers of one segment, on the buffers' streams in place."""
        normed = None
        for layer in range(*self.spans[segment]):
            block = self.forward.model.blocks[layer]
            if layer in self.forward.model.bulk:
                self._project_bulk(self.forward.model.bulk[layer])
            if block is not None:
                normed = self._layer(layer, block, normed)

    def head(self) -> Tensor:
        """Logits of every row, padding included, [rows, vocab]."""
        model = self.forward.model
        return model.logits(model.final_norm(self.buffers.x))

    def _layer(self, layer: int, block: Block, normed: Tensor | None) -> Tensor:
        b, forward = self.buffers, self.forward
        normed = block.input_norm(b.x) if normed is None else normed
        attends = b.attn[layer] if self._masks_attn[layer] else None
        q = self._queries(layer, block, normed)
        owner = forward.slots_by_layer.get(int(forward.plan.kv_owner[layer]))
        mixed = torch.zeros_like(q, memory_format=torch.contiguous_format)
        if owner is not None:  # a cache that nobody reads has no pages
            pages = forward.cache.k_pages, forward.cache.v_pages
            attn_decode(q, *pages, b.table[owner], b.context, scale=forward.scale, active=attends, out=mixed)
        ffn_input = block.after_attn(b.x, block.out(mixed.view(b.rows, -1)), active=attends)
        gated = self.gate.mask(layer, self.everyone) if self.gate else None
        feeds = b.ffn[layer] if gated is not None or self._masks_ffn[layer] else None
        test = self.gate.test(layer, self.everyone) if self.gate else None
        delta = block.ffn(ffn_input, feeds)
        return block.after_ffn(b.x, delta, forward.following[layer], active=feeds, gate=test)

    def _queries(self, layer: int, block: Block, normed: Tensor) -> Tensor:
        """Rotated queries [rows, heads, head_dim]; keys and values that are the layer's own go to its cache."""
        b, forward = self.buffers, self.forward
        pages, rope = (forward.cache.k_pages, forward.cache.v_pages), forward.model.rope
        if block.qkv is None:
            q = block.q(normed).view(b.rows, forward.heads, forward.head_dim)
            if rope:
                rope_q(q, b.position, *rope)
            return q
        q, k, v = forward.split_qkv(block.qkv(normed))
        slot = b.slot[forward.slots_by_layer[layer]]
        if rope:
            rope_kv(q, k, v, *pages, slot, b.position, *rope)
        else:
            write_kv(k, v, *pages, slot)
        return q

    def _project_bulk(self, bulk: BulkKv) -> None:
        b, n = self.buffers, len(bulk.layers)
        kv = bulk.kv(bulk.norm(b.x)).view(b.rows * n, 2, self.forward.kv_heads, self.forward.head_dim)
        owners = [self.forward.slots_by_layer[j] for j in bulk.layers]
        slot = torch.stack([b.slot[owner] for owner in owners], dim=1).view(-1)
        self.forward.write(kv[:, 0], kv[:, 1], slot, b.position.repeat_interleave(n))
