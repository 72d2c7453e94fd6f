"""Two strategies at once: SwiftKV for the prompt and SkipDecode for the decode, say."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.errors import PlanError
from sim.plans.plan import ATTN, KV, Flags, SkipPlan
from sim.plans.rules import DraftRule, FfnGate

Rule = TypeVar("Rule", FfnGate, DraftRule)


def compose(a: SkipPlan, b: SkipPlan) -> SkipPlan:
    """A plan in which a token runs what both plans let it run; the shorter table's last row holds on.

    Keys and values come from and live where the plan that moves them says; at most one may move them, bring a gate,
    or draft. The dense plan is neutral; order does not matter. Raises PlanError for plans of different depth or that
    do not go together.
    """
    if a.layers != b.layers:
        raise PlanError(f"cannot compose {a.name!r} for {a.layers} layers with {b.name!r} for {b.layers}")
    home, guest = (b, a) if _keeps_kv_at_home(a) else (a, b)
    if not _keeps_kv_at_home(guest) and not _same_maps(home, guest):
        raise PlanError(f"cannot compose {a.name!r} with {b.name!r}: both decide where keys and values live")
    _check_draft(a, b)
    tokens = max(a.decode.shape[0], b.decode.shape[0])
    rows = _intersection(_rows(home, tokens), _rows(guest, tokens), home.kv_owner)
    names = [plan.name for plan in (a, b) if not plan.is_dense]
    return SkipPlan(
        name="+".join(names) or "dense",
        prompt=rows[0],
        sampled=rows[1],
        decode=rows[2:],
        kv_input=home.kv_input,
        kv_owner=home.kv_owner,
        gate=_the_one("an FFN gate", a, b, a.gate, b.gate),
        draft=_the_one("a draft", a, b, a.draft, b.draft),
        monotone=a.monotone and b.monotone,
        note="; ".join(note for note in (a.note, b.note) if note),
    )


def _intersection(home: Flags, guest: Flags, owner: NDArray[np.int64]) -> Flags:
    """Flags that both tables hold, and the KV-safety of their meeting, [2 + T, L].

    A cache that a group shares is written at its leader. Where the guest skips the leader but a later token still
    attends at a member of the group, the leader must go on writing: KV alone, from the stream that `home` projects it
    from. That adds nothing to `home`, which is safe itself, has at least these readers and so writes there already.
    """
    both = home & guest
    attends = (both & ATTN) > 0
    read = np.zeros_like(attends)
    np.logical_or.at(read.T, owner, attends.T)
    needed = np.logical_or.accumulate(read[::-1], axis=0)[::-1]
    return np.where(needed, both | KV, both).astype(np.uint8)


def _rows(plan: SkipPlan, tokens: int) -> Flags:
    """The table in the order of a sequence, [2 + tokens, L]: prompt, sampled, decode with its last row repeated."""
    held = np.broadcast_to(plan.decode[-1], (tokens - plan.decode.shape[0], plan.layers))
    return np.concatenate([plan.prompt[None], plan.sampled[None], plan.decode, held])


def _keeps_kv_at_home(plan: SkipPlan) -> bool:
    own = np.arange(plan.layers)
    return bool((plan.kv_input == own).all() and (plan.kv_owner == own).all())


def _same_maps(a: SkipPlan, b: SkipPlan) -> bool:
    return bool((a.kv_input == b.kv_input).all() and (a.kv_owner == b.kv_owner).all())


def _check_draft(a: SkipPlan, b: SkipPlan) -> None:
    """A draft is verified by the full model: its partner may save prompt work, never decode work."""
    for drafting, partner in ((a, b), (b, a)):
        if drafting.draft and (partner.nominal_skip > 0 or partner.gate):
            both = f"{drafting.name!r} with {partner.name!r}"
            raise PlanError(f"cannot compose {both}: a draft is verified in full depth")


def _the_one(what: str, a: SkipPlan, b: SkipPlan, mine: Rule | None, yours: Rule | None) -> Rule | None:
    if mine is not None and yours is not None and mine.key != yours.key:
        raise PlanError(f"cannot compose {a.name!r} with {b.name!r}: both bring {what}")
    return yours if mine is None else mine
