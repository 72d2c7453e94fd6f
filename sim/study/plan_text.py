"""A plan as a table of text: layers that do alike in one row, tokens that do alike in one column."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sim.plans.plan import ATTN, FFN, KV, Flags, SkipPlan

MOST_COLUMNS = 8
LETTERS = ((ATTN, "A"), (FFN, "F"), (KV, "K"))


@dataclass(frozen=True)
class PlanTable:
    """Headings and rows: each row is a range of layers, what each kind of token does there, and where its KV lives."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def plan_table_text(plan: SkipPlan, columns: int = MOST_COLUMNS) -> PlanTable:
    """The plan in at most so many columns of generated tokens.

    A cell holds A (attention), F (feed-forward, f where a gate may leave it out) and K (K and V written), with a dot
    for each that the token leaves out.
    """
    picks = _tokens(plan, columns)
    kinds = [plan.prompt, plan.sampled, *(plan.decode[t] for t in picks)]
    last = plan.decode.shape[0] - 1
    names = ["prompt", "sampled", *(f"t ≥ {t}" if t == last else f"t = {t}" for t in picks)]
    rows = []
    for first, end in _ranges(plan, kinds):
        where = f"{first}" if end == first + 1 else f"{first}–{end - 1}"
        cells = [_cell(plan, flags, first, generated=i >= 2) for i, flags in enumerate(kinds)]
        rows.append((where, *cells, _kv(plan, first, end)))
    return PlanTable(("layers", *names, "K and V"), tuple(rows))


def _tokens(plan: SkipPlan, most: int) -> list[int]:
    """Generated tokens that head the columns: where the plan changes, thinned out evenly."""
    changes = [0, *(1 + np.flatnonzero((plan.decode[1:] != plan.decode[:-1]).any(axis=1))).tolist()]
    if len(changes) <= most:
        return changes
    picks = np.linspace(0, len(changes) - 1, most).round().astype(int)
    return [changes[i] for i in dict.fromkeys(picks.tolist())]


def _ranges(plan: SkipPlan, kinds: Sequence[Flags]) -> list[tuple[int, int]]:
    """Consecutive layers that do alike, and whose keys and values come from and go to alike places."""
    layer = np.arange(plan.layers)
    gated = plan.gate.skip if plan.gate else np.zeros(plan.layers)
    facts: list[NDArray[np.generic]] = [*kinds, gated.round(3), layer - plan.kv_owner > 0]
    facts.append(np.where(_shares_source(plan), plan.kv_input, -1))
    table = np.stack([np.asarray(f, dtype=float) for f in facts])
    starts = [0, *(1 + np.flatnonzero((table[:, 1:] != table[:, :-1]).any(axis=0))).tolist(), plan.layers]
    return list(pairwise(starts))


def _shares_source(plan: SkipPlan) -> NDArray[np.bool_]:
    """Whether a layer projects K and V from a stream that other layers project from too, [L]."""
    return np.bincount(plan.kv_input, minlength=plan.layers)[plan.kv_input] > 1


def _cell(plan: SkipPlan, flags: Flags, layer: int, *, generated: bool) -> str:
    gated = generated and plan.gate is not None and plan.gate.skip[layer] > 0
    text = "".join(letter if flags[layer] & bit else "·" for bit, letter in LETTERS)
    return text.replace("F", "f") if gated else text


def _kv(plan: SkipPlan, first: int, end: int) -> str:
    """Where the range's keys and values come from and live, where that is not at home."""
    owner, source = int(plan.kv_owner[first]), int(plan.kv_input[first])
    said = []
    if _shares_source(plan)[first]:
        said.append(f"from the stream into layer {source}")
    if owner != first:
        said.append(f"read from layer {owner}")
    if plan.gate is not None and plan.gate.skip[first] > 0:
        said.append(f"FFN left out by {plan.gate.skip[first]:.0%} of tokens")
    return "; ".join(said) or "own"
