"""Replicas that fail, and replicas that are taken out of service: when, which, and for how long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.errors import InputError
from sim.run.crew import Crew, Event
from sim.run.member import Member


@dataclass(frozen=True)
class Outage:
    """One replica that is lost, or drained first; it is launched again after `down_ns`, or never."""

    at_ns: int
    slot: int
    down_ns: int | None = None
    drain: bool = False

    def __post_init__(self) -> None:
        if self.at_ns < 0 or self.slot < 0 or (self.down_ns is not None and self.down_ns < 0):
            raise InputError(f"{self}: times and replicas must not be negative")


@dataclass(frozen=True)
class Outages:
    """Planned outages, and failures as they come: `mtbf_ns` between failures of one replica on average, exponential.

    A failed replica loses its keys and its prefix cache; its requests come back to the router `notice_ns` later and
    start over. A slot that is empty at the time of an outage has nothing to lose.
    """

    planned: Sequence[Outage] = ()
    mtbf_ns: float = math.inf
    down_ns: int = 300_000_000_000  # of a failure that was not planned
    startup_ns: int = 120_000_000_000
    notice_ns: int = 1_000_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.mtbf_ns > 0:
            raise InputError(f"time between failures is {self.mtbf_ns} ns; it must be positive")
        if min(self.down_ns, self.startup_ns, self.notice_ns) < 0:
            raise InputError("down time, start-up and notice of a failure must not be negative")

    def run(self, crew: Crew) -> Event:
        """Let things happen in the order of their times."""
        slots = {m.slot for m in crew.live()}
        unknown = [o for o in self.planned if o.slot not in slots]
        if unknown:
            raise InputError(f"outage of replica {unknown[0].slot}: the fleet starts with replicas 0 to {max(slots)}")
        if math.isfinite(self.mtbf_ns):
            crew.env.process(self._wear(crew))
        for outage in sorted(self.planned, key=lambda o: (o.at_ns, o.slot)):
            yield crew.env.timeout(outage.at_ns - crew.now_ns)
            for member in [m for m in crew.live() if m.slot == outage.slot]:
                self._take_out(crew, member, outage)

    def _wear(self, crew: Crew) -> Event:
        """Failures of all live replicas together: the next one comes after an exponential time, to any of them."""
        rng = np.random.default_rng([self.seed, 104])
        while crew.more:
            alive = len(crew.live())
            yield crew.env.timeout(max(1, int(rng.exponential(self.mtbf_ns / max(1, alive)))))
            members = crew.live()
            if crew.more and members:
                member = members[int(rng.integers(len(members)))]
                self._take_out(crew, member, Outage(crew.now_ns, member.slot, self.down_ns))

    def _take_out(self, crew: Crew, member: Member, outage: Outage) -> None:
        def back() -> None:
            if outage.down_ns is not None:
                crew.env.process(self._return(crew, member, outage.down_ns))

        if outage.drain:
            crew.drain(member, then=back)
        else:
            crew.fail(member, notice_ns=self.notice_ns)
            back()

    def _return(self, crew: Crew, member: Member, down_ns: int) -> Event:
        yield crew.env.timeout(down_ns)
        if not any(m.slot == member.slot for m in crew.live()):
            crew.launch(member.group, member.slot, startup_ns=self.startup_ns)
