"""One life of one replica: when it was launched, what it did, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from sim.cost.work import work_done
from sim.run.clearing import clear, finished
from sim.run.dispatch import LOG_IS_FULL, fold, outstanding
from sim.run.ledger import slots_of
from sim.run.log import Logged, drained, joined
from sim.run.replica import L_NS, L_STEPS, L_USED, L_WAITING, STEP_END
from sim.run.result import Result
from sim.run.seat import BUSY_NS, GONE, KV_PEAK, QUEUE_PEAK, STEPS, TAKEN, Mold, Seat
from sim.serving.columns import DONE, EVICTABLE, FREE, N_DONE, N_RUNNING, NOBODY, REFUSED, Ints
from sim.workload.workload import Workload

CLEARED = 4  # slots are cleared where at least one in so many is finished
FILLED = 0.75  # share of the slots from which on there will be more, where they cannot be cleared
Phase = Literal["starting", "serving", "draining", "down"]
Harvest = Callable[[dict[str, Ints], int, int], None]  # columns of requests, group, replica


@dataclass(eq=False)
class Member:
    """A replica from its launch to its end; `slot` is the place (the GPUs) that it lives on."""

    number: int
    slot: int
    group: int
    mold: Mold
    seat: Seat
    launched_ns: int
    ready_ns: int
    phase: Phase
    down_ns: int = NOBODY
    end: str = ""  # drained, failed, or served to the end of the run
    lost: int = 0  # requests that were here when it failed
    parts: list[Logged] = field(default_factory=list)  # iterations, where they are kept

    @property
    def outstanding(self) -> int:
        """Requests here that are not finished."""
        return int(outstanding(self.seat))

    @property
    def waiting(self) -> int:
        """Of these, the ones that do not run."""
        return self.outstanding - int(self.seat.replica.state.counts[N_RUNNING])

    @property
    def kv_share(self) -> float:
        """Share of KV memory in use."""
        counts, knobs = self.seat.replica.state.counts, self.seat.replica.knobs
        return 1.0 - float(counts[FREE] + counts[EVICTABLE] * knobs.hash_units) / knobs.total_units

    def note_log(self, *, keep: bool) -> None:
        """Add the log's iterations to the totals, and keep them if asked to."""
        if not keep:
            fold(self.seat)
            return
        part = drained(self.seat.replica)
        self.parts.append(part)
        totals, lines = self.seat.totals, part.lines
        totals[STEPS] += lines[:, L_STEPS].sum()
        totals[BUSY_NS] += lines[:, L_NS].sum()
        totals[KV_PEAK] = max(totals[KV_PEAK], lines[:, L_USED].max(initial=0))
        totals[QUEUE_PEAK] = max(totals[QUEUE_PEAK], lines[:, L_WAITING].max(initial=0))

    def attend(self, harvest: Harvest, *, why: int, keep: bool) -> bool:
        """Make room in log and slots; whether the seat moved to other columns."""
        self.note_log(keep=keep)
        seat, size = self.seat, self.seat.number.size
        ready = 0 if keep or seat.replica.clock[STEP_END] != NOBODY else finished(seat)
        if ready and CLEARED * ready >= size:
            harvest(slots_of(seat, np.arange(ready)), self.group, self.slot)
            clear(seat, ready)
            return False
        if why == LOG_IS_FULL and (keep or seat.totals[TAKEN] <= FILLED * size):
            return False
        self.seat = self.mold.grown(seat)
        return True

    def here(self) -> Ints:
        """Slots of requests that are not finished."""
        status = self.seat.replica.state.status[: self.seat.totals[TAKEN]]
        return np.flatnonzero((status != DONE) & (status != REFUSED))

    def close(self, harvest: Harvest, *, now_ns: int, end: str, keep: bool) -> None:
        """End this life and book what it finished."""
        self.note_log(keep=keep)
        status = self.seat.replica.state.status[: self.seat.totals[TAKEN]]
        over = np.flatnonzero((status == DONE) | (status == REFUSED))
        harvest(slots_of(self.seat, over), self.group, self.slot)
        self.phase, self.down_ns, self.end, self.lost = "down", now_ns, end, int(status.size - over.size)

    def row(self, group: str, strategy: str, gpus: int) -> dict[str, object]:
        """This life as a row of a table."""
        totals, state, knobs = self.seat.totals, self.seat.replica.state, self.seat.replica.knobs
        life_ns = self.down_ns - self.launched_ns
        return {
            "replica": self.slot,
            "group": group,
            "strategy": strategy,
            "launched_ns": self.launched_ns,
            "ready_ns": self.ready_ns,
            "down_ns": self.down_ns,
            "end": self.end,
            "routed": int(totals[TAKEN] + totals[GONE]),
            "completed": int(state.counts[N_DONE]),
            "lost": self.lost,
            "iterations": int(totals[STEPS]),
            "busy_share": float(totals[BUSY_NS]) / life_ns if life_ns else 0.0,
            "kv_peak_share": float(totals[KV_PEAK]) / knobs.total_units,
            "queue_peak": int(totals[QUEUE_PEAK]),
            "gpu_hours": gpus * life_ns / 3.6e12,
        }

    def result(self, name: str) -> Result:
        """This life as a run of its own, where its iterations were kept and no slot was cleared."""
        assert self.seat.totals[GONE] == 0
        n, simulation, replica = int(self.seat.totals[TAKEN]), self.mold.simulation, self.seat.replica
        asked, state = replica.asked, replica.state
        ids = int(asked.hash_offsets[n])
        hashed = replica.knobs.hash_tokens > 0
        work = Workload(
            asked.arrival_ns[:n],
            asked.prompt_tokens[:n],
            asked.output_tokens[:n],
            name=name,
            hash_ids=asked.hash_ids[:ids] if hashed else None,
            hash_offsets=asked.hash_offsets[: n + 1] if hashed else None,
            hash_block_tokens=replica.knobs.hash_tokens,
        )
        by_slot = {k: v[:n] for k, v in state._asdict().items() if v.size == self.seat.number.size}
        return Result(
            workload=work,
            deployment=simulation.deployment,
            plan=simulation.plan,
            config=simulation.config,
            times_label=simulation.times.label if simulation.times else "",
            asked=asked._replace(
                arrival_ns=asked.arrival_ns[:n],
                prompt_tokens=asked.prompt_tokens[:n],
                output_tokens=asked.output_tokens[:n],
                hash_ids=asked.hash_ids[:ids],
                hash_offsets=asked.hash_offsets[: n + 1],
            ),
            state=state._replace(**by_slot),
            knobs=replica.knobs,
            work=work_done(replica.tables, replica.scratch),
            logged=joined(self.parts),
            wall_s=0.0,
        )
