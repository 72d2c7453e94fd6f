"""The skip plan: one frozen table that the engine executes and the simulator prices.

What a token does in a layer depends on its position alone: a prompt token follows `prompt`, the last prompt token
(whose hidden state yields the first output token) follows `sampled`, generated token t follows `decode[t]` when it
is fed back, t = 0 being the first generated token. A layer that is skipped is the identity on the residual stream.

    prompt   [L]      . . . .   flags per layer: ATTN queries the cache and adds to the stream, FFN runs the
    sampled  [L]      . . . .   feed-forward block, KV writes this token's keys and values into the layer's cache
    decode   [T, L]   . . . .   the last row holds for every later token
"""

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.errors import PlanError
from sim.plans.rules import DraftRule, FfnGate

ATTN, FFN, KV = 1, 2, 4
FULL = ATTN | FFN | KV

Flags = NDArray[np.uint8]
Layers = NDArray[np.int64]


def _frozen(values: object, dtype: type) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.array(values, dtype=dtype, order="C")
    array.setflags(write=False)
    return array


def _trim(decode: Flags) -> Flags:
    """The same table without the repeats at its end: the last row holds for ever anyway."""
    changed = np.flatnonzero((decode[1:] != decode[:-1]).any(axis=1))
    return decode[: 2 + changed[-1] if changed.size else 1]


@dataclass(frozen=True, eq=False)
class SkipPlan:
    """What each token does in each layer; equal content means equal digest, whatever the name."""

    name: str
    prompt: Flags  # [L]
    sampled: Flags  # [L]
    decode: Flags  # [T, L]
    kv_input: Layers  # [L] the layer whose input stream K and V are projected from
    kv_owner: Layers  # [L] the layer whose cache is read
    gate: FfnGate | None = None
    draft: DraftRule | None = None
    monotone: bool = True  # promised: what token t+1 runs, token t ran
    note: str = field(default="", compare=False)
    schedule_tokens: int = 0  # generated tokens that the strategy's table spans; `decode` holds its repeats once

    def __post_init__(self) -> None:
        freeze = object.__setattr__
        for name in ("prompt", "sampled"):
            freeze(self, name, _frozen(getattr(self, name), np.uint8))
        for name in ("kv_input", "kv_owner"):
            freeze(self, name, _frozen(getattr(self, name), np.int64))
        decode = np.array(self.decode, dtype=np.uint8)
        if decode.ndim != 2 or not decode.shape[0]:
            raise PlanError(f"plan {self.name!r}: decode has shape {decode.shape}; it must be [tokens ≥ 1, layers]")
        freeze(self, "schedule_tokens", max(self.schedule_tokens, decode.shape[0]))
        freeze(self, "decode", _frozen(_trim(decode), np.uint8))
        self._check_shapes()
        self._check_owners()
        self._check_kv_safety()
        if self.monotone and (self.decode[1:] & ~self.decode[:-1]).any():
            raise PlanError(f"plan {self.name!r} promises monotone depth, but a later token runs more than one before")

    @property
    def layers(self) -> int:
        """Number of layers of the model this plan is for."""
        return self.prompt.shape[0]

    @property
    def is_dense(self) -> bool:
        """Whether nothing is skipped, shared or drafted: the plan is no plan."""
        return self.digest == dense_digest(self.layers)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of the content, without the name: the join key of graphs, tables and pictures."""
        h = hashlib.sha256()
        for array in (self.prompt, self.sampled, self.decode, self.kv_input, self.kv_owner):
            h.update(repr(array.shape).encode() + array.tobytes())
        h.update(repr((self.gate and self.gate.key, self.draft and self.draft.key)).encode())
        return h.hexdigest()[:16]

    @cached_property
    def caches(self) -> Layers:
        """The layers that own a cache that somebody reads, [n_caches]."""
        return np.unique(self.kv_owner[self._reads])

    @cached_property
    def live_caches(self) -> NDArray[np.int64]:
        """Caches a sequence still needs once generated tokens 0..t-1 are in, [T + 1]; the last entry holds for ever.

        A cache is dead when no later token attends to it: its pages can be freed (SkipDecode's middle layers).
        """
        reads = (self.decode & ATTN).astype(bool)  # [T, L]
        later = np.logical_or.accumulate(reads[::-1], axis=0)[::-1]
        live = [self.caches.size]  # the prompt, and every sequence that may yet be recomputed
        live += [np.unique(self.kv_owner[row]).size for row in later]
        return np.array(live, dtype=np.int64)

    @cached_property
    def live(self) -> NDArray[np.bool_]:
        """Whether cache `caches[i]` is needed by generated token t or a later one, [T, n_caches]."""
        reads = (self.decode & ATTN).astype(bool)
        later = np.logical_or.accumulate(reads[::-1], axis=0)[::-1]
        return np.stack([np.isin(self.caches, self.kv_owner[row]) for row in later])

    @property
    def resident_layers(self) -> NDArray[np.bool_]:
        """Layers whose weights must be in memory at all, [L]; a layer nobody runs need not be loaded."""
        used = self.prompt | self.sampled | np.bitwise_or.reduce(self.decode, axis=0)
        return used.astype(bool)

    @property
    def schedule(self) -> Flags:
        """The decode table in full, its last row repeated to the schedule's end, [schedule_tokens, L]."""
        rows = np.minimum(np.arange(self.schedule_tokens), self.decode.shape[0] - 1)
        return self.decode[rows]

    @property
    def nominal_skip(self) -> float:
        """Share of attention and FFN blocks that one decode step leaves out, averaged over the schedule."""
        schedule = self.schedule
        kept = 1.0 - self.gate.skip if self.gate else np.ones(self.layers)  # a gate only skips an FFN that is there
        ran = ((schedule & ATTN) > 0).sum() + (((schedule & FFN) > 0) * kept).sum()
        return 1.0 - float(ran) / (2 * schedule.size)

    @property
    def prompt_skip(self) -> float:
        """Share of attention and FFN blocks that a prompt token leaves out."""
        blocks = ((self.prompt & ATTN) > 0).sum() + ((self.prompt & FFN) > 0).sum()
        return 1.0 - float(blocks) / (2 * self.layers)

    def flags_at(self, position: int, prompt_tokens: int) -> Flags:
        """What the token at `position` of a sequence with `prompt_tokens` does, [L] uint8."""
        if position < prompt_tokens - 1:
            return self.prompt
        if position == prompt_tokens - 1:
            return self.sampled
        return self.decode[min(position - prompt_tokens, self.decode.shape[0] - 1)]

    @cached_property
    def _reads(self) -> NDArray[np.bool_]:
        every = self.prompt | self.sampled | np.bitwise_or.reduce(self.decode, axis=0)
        return (every & ATTN).astype(bool)

    def _check_shapes(self) -> None:
        n = self.prompt.shape[0]
        for name in ("prompt", "sampled", "kv_input", "kv_owner"):
            shape = getattr(self, name).shape
            if shape != (n,):
                raise PlanError(f"plan {self.name!r}: {name} has shape {shape}; the others have ({n},)")
        if self.decode.shape[1] != n:
            raise PlanError(f"plan {self.name!r}: decode is {self.decode.shape[1]} layers wide, prompt {n}")
        if n == 0 or max(self.prompt.max(), self.sampled.max(), self.decode.max()) > FULL:
            raise PlanError(f"plan {self.name!r}: needs at least one layer, and flags out of ATTN=1, FFN=2, KV=4")
        if self.gate is not None and self.gate.skip.shape != (n,):
            raise PlanError(f"plan {self.name!r}: the gate knows {self.gate.skip.shape[0]} layers, the plan {n}")
        if self.draft is not None and not 1 <= self.draft.exit_layer < n:
            raise PlanError(f"plan {self.name!r}: draft exit {self.draft.exit_layer} must be in 1..{n - 1}")

    def _check_owners(self) -> None:
        index = np.arange(self.layers)
        for name, array in (("kv_input", self.kv_input), ("kv_owner", self.kv_owner)):
            if (array < 0).any() or (array > index).any():
                bad = int(np.flatnonzero((array < 0) | (array > index))[0])
                raise PlanError(f"plan {self.name!r}: {name}[{bad}]={array[bad]} must be a layer in 0..{bad}")
        if (self.kv_owner[self.kv_owner] != self.kv_owner).any():
            raise PlanError(f"plan {self.name!r}: the owner of a cache must own it itself")

    def _check_kv_safety(self) -> None:
        """INV-1: whenever a token attends at a layer, every position up to its own has K and V in the layer's owner."""
        rows = [("prompt", self.prompt), ("sampled", self.sampled)]
        rows += [(f"generated token {t}", row) for t, row in enumerate(self.decode)]
        rows.append((f"generated tokens from {self.decode.shape[0]} on", self.decode[-1]))
        written = np.ones(self.layers, dtype=bool)
        for who, row in rows:
            written &= (row & KV).astype(bool)
            hole = (row & ATTN).astype(bool) & ~written[self.kv_owner]
            if hole.any():
                layer = int(np.flatnonzero(hole)[0])
                raise PlanError(
                    f"plan {self.name!r} breaks KV-safety: {who} attends at layer {layer}, but an earlier token"
                    f" left no keys in layer {int(self.kv_owner[layer])}; set KV there or drop ATTN here"
                )


def dense_digest(layers: int) -> str:
    """Digest of the dense plan of a model with that many layers."""
    return plan_of(layers, name="dense").digest


def plan_of(
    layers: int,
    *,
    name: str,
    prompt: object = None,
    sampled: object = None,
    decode: object = None,
    kv_input: object = None,
    kv_owner: object = None,
    gate: FfnGate | None = None,
    draft: DraftRule | None = None,
    monotone: bool = True,
    note: str = "",
) -> SkipPlan:
    """A plan that is dense wherever nothing is given; the constructor every strategy uses."""
    full = np.full(layers, FULL, dtype=np.uint8)
    own = np.arange(layers)
    return SkipPlan(
        name=name,
        prompt=full if prompt is None else prompt,  # type: ignore[arg-type]
        sampled=full if sampled is None else sampled,  # type: ignore[arg-type]
        decode=full[None] if decode is None else decode,  # type: ignore[arg-type]
        kv_input=own if kv_input is None else kv_input,  # type: ignore[arg-type]
        kv_owner=own if kv_owner is None else kv_owner,  # type: ignore[arg-type]
        gate=gate,
        draft=draft,
        monotone=monotone,
        note=note,
    )
