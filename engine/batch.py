"""One iteration as arrays: which tokens run which half of which layer, where their keys live, who is sampled.

Positions decide everything: what a token does is looked up in the plan by its position and its prompt's length, so a
recomputed token does what it did the first time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.cache import NO_PAGE, Cache
from engine.transfer import to_device
from sim.plans.plan import KV, Flags, SkipPlan

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """A row of the iteration: consecutive tokens of one request."""

    request: int
    prompt_tokens: int
    start: int  # position of the first token
    tokens: Sequence[int]
    outputs: int  # of its last tokens, how many get logits
    late: int | None = None  # its last token is this row of the last step's draws, which the host has not read


@dataclass(frozen=True)
class RowSet:
    """Tokens that do something in a layer; `index` is None when it is all of them."""

    count: int
    index: Tensor | None
    order: Ints  # [count] token numbers


@dataclass(frozen=True)
class Spans:
    """How a row set meets the attention kernels: single queries, and runs of consecutive ones."""

    single: Tensor | None  # [s] places in the row set; None: all of them
    single_row: Tensor  # [s] rows of the page tables
    single_ctx: Tensor  # int32 [s]
    runs: Tensor | None  # [r] places in the row set; None: all of them
    run_row: Tensor  # [sequences]
    run_ctx: Tensor  # int32 [sequences]
    cu_seqlens: Tensor  # int32 [sequences + 1]


@dataclass
class Batch:
    """The tokens of an iteration, [n], in the order of its rows."""

    plan: SkipPlan
    tokens: Tensor  # int64 [n]
    position: Tensor  # int64 [n]
    row: Ints  # [n] row of the page tables
    place: Ints  # [n] positions, on the host
    flags: Flags  # [n, L]
    eligible: Tensor | None  # int8 [n], tokens that the FFN gate may thin out
    table: Tensor  # int32 [caches, rows, blocks]
    slot: Tensor  # int64 [caches, n], -1 where the cache is dead
    sampled: Ints  # [s] tokens that get logits
    outputs: Tensor  # [s] the same on the device
    _sets: dict[bytes, RowSet] = field(default_factory=dict)
    _spans: dict[int, Spans] = field(default_factory=dict)

    @cached_property
    def every(self) -> RowSet:
        """All tokens."""
        return self._interned(np.ones(len(self.place), dtype=bool))

    def rows(self, layer: int, flag: int) -> RowSet:
        """The tokens with that flag in that layer; equal sets are one object."""
        return self._interned((self.flags[:, layer] & flag) > 0)

    def rows_of_any(self, layers: Sequence[int], flag: int) -> RowSet:
        """The tokens with that flag in one of the layers."""
        return self._interned(np.logical_or.reduce((self.flags[:, np.asarray(layers)] & flag) > 0, axis=1))

    def _interned(self, mask: NDArray[np.bool_]) -> RowSet:
        key = mask.tobytes()
        if key not in self._sets:
            order = np.flatnonzero(mask)
            index = None if order.size == mask.size else self._device(order)
            self._sets[key] = RowSet(order.size, index, order)
        return self._sets[key]

    def spans(self, rows: RowSet) -> Spans:
        """The row set cut into runs of consecutive positions of one request."""
        if id(rows) not in self._spans:
            self._spans[id(rows)] = self._cut(rows)
        return self._spans[id(rows)]

    def _cut(self, rows: RowSet) -> Spans:
        row, place = self.row[rows.order], self.place[rows.order]
        broken = (row[1:] != row[:-1]) | (place[1:] != place[:-1] + 1)
        first = np.concatenate([[0], np.flatnonzero(broken) + 1])
        length = np.diff(np.concatenate([first, [rows.count]]))
        alone = length == 1
        single, starts = first[alone], first[~alone]
        runs = np.concatenate([np.arange(a, a + n) for a, n in zip(starts, length[~alone])] or [first[:0]])
        last = starts + length[~alone] - 1
        return Spans(
            single=None if alone.all() else self._device(single),
            single_row=self._device(row[single]),
            single_ctx=self._device((place[single] + 1).astype(np.int32)),
            runs=self._device(runs) if alone.any() else None,
            run_row=self._device(row[starts]),
            run_ctx=self._device((place[last] + 1).astype(np.int32)),
            cu_seqlens=self._device(np.concatenate([[0], np.cumsum(length[~alone])]).astype(np.int32)),
        )

    @property
    def singles(self) -> bool:
        """Whether every row is one token that gets logits: decodes, and prompts whose last token is left."""
        return len(self.outputs) == len(self.place) == int(self.row[-1]) + 1

    @cached_property
    def slots_by_layer(self) -> dict[int, int]:
        """Row of `slot` and `table` of each cache's owner."""
        return {int(layer): i for i, layer in enumerate(self.plan.caches)}

    def slot_of(self, layer: int, rows: RowSet) -> Tensor:
        """Where each token of the set writes its keys in the layer's cache, int64 [count]; -1: nowhere."""
        slot = self.slot[self.slots_by_layer[layer]]
        return slot if rows.index is None else slot[rows.index]

    def slots_of(self, layers: Sequence[int], rows: RowSet) -> Tensor:
        """The same for many layers at once, [count, layers]; -1 too where a token leaves no keys in a layer."""
        writes = self._device((self.flags[np.ix_(rows.order, np.asarray(layers))] & KV) > 0)
        slots = torch.stack([self.slot_of(layer, rows) for layer in layers], dim=1)
        return slots.where(writes, -1)

    def sampled_part(self, flags: Flags) -> "Batch":
        """The tokens that get logits, as a batch of its own that does what is left to do: `flags` are of all tokens."""
        every = np.arange(len(self.sampled))
        row = self._device(self.row[self.sampled])
        return Batch(
            plan=self.plan,
            tokens=self.tokens[self.outputs],
            position=self.position[self.outputs],
            row=every,
            place=self.place[self.sampled],
            flags=flags[self.sampled],
            eligible=None,
            table=self.table[:, row],
            slot=self.slot[:, self.outputs],
            sampled=every,
            outputs=self._device(every),
        )

    def _device(self, array: NDArray[np.generic]) -> Tensor:
        return to_device(array, self.tokens.device)


def batch_of(
    pieces: Sequence[Piece],
    plan: SkipPlan,
    cache: Cache,
    device: torch.device,
    *,
    until: int | None = None,
    drawn: Tensor | None = None,
) -> Batch:
    """The arrays of an iteration; with `until`, its tokens run every layer below it and none above (a draft).

    `drawn` are the tokens of the last step, int64 on the device: pieces whose last token is late take it from there.
    """
    counts = np.array([len(piece.tokens) for piece in pieces])
    row = np.repeat(np.arange(len(pieces)), counts)
    place = np.concatenate([np.arange(p.start, p.start + len(p.tokens)) for p in pieces])
    fed = place - np.array([p.prompt_tokens for p in pieces])[row]
    flags = np.concatenate([plan.prompt[None], plan.sampled[None], plan.decode])[_plan_row(fed, plan)]
    if until is not None:
        flags[:, until:] = 0
    last = np.cumsum(counts)
    outputs = np.concatenate([np.arange(e - p.outputs, e) for p, e in zip(pieces, last)])
    table = cache.tables([p.request for p in pieces], [p.start + len(p.tokens) for p in pieces])
    size = cache.knobs.block_tokens
    page = table[:, row, place // size].astype(np.int64)
    slot = np.where(page == NO_PAGE, -1, page * size + place % size)

    def on(array: NDArray[np.generic]) -> Tensor:
        return to_device(array, device)

    tokens = on(np.array([token for p in pieces for token in p.tokens], dtype=np.int64))
    late = [(int(e) - 1, p.late) for p, e in zip(pieces, last) if p.late is not None]
    if late:
        assert drawn is not None
        where, which = on(np.array(late)).unbind(1)
        tokens[where] = drawn[which].clamp_min(0)  # a lost token ends its request; until that is known any will do
    return Batch(
        plan=plan,
        tokens=tokens,
        position=on(place),
        row=row,
        place=place,
        flags=flags,
        eligible=on(gated(fed, plan).astype(np.int8)) if plan.gate and gated(fed, plan).any() else None,
        table=on(table),
        slot=on(slot),
        sampled=outputs,
        outputs=on(outputs),
    )


def _plan_row(fed: Ints, plan: SkipPlan) -> Ints:
    """Row of (prompt, sampled, decode...) for generated-token numbers; negative ones are the prompt's."""
    return np.where(fed < -1, 0, np.minimum(fed, plan.decode.shape[0] - 1) + 2)


def gated(fed: Ints, plan: SkipPlan) -> NDArray[np.bool_]:
    """Which generated tokens the FFN gate looks at: all but the first `warmup_tokens` and then each cadence's last."""
    gate = plan.gate
    assert gate is not None
    since = fed - gate.warmup_tokens
    return (since >= 0) & (since % gate.cadence != gate.cadence - 1)
