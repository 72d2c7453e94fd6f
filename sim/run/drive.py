"""A replica on SimPy's clock: its loop compiled, in as few events as can be, or interpreted, one event an iteration."""

from collections.abc import Callable, Generator

import simpy

from sim.run.compiled import compiled_advance
from sim.run.flow import flow_for
from sim.run.log import Logged, drained, held, joined
from sim.run.replica import (
    FOREVER,
    FULL,
    NEXT,
    NOW,
    STEP_END,
    Replica,
    admit_arrivals,
    begin_step,
    book_step,
    finish_step,
    is_full,
    seen_ns,
)
from sim.serving.columns import N_DONE

Progress = Callable[[int, int], None]


class Log:
    """The stretches of a run's log, drained from the replica's fixed buffers."""

    def __init__(self, replica: Replica, progress: Progress | None) -> None:
        self._replica = replica
        self._progress = progress
        self._parts: list[Logged] = []

    def drain(self) -> None:
        """Copy what the buffers hold and empty them."""
        self._parts.append(drained(self._replica))
        self._tell()

    def all(self) -> Logged:
        """The whole log; the buffers are not to be used any more."""
        self._tell()
        return joined([*self._parts, held(self._replica)])

    def _tell(self) -> None:
        if self._progress:
            self._progress(int(self._replica.state.counts[N_DONE]), self._replica.asked.arrival_ns.size)


def compiled(env: simpy.Environment, replica: Replica, log: Log) -> Generator[simpy.Event, None, None]:
    """Advance to the end in as few events as the log's buffer allows."""
    advance = compiled_advance()
    knobs, requests = replica.knobs, replica.asked.arrival_ns.size
    flow = flow_for(replica.tables, replica.live_units, requests, knobs.max_num_seqs, knobs.block_tokens)
    while True:
        why = advance(replica, flow, FOREVER)
        if replica.clock[NOW] > env.now:
            yield env.timeout(int(replica.clock[NOW]) - env.now)
        if why != FULL:
            return
        log.drain()


def stepwise(env: simpy.Environment, replica: Replica, log: Log) -> Generator[simpy.Event, None, None]:
    """The oracle: one event per iteration, interpreted."""
    clock, arrival_ns = replica.clock, replica.asked.arrival_ns
    while True:
        clock[NOW] = env.now
        admit_arrivals(replica)
        if begin_step(replica):
            yield env.timeout(int(clock[STEP_END]) - env.now)
            book_step(replica, 0)
            finish_step(replica)
            if is_full(replica):
                log.drain()
        elif clock[NEXT] < arrival_ns.size:
            yield env.timeout(int(seen_ns(replica, clock[NEXT])) - env.now)
        else:
            return
