"""The laws of scheduler and memory as checks on columns, for the stateful test and for whole runs."""

import numpy as np

from sim.serving.columns import (
    EVICTABLE,
    FREE,
    LRU_FIRST,
    LRU_LAST,
    N_FRONT,
    N_PREEMPTED,
    N_RESIDENT,
    N_ROWS,
    N_RUNNING,
    NOBODY,
    RUNNING,
    Asked,
    State,
)
from sim.serving.config import PREFILL_FIRST, STATIC, Knobs


def check_units(state: State, knobs: Knobs) -> None:
    """INV-10: free + private + resident units are all there are, and nothing is negative."""
    free, resident = state.counts[FREE], state.counts[N_RESIDENT]
    assert free + (state.blocks * state.units).sum() + resident * knobs.hash_units == knobs.total_units
    assert free >= 0
    assert resident >= 0
    assert (state.blocks >= 0).all()
    assert ((state.units >= 0) & (state.units <= knobs.full_units)).all()
    idle = state.status != RUNNING
    assert not state.blocks[idle].any()
    assert not state.shared[idle].any()
    assert (state.units[idle] == knobs.full_units).all()


def check_prefixes(asked: Asked, state: State) -> None:
    """INV-11: references are holders, holders hold what is resident, and the LRU list is what nobody holds."""
    refs = np.bincount(asked.hash_ids[state.held > 0], minlength=state.refs.size)
    assert (refs == state.refs).all()
    assert (state.resident[refs > 0] == 1).all()
    assert state.resident.sum() == state.counts[N_RESIDENT]
    owner = np.repeat(np.arange(asked.prompt_tokens.size), np.diff(asked.hash_offsets))
    assert (np.bincount(owner[state.held > 0], minlength=asked.prompt_tokens.size) == state.shared).all()
    forward = walk(int(state.counts[LRU_FIRST]), state.lru_next)
    assert forward == walk(int(state.counts[LRU_LAST]), state.lru_prev)[::-1]
    assert len(forward) == state.counts[EVICTABLE]
    assert set(forward) == set(np.flatnonzero((state.resident > 0) & (state.refs == 0)).tolist())


def walk(entry: int, links: np.ndarray) -> list[int]:
    """A linked list as a list; one that runs in a circle fails."""
    found: list[int] = []
    while entry != NOBODY:
        found.append(entry)
        assert len(found) <= links.size, "the list runs in a circle"
        entry = int(links[entry])
    return found


def check_queues(state: State) -> None:
    """Who runs is listed once and is running; nobody is preempted twice at once."""
    running = state.running[: state.counts[N_RUNNING]].tolist()
    assert sorted(running) == np.flatnonzero(state.status == RUNNING).tolist()
    front = state.front[: state.counts[N_FRONT]].tolist()
    assert len(set(front)) == len(front)
    assert not set(front) & set(running)


def check_rows(asked: Asked, state: State, knobs: Knobs) -> None:
    """INV-12: rows within the budgets, contiguous, of running requests with memory for all their tokens."""
    rows = state.counts[N_ROWS]
    request, start, tokens = (c[:rows] for c in (state.row_request, state.row_start, state.row_tokens))
    assert rows <= knobs.max_num_seqs
    assert tokens.sum() <= knobs.max_num_batched_tokens
    assert (tokens >= 1).all()
    assert len(set(request.tolist())) == rows
    assert (state.status[request] == RUNNING).all()
    assert (start == state.computed[request]).all()
    known = asked.prompt_tokens[request] + state.generated[request]
    decodes = (start == known - 1) & (state.generated[request] > 0)
    assert (start + tokens <= known + np.where(decodes, knobs.draft_tokens, 0)).all()
    if knobs.long_prefill:
        assert (tokens <= knobs.long_prefill).all()
    per_entry = knobs.hash_tokens // knobs.block_tokens
    blocks = state.blocks[request] + state.shared[request] * per_entry
    assert (blocks * knobs.block_tokens >= start + tokens).all()
    check_policy(state, knobs, request, known - start, tokens, decodes)


def check_policy(
    state: State, knobs: Knobs, request: np.ndarray, left: np.ndarray, tokens: np.ndarray, decodes: np.ndarray
) -> None:
    """INV-17: static batches are of equal age, and nobody is preempted who reserved all his memory.

    INV-18: where prefills come first, prompts are whole and never run beside decodes.
    """
    if knobs.policy == STATIC or knobs.reserve_output:
        assert state.counts[N_PREEMPTED] == 0
    if knobs.policy in (STATIC, PREFILL_FIRST):
        assert decodes.all() or not decodes.any()
    if knobs.policy == STATIC and knobs.draft_tokens == 0 and decodes.any():
        assert len(set(state.generated[request].tolist())) == 1
        assert set(request.tolist()) == set(np.flatnonzero(state.status == RUNNING).tolist())
    if knobs.policy == PREFILL_FIRST and not knobs.long_prefill:
        cut = np.flatnonzero((tokens < left) & ~decodes)
        assert all(row == 0 and left[row] > knobs.max_num_batched_tokens for row in cut)
