"""One life of one replica as a fleet sees it: the replica, and slots that requests are written into as they are routed.

`Simulation` knows all its requests when it starts; a replica of a fleet learns of them one by one. Its columns hold
free slots whose requests arrive never (`FAR`); routing a request fills the next slot. Slots grow by doubling.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from sim.cost.tables import Tables, scratch_for
from sim.cost.times import times_for
from sim.run.flow import Flow, flow_for
from sim.run.replica import CLOCKS, FAR, STEP_END, Replica
from sim.run.simulate import Simulation
from sim.serving.columns import NOBODY, Ints, asked_of, state_of

SLOTS = 64
SHORT_LOG = 512  # lines between two looks at the log of a replica whose iterations nobody keeps

# totals of a seat
(
    TAKEN,  # slots in use
    GONE,  # requests whose slots were cleared away
    HASHES,  # prefix ids in use
    PROMPTS,  # prompt tokens routed here, ever
    STEPS,  # iterations, and what was seen in them
    BUSY_NS,
    KV_PEAK,
    QUEUE_PEAK,
) = range(8)
TOTALS = 8


class Seat(NamedTuple):
    """What the dispatcher reads and writes; every field is a column or a tuple of them."""

    replica: Replica
    flow: Flow
    number: Ints  # [n] which request of the traffic sits in the slot
    kind: Ints  # [n] its class
    attempt: Ints  # [n] earlier attempts that a failure ended
    born_ns: Ints  # [n] when its client sent it: attempts, and prefill elsewhere, come before the arrival here
    totals: Ints  # [TOTALS]


TAGS = ("number", "kind", "attempt", "born_ns")


class Mold:
    """Seats for one kind of replica: the price list is lowered once and shared."""

    def __init__(self, simulation: Simulation, *, entries: int, keep_log: bool) -> None:
        self.simulation = simulation
        self._entries = entries
        self._keep_log = keep_log

    @cached_property
    def template(self) -> Replica:
        """A replica of this kind that knows of a single request."""
        alone = replace(self.simulation, workload=self.simulation.workload.take(1))
        found = alone._replica(alone.times or times_for(alone.deployment.gpu.name))
        floats: dict[str, Any] = {
            name: float(getattr(found.tables, name)) for name, of in Tables.__annotations__.items() if of is float
        }
        return found._replace(tables=found.tables._replace(**floats))  # whole numbers, too: one type for all replicas

    def seat(self) -> Seat:
        """An idle replica with empty slots."""
        return self._seat(SLOTS, SLOTS)

    def grown(self, seat: Seat) -> Seat:
        """The same life with twice the room; at any time."""
        asked = seat.replica.asked
        wide = self._seat(2 * asked.arrival_ns.size, 2 * asked.hash_ids.size)
        for old, new in zip(_by_slot(seat), _by_slot(wide)):
            for have, room in zip(old, new):
                room[: have.size] = have
        replica = seat.replica._replace(asked=wide.replica.asked, state=wide.replica.state)
        return wide._replace(replica=replica, totals=seat.totals)

    def _seat(self, slots: int, hashes: int) -> Seat:
        known = self.template
        knobs, seqs = known.knobs, known.knobs.max_num_seqs
        entries = self._entries if knobs.hash_tokens else 0
        ids = np.full(hashes if entries else 0, entries - 1, dtype=np.int64)  # the largest sizes the prefix cache
        nothing = np.zeros(slots, dtype=np.int64)
        asked = asked_of(np.full(slots, FAR), nothing, nothing, ids, np.zeros(slots + 1, dtype=np.int64))
        state = state_of(asked, max_num_seqs=seqs, total_units=knobs.total_units, full_units=knobs.full_units)
        asked.hash_ids[:] = 0
        clock = np.zeros(CLOCKS, dtype=np.int64)
        clock[STEP_END] = NOBODY
        rows = known.log.shape[0] if self._keep_log else SHORT_LOG
        replica = known._replace(
            asked=asked,
            state=state,
            luck=known.luck.copy() if knobs.draft_tokens else known.luck,
            scratch=scratch_for(known.tables),
            emitted=np.zeros(seqs, dtype=np.int64),
            clock=clock,
            log=np.zeros((rows, known.log.shape[1]), dtype=np.int64),
            trace=np.empty_like(known.trace if self._keep_log else known.trace[:0]),
            gaps=np.zeros(8 * seqs + rows, dtype=np.int64),
        )
        flow = flow_for(known.tables, known.live_units, slots, seqs, knobs.block_tokens)
        tags = {name: np.zeros(slots, dtype=np.int64) for name in TAGS}
        return Seat(replica, flow, **tags, totals=np.zeros(TOTALS, dtype=np.int64))


def _by_slot(seat: Seat) -> Iterator[tuple[Any, ...]]:
    """The tuples of columns whose length depends on the number of slots."""
    yield seat.replica.asked
    yield seat.replica.state
    yield seat.flow
    yield tuple(getattr(seat, name) for name in TAGS)
