"""The scheduler's columns for requests that nobody knows in advance: room is made as they come."""

from typing import Any, NamedTuple

import numpy as np

from sim.plans.plan import ATTN, FFN, KV, SkipPlan
from sim.serving.columns import DONE, N_DONE, N_FRONT, Asked, Ints, State, asked_of, state_of
from sim.serving.config import Knobs


class Room(NamedTuple):
    """How many requests, prefix hashes and prefix entries the columns can hold."""

    requests: int
    hashes: int
    entries: int

    def at_least(self, other: "Room") -> "Room":
        """Twice as much of what is short."""
        return Room(*(have if have >= need else max(need, 2 * have) for have, need in zip(self, other)))


def columns_for(room: Room, knobs: Knobs) -> tuple[Asked, State]:
    """Columns of an idle replica with that much room."""
    n = room.requests
    zeros = np.zeros(n, dtype=np.int64)
    ids = np.full(room.hashes, max(0, room.entries - 1), dtype=np.int64)
    asked = asked_of(zeros, zeros, zeros, ids, np.zeros(n + 1, dtype=np.int64))
    limits = {"max_num_seqs": knobs.max_num_seqs, "total_units": knobs.total_units, "full_units": knobs.full_units}
    return asked, state_of(asked, **limits)


def grown(asked: Asked, state: State, blank: tuple[Asked, State]) -> tuple[Asked, State]:
    """The larger `blank` columns with everything that the present ones hold."""

    def filled(target: Any, source: Any) -> Any:
        target[: source.size] = source
        return target

    wider, idle = blank
    return (
        Asked(*(filled(target, source) for target, source in zip(wider, asked))),
        State(*(filled(target, source) for target, source in zip(idle, state))),
    )


def retire(state: State, request: int, generated: int, *, removed: bool) -> None:
    """None: a request that turns out to have ended an iteration ago is done, and what it drew since is forgotten.

    `removed` says whether the scheduler's `abort` had to take it away. If it was preempted meanwhile, it leaves the
    queue too: there only aborted requests are passed over.
    """
    state.generated[request] = generated
    if not removed:
        return
    state.status[request] = DONE
    state.counts[N_DONE] += 1
    others = [r for r in state.front[: state.counts[N_FRONT]] if r != request]
    state.front[: len(others)] = others
    state.counts[N_FRONT] = len(others)


class Prefixes:
    """Dense ids of full prompt blocks: equal ids mean equal tokens from the first one on.

    The last prompt token follows its own row of the plan. Where that leaves other keys than a prompt token's, the block
    that it completes is nobody else's, and gets no id.
    """

    def __init__(self, plan: SkipPlan, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.last = 0 if _sampled_like_prompt(plan) else 1
        self._ids: dict[tuple[int, bytes], int] = {}

    @property
    def count(self) -> int:
        """Ids given so far."""
        return len(self._ids)

    def ids(self, tokens: list[int]) -> Ints:
        """One id per full block of the prompt that others may share."""
        size, parent, out = self.block_tokens, -1, []
        column = np.asarray(tokens, dtype=np.int64)
        for start in range(0, (len(tokens) - self.last) // size * size, size):
            key = (parent, column[start : start + size].tobytes())
            parent = self._ids.setdefault(key, len(self._ids))
            out.append(parent)
        return np.array(out, dtype=np.int64)


def _sampled_like_prompt(plan: SkipPlan) -> bool:
    """Whether the last prompt token leaves the keys and values that any other prompt token would leave."""
    differs = plan.prompt ^ plan.sampled
    deepest = int(plan.kv_input[plan.caches].max(initial=0))
    return not ((differs[:deepest] & (ATTN | FFN)).any() or (differs[plan.caches] & KV).any())
