"""Several strategies at once: SwiftKV for the prompt and SkipDecode for the decode, say."""

from functools import reduce
from itertools import permutations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sim.errors import PlanError
from sim.plans.plan import ATTN, KV, Flags, SkipPlan
from sim.plans.rules import DraftRule, FfnGate

Rule = TypeVar("Rule", FfnGate, DraftRule)


def compose(*plans: SkipPlan) -> SkipPlan:
    """A plan in which a token runs what every plan lets it run; the last row of a shorter table holds on.

    Keys and values come from and live where the plan that moves them says; at most one may move them, bring a gate,
    or draft. The dense plan is neutral and order does not matter. Compose all at once: a composition of compositions
    attends and feeds forward alike, but may go on writing keys that nobody reads any more. Raises PlanError for plans
    of different depth, or that do not go together.
    """
    first, *others = plans
    if not others:
        return first
    for plan in others:
        if plan.layers != first.layers:
            both = f"{first.name!r} for {first.layers} layers with {plan.name!r} for {plan.layers}"
            raise PlanError(f"cannot compose {both}")
    home = _keeper_of_keys(plans)
    _check_drafts(plans)
    tokens = max(plan.schedule_tokens for plan in plans)
    rows = _intersection([_rows(plan, tokens) for plan in plans], home.kv_owner)
    return SkipPlan(
        name="+".join(plan.name for plan in plans if not plan.is_dense) or "dense",
        prompt=rows[0],
        sampled=rows[1],
        decode=rows[2:],
        kv_input=home.kv_input,
        kv_owner=home.kv_owner,
        gate=_the_one("an FFN gate", plans, [plan.gate for plan in plans]),
        draft=_the_one("a draft", plans, [plan.draft for plan in plans]),
        monotone=all(plan.monotone for plan in plans),
        note="; ".join(plan.note for plan in plans if plan.note),
    )


def _intersection(tables: list[Flags], owner: NDArray[np.int64]) -> Flags:
    """Flags that all tables hold, and the KV-safety of their meeting, [2 + T, L].

    A cache that a group shares is written at its leader. Where one plan skips the leader but a later token still
    attends at a member of the group, the leader must go on writing: KV alone, from the stream that the sharing plan
    projects it from. That adds nothing to the sharing plan, which is safe itself, has at least these readers and so
    writes there already.
    """
    all_hold = reduce(np.bitwise_and, tables)
    attends = (all_hold & ATTN) > 0
    read = np.zeros_like(attends)
    np.logical_or.at(read.T, owner, attends.T)
    needed = np.logical_or.accumulate(read[::-1], axis=0)[::-1]
    return np.where(needed, all_hold | KV, all_hold).astype(np.uint8)


def _rows(plan: SkipPlan, tokens: int) -> Flags:
    """The table in the order of a sequence, [2 + tokens, L]: prompt, sampled, decode with its last row repeated."""
    held = np.broadcast_to(plan.decode[-1], (tokens - plan.decode.shape[0], plan.layers))
    return np.concatenate([plan.prompt[None], plan.sampled[None], plan.decode, held])


def _keeper_of_keys(plans: tuple[SkipPlan, ...]) -> SkipPlan:
    """The plan that moves keys and values; any of them when none does."""
    own = np.arange(plans[0].layers)
    movers = [plan for plan in plans if (plan.kv_input != own).any() or (plan.kv_owner != own).any()]
    for plan in movers[1:]:
        if (plan.kv_input != movers[0].kv_input).any() or (plan.kv_owner != movers[0].kv_owner).any():
            both = f"{movers[0].name!r} with {plan.name!r}"
            raise PlanError(f"cannot compose {both}: both decide where keys and values live")
    return (movers or plans)[0]


def _check_drafts(plans: tuple[SkipPlan, ...]) -> None:
    """A draft is verified by the full model: its partners may save prompt work, never decode work."""
    for drafting, partner in permutations(plans, 2):
        if drafting.draft and (partner.nominal_skip > 0 or partner.gate):
            both = f"{drafting.name!r} with {partner.name!r}"
            raise PlanError(f"cannot compose {both}: a draft is verified in full depth")


def _the_one(what: str, plans: tuple[SkipPlan, ...], rules: list[Rule | None]) -> Rule | None:
    """The rule that one of the plans brings, or several of them alike."""
    brought = [(plan, rule) for plan, rule in zip(plans, rules) if rule is not None]
    for plan, rule in brought[1:]:
        if rule.key != brought[0][1].key:
            raise PlanError(f"cannot compose {brought[0][0].name!r} with {plan.name!r}: both bring {what}")
    return brought[0][1] if brought else None
