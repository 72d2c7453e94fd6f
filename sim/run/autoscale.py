"""An autoscaler: as many replicas as bring a signal to its target, later by the time a replica takes to start."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from sim.errors import InputError, UnknownName
from sim.run.crew import Crew, Event
from sim.run.member import Member

Signal = Literal["load", "queue", "kv"]


def signal_of(members: list[Member], signal: Signal) -> float:
    """The mean of a signal over members: requests in the system, requests waiting, or share of KV memory in use."""
    values = {
        "load": lambda m: float(m.outstanding),
        "queue": lambda m: float(m.waiting),
        "kv": lambda m: m.kv_share,
    }
    return sum(map(values[signal], members)) / len(members) if members else 0.0


@dataclass(frozen=True)
class Autoscaler:
    """Kubernetes' rule: wanted = ⌈serving · signal / target⌉, left alone within the tolerance, within bounds.

    It scales up at once and down to the largest wish of the last `down_after_ns` (Kubernetes' stabilisation window),
    by draining the replicas that have least to do. Replicas that are still starting count as serving, or every look
    while they start would ask for them again. (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale)
    """

    target: float
    signal: Signal = "load"
    most: int = 1000
    least: int = 1
    every_ns: int = 15_000_000_000
    startup_ns: int = 120_000_000_000
    down_after_ns: int = 300_000_000_000
    tolerance: float = 0.1
    group: int = 0  # the group that is scaled

    def __post_init__(self) -> None:
        if self.signal not in get_args(Signal):
            raise UnknownName("autoscaling signal", self.signal, get_args(Signal))
        if not (math.isfinite(self.target) and self.target > 0):
            raise InputError(f"autoscaling target={self.target}: must be a positive {self.signal} per replica")
        if not 1 <= self.least <= self.most:
            raise InputError(f"autoscaling between {self.least} and {self.most} replicas: needs 1 ≤ least ≤ most")
        if self.every_ns < 1 or self.startup_ns < 0 or self.down_after_ns < 0 or not 0 <= self.tolerance < 1:
            raise InputError("autoscaling times must not be negative, looks at least 1 ns apart, tolerance in [0, 1)")

    def wanted(self, replicas: int, value: float) -> int:
        """Replicas that would bring the signal to its target."""
        ratio = value / self.target
        wish = replicas if abs(ratio - 1.0) <= self.tolerance else math.ceil(replicas * ratio)
        return min(self.most, max(self.least, wish))

    def run(self, crew: Crew) -> Event:
        """Look, decide, wait."""
        wishes = [(crew.now_ns, len(self._mine(crew)))]  # or an idle first look would send those home who just began
        while crew.more:
            crew.look()
            mine = self._mine(crew)
            wish = self.wanted(len(mine), signal_of(mine, self.signal))
            wishes = [(t, w) for t, w in wishes if t > crew.now_ns - self.down_after_ns] + [(crew.now_ns, wish)]
            self._scale(crew, mine, max(wish, min(len(mine), max(w for _, w in wishes))))
            yield crew.env.timeout(self.every_ns)

    def _mine(self, crew: Crew) -> list[Member]:
        return [m for m in crew.live() if m.group == self.group and m.phase in ("starting", "serving")]

    def _scale(self, crew: Crew, mine: list[Member], wish: int) -> None:
        taken = {m.slot for m in crew.live()}
        free = (slot for slot in range(len(taken) + wish) if slot not in taken)
        for _ in range(wish - len(mine)):
            crew.launch(self.group, next(free), startup_ns=self.startup_ns)
        idle_first = sorted(mine, key=lambda m: (m.phase == "serving", m.outstanding, -m.slot))
        for member in idle_first[: max(0, len(mine) - wish)]:
            crew.drain(member)
