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
from sim.plans.rules import FfnGate


@dataclass(frozen=True)
class Span:
    """Positions low..high-1; `mask` [rows, high - low, 1] is None where every row takes part in all of them."""

    low: int
    high: int
    mask: Tensor | None


@dataclass(frozen=True)
class Fill:
    """A cache that is filled from a layer's input: whose it is, for how many positions, with whose projections."""

    owner: int
    end: int
    members: tuple[int, ...]  # layers that share it; the mean of their projections fills it
    distilled: bool  # the owner's own SwiftKV projections fill it instead


@dataclass(frozen=True)
class Schedule:
    """A plan laid over texts. Plain numbers wherever possible, so that a compiled model meets no arrays."""

    attends: tuple[Span, ...]  # by layer
    feeds: tuple[Span, ...]
    fills: tuple[tuple[Fill, ...], ...]  # by the layer whose input is projected
    owner: tuple[int, ...]  # by layer, whose cache it reads
    distilled: int  # first layer that queries with SwiftKV's projections; the number of layers where none does
    gate: FfnGate | None
    eligible: Tensor | None  # bool [rows, positions], generated tokens that the FFN gate may thin out
    ballots: Tensor | None  # int64 [rows, positions], tokens of one number decide together; None: each for itself


def schedule_of(
    plan: SkipPlan,
    prompt_tokens: Tensor,
    positions: int,
    *,
    layers: int,
    distilled: tuple[int, int] | None,
    vote: int = 0,
    live: Tensor | None = None,
) -> Schedule:
    """The schedule of texts of up to `positions` tokens whose first `prompt_tokens` [rows] are the prompt.

    `distilled` is (keep, group) of the SwiftKV projections that the model has; they serve plans that move keys just
    so. With `vote` so many rows in a row are a batch, whose tokens of one generated index leave an FFN out when at
    least half of them would; `live` [rows, positions] are the tokens that a gate sees at all (default: every generated
    one, padding too). Raises PlanError for a plan of another depth.
    """
    if plan.layers != layers:
        have = f"the model has {layers}"
        raise PlanError(f"plan {plan.name!r} is for {plan.layers} layers, {have}; make it for this model")
    device = prompt_tokens.device
    fed = np.arange(positions)[None, :] - prompt_tokens.cpu().numpy()[:, None]
    table = np.concatenate([plan.prompt[None], plan.sampled[None], plan.decode])
    flags = table[np.where(fed < -1, 0, np.minimum(fed, plan.decode.shape[0] - 1) + 2)]  # [rows, positions, L]
    attends = tuple(_span((flags[..., layer] & ATTN) > 0, device) for layer in range(layers))
    swift = distilled[0] if distilled and moves_keys_so(plan, *distilled) else layers
    eligible = _eligible(plan.gate, fed) if plan.gate else np.zeros(fed.shape, dtype=bool)
    if live is not None:
        eligible &= live.cpu().numpy()
    return Schedule(
        attends=attends,
        feeds=tuple(_span((flags[..., layer] & FFN) > 0, device) for layer in range(layers)),
        fills=tuple(_fills(plan, attends, layer, swift) for layer in range(layers)),
        owner=tuple(int(j) for j in plan.kv_owner),
        distilled=swift,
        gate=plan.gate if eligible.any() else None,
        eligible=torch.from_numpy(eligible).to(device) if eligible.any() else None,
        ballots=torch.from_numpy(_ballots(fed, vote)).to(device) if vote else None,
    )


def moves_keys_so(plan: SkipPlan, keep: int, group: int) -> bool:
    """Whether keys and values of layers from `keep` on come from its input and are shared by groups of `group`."""
    layer = np.arange(plan.layers)
    owner = np.where(layer >= keep, layer - (layer - keep) % group, layer)
    return bool((plan.kv_input == np.minimum(layer, keep)).all() and (plan.kv_owner == owner).all())


def _span(mask: NDArray[np.bool_], device: torch.device) -> Span:
    used = np.flatnonzero(mask.any(axis=0))
    if not used.size:
        return Span(0, 0, None)
    low, high = int(used[0]), int(used[-1]) + 1
    inside = mask[:, low:high]
    return Span(low, high, None if inside.all() else torch.from_numpy(inside[..., None].copy()).to(device))


def _fills(plan: SkipPlan, attends: tuple[Span, ...], layer: int, swift: int) -> tuple[Fill, ...]:
    found = []
    for owner in np.flatnonzero((plan.kv_input == layer) & (plan.kv_owner == np.arange(plan.layers))):
        members = tuple(int(j) for j in np.flatnonzero(plan.kv_owner == owner))
        end = max(attends[j].high for j in members)
        if end:
            found.append(Fill(int(owner), end, members, bool(owner >= swift)))
    return tuple(found)


def _eligible(gate: FfnGate, fed: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Generated tokens after the gate's warm-up, but for each cadence's last."""
    since = fed - gate.warmup_tokens
    return (since >= 0) & (since % gate.cadence != gate.cadence - 1)


def _ballots(fed: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """A number for each batch of rows and generated index; prompt tokens are not asked."""
    batch = np.arange(len(fed))[:, None] // rows
    return batch * fed.shape[1] + np.maximum(fed, 0)
