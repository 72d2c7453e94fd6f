"""Skip harder only when the queue grows: a ladder of plans, climbed under pressure and descended in quiet times.

An engine runs one plan per step (its CUDA graphs and its cache layout belong to the plan), so two plans never share a
batch here either: the rung is a replica's. A replica changes its rung when it is empty: it is drained, its keys are
dropped, and it serves on under the next plan at once (all rungs run the same weights). So a request keeps its plan for
life, KV-safety holds, and every batch is priced as what it is. The cost is real and simulated: while replicas drain
they take nothing, which is why only a few may change at a time, and why there is hysteresis.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sim.errors import InputError
from sim.run.autoscale import Signal, signal_of
from sim.run.crew import Crew, Event
from sim.run.member import Member


@dataclass(frozen=True)
class Ladder:
    """Groups from the one for quiet times to the one that skips most, and when to move a replica between neighbours.

    Above `up` (of the signal, mean over replicas) replicas move a rung up, least loaded first, from the lowest rung;
    below `down`, and `hold_ns` after the last move up, a rung down from the highest. At most `moving` of the replicas
    are between two plans at once.
    """

    rungs: Sequence[int]
    up: float
    down: float
    signal: Signal = "load"
    every_ns: int = 1_000_000_000
    hold_ns: int = 30_000_000_000
    moving: float = 0.25

    def __post_init__(self) -> None:
        if len(set(self.rungs)) < 2:
            raise InputError("a ladder needs at least two rungs, each with a plan of its own")
        if not (0 <= self.down < self.up and math.isfinite(self.up)):
            raise InputError(f"ladder goes up above {self.up} and down below {self.down}: needs 0 ≤ down < up")
        if not 0 < self.moving <= 1 or self.every_ns < 1 or self.hold_ns < 0:
            raise InputError("a ladder needs a positive interval, no negative hold, and moving as a share in (0, 1]")

    def run(self, crew: Crew) -> Event:
        """Look, move some, wait."""
        last_up = -self.hold_ns
        while crew.more:
            crew.look()
            members = [m for m in crew.live() if m.group in self.rungs]
            pressure = signal_of(members, self.signal)
            room = max(1, int(self.moving * len(members))) - sum(m.phase == "draining" for m in members)
            serving = [m for m in members if m.phase == "serving"]
            if pressure > self.up:
                last_up = crew.now_ns
                self._move(crew, serving, room, step=1)
            elif pressure < self.down and crew.now_ns - last_up >= self.hold_ns:
                self._move(crew, serving, room, step=-1)
            yield crew.env.timeout(self.every_ns)

    def _move(self, crew: Crew, serving: Sequence[Member], room: int, *, step: int) -> None:
        rung = {group: i for i, group in enumerate(self.rungs)}
        can = [m for m in serving if 0 <= rung[m.group] + step < len(self.rungs)]
        can.sort(key=lambda m: (step * rung[m.group], m.outstanding, m.slot))
        for member in can[: max(0, room)]:
            self._change(crew, member, self.rungs[rung[member.group] + step])

    def _change(self, crew: Crew, member: Member, group: int) -> None:
        crew.drain(member, then=lambda: crew.launch(group, member.slot))
