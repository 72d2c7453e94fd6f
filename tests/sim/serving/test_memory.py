"""Who is evicted first: what nobody has used for longest, and of one prompt its end before its beginning."""

import numpy as np

from sim.plans.catalogue import model_named
from sim.plans.strategies import dense
from sim.serving.columns import DONE, FREE, LRU_FIRST, RUNNING, asked_of, state_of
from sim.serving.completion import complete
from sim.serving.config import SchedulerConfig, knobs_of
from sim.serving.memory import reserve
from sim.serving.scheduler import arrive, schedule
from tests.sim.serving.laws import check_prefixes, check_units, walk

PLAN = dense(model_named("opt-125m"))


def test_the_oldest_prefix_goes_first_from_its_end() -> None:
    """INV-11: a prefix is of use only with all that is before it, and what was read again is young again."""
    prompts = np.array([9, 9, 5, 40])  # two, two and one full blocks of four; request 2 begins like request 0
    ids, offsets = np.array([0, 1, 2, 3, 4, 5, 0, 6, *range(7, 17)]), np.array([0, 3, 6, 8, 18])
    asked = asked_of(np.zeros(4, np.int64), prompts, np.ones(4, np.int64), ids, offsets)
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, block_tokens=4, prefix_caching=True)
    knobs = knobs_of(config, PLAN, kv_blocks=10, max_context=99, hash_tokens=4)
    state = state_of(asked, max_num_seqs=4, total_units=knobs.total_units, full_units=knobs.full_units)
    for request in range(3):
        assert arrive(asked, state, knobs, request)
        rows = schedule(asked, state, knobs)
        complete(asked, state, knobs, np.array(PLAN.live_caches), np.ones(rows, np.int64), request, request + 1)
        assert state.status[request] == DONE
    assert state.cached.tolist() == [0, 0, 4, 0]
    assert walk(int(state.counts[LRU_FIRST]), state.lru_next) == [1, 4, 3, 0]
    order = []
    for blocks in range(7, 11):  # six are free, every further one costs an entry
        before = set(np.flatnonzero(state.resident).tolist())
        assert reserve(state, knobs, 3, 4 * blocks)
        order += sorted(before - set(np.flatnonzero(state.resident).tolist()))
    assert order == [1, 4, 3, 0]
    assert state.counts[FREE] == 0
    check_prefixes(asked, state)
    assert state.blocks[3] * knobs.full_units == knobs.total_units
    assert not reserve(state, knobs, 3, 41)
    assert state.blocks[3] == 10
    state.status[3] = RUNNING
    check_units(state, knobs)
