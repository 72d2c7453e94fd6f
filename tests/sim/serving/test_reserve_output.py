"""Reserved outputs: whoever is admitted is never preempted, at the price of fewer at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.serving.columns import N_PREEMPTED
from sim.serving.config import SchedulerConfig
from tests.sim.serving.test_policies import replica, serve

LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8)


@given(LENGTHS, st.integers(9, 24))
def test_nobody_is_preempted(lengths: list[tuple[int, int]], blocks: int) -> None:
    config = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=8, block_tokens=2, reserve_output=True)
    asked, state, knobs = replica(config, blocks, lengths)
    serve(asked, state, knobs, at_most=400)
    assert state.counts[N_PREEMPTED] == 0


def test_it_prevents_what_would_have_happened() -> None:
    lengths = [(4, 8)] * 3
    for reserve_output, preempted in ((False, True), (True, False)):
        config = SchedulerConfig(
            max_num_seqs=3, max_num_batched_tokens=16, block_tokens=1, reserve_output=reserve_output
        )
        asked, state, knobs = replica(config, 24, lengths)
        serve(asked, state, knobs, at_most=60)
        assert bool(state.counts[N_PREEMPTED] > 0) == preempted
        assert np.array_equal(state.generated, asked.output_tokens)
