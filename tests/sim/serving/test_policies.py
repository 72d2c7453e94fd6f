"""What each policy promises, in the smallest case that once broke it."""

import numpy as np
import pytest

from sim.plans.catalogue import model_named
from sim.plans.strategies import dense
from sim.serving.columns import DONE, N_PREEMPTED, N_ROWS, Asked, State, asked_of, state_of
from sim.serving.completion import abort, complete
from sim.serving.config import Knobs, SchedulerConfig, knobs_of
from sim.serving.scheduler import arrive, schedule
from tests.sim.serving.laws import check_rows, check_units

PLAN = dense(model_named("opt-125m"))


def replica(config: SchedulerConfig, blocks: int, lengths: list[tuple[int, int]]) -> tuple[Asked, State, Knobs]:
    """A replica with `blocks` KV blocks whose requests, (prompt, output) tokens each, have all arrived."""
    prompts, outputs = (np.array(column) for column in zip(*lengths))
    asked = asked_of(np.zeros_like(prompts), prompts, outputs)
    knobs = knobs_of(config, PLAN, kv_blocks=blocks, max_context=2048)
    state = state_of(
        asked, max_num_seqs=config.max_num_seqs, total_units=knobs.total_units, full_units=knobs.full_units
    )
    for request in range(len(lengths)):
        assert arrive(asked, state, knobs, request)
    return asked, state, knobs


def serve(asked: Asked, state: State, knobs: Knobs, *, at_most: int) -> list[list[tuple[int, int]]]:
    """(request, tokens) of each iteration until everybody is done, which takes no more than `at_most`."""
    history = []
    while (state.status != DONE).any():
        assert len(history) < at_most, "no end in sight"
        rows = schedule(asked, state, knobs)
        check_rows(asked, state, knobs)
        check_units(state, knobs)
        history.append(list(zip(state.row_request[:rows].tolist(), state.row_tokens[:rows].tolist())))
        complete(asked, state, knobs, np.array(PLAN.live_caches), np.ones(rows, np.int64), 0, 1)
    return history


def test_a_prompt_longer_than_a_step_does_not_starve_those_who_decode() -> None:
    """Its next piece once found no room, it preempted itself, began again, and nobody ever decoded."""
    config = SchedulerConfig(policy="prefill_first", max_num_seqs=2, max_num_batched_tokens=4, block_tokens=1)
    history = serve(*replica(config, 12, [(4, 6), (9, 2)]), at_most=20)
    assert history[0] == [(0, 4)]
    assert [step for step in history if step[0][0] == 1] == [[(1, 4)], [(1, 4)], [(1, 1)], [(1, 1)]]


def test_a_static_batch_stays_together() -> None:
    """Nobody is preempted in the middle: he would come back at another age."""
    config = SchedulerConfig(policy="static", max_num_seqs=3, max_num_batched_tokens=8, block_tokens=1)
    asked, state, knobs = replica(config, 20, [(3, 5), (5, 8), (2, 4)])
    history = serve(asked, state, knobs, at_most=20)
    assert state.counts[N_PREEMPTED] == 0
    assert [len(step) for step in history] == [2, *[2] * 4, *[1] * 3, 1, *[1] * 3]  # 7 + 12 tokens fill the memory


def test_chunks_fill_what_the_decodes_leave_of_the_budget() -> None:
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=6, long_prefill_token_threshold=4, block_tokens=2)
    history = serve(*replica(config, 50, [(3, 4), (9, 2)]), at_most=20)
    assert history == [[(0, 3), (1, 3)], [(0, 1), (1, 4)], [(0, 1), (1, 2)], [(0, 1), (1, 1)]]


@pytest.mark.parametrize("policy", ["chunked", "prefill_first", "static"])
def test_a_client_that_leaves_gives_its_memory_back_and_its_place_away(policy: str) -> None:
    config = SchedulerConfig(policy=policy, max_num_seqs=1, max_num_batched_tokens=8, block_tokens=4)  # type: ignore[arg-type]
    asked, state, knobs = replica(config, 4, [(8, 4), (6, 1), (2, 1)])
    schedule(asked, state, knobs)
    assert abort(asked, state, knobs, 0)
    assert abort(asked, state, knobs, 1)
    assert not abort(asked, state, knobs, 1)
    check_units(state, knobs)
    schedule(asked, state, knobs)
    assert state.row_request[: state.counts[N_ROWS]].tolist() == [2]
