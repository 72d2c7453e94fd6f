"""A day of traffic, drawn window by window: any window from its seed alone, so that nobody needs the whole day at once.

Arrivals are a Poisson process whose rate swings over 24 hours as a cosine, lowest at midnight (time 0): the daily shape
of user-facing services (Azure's LLM traces, Patel et al. 2024, Stojkovic et al. 2025). Given the number in a window,
their times are independent; so windows are drawn independently and still make one process.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError
from sim.workload.lengths import quantiles_named
from sim.workload.workload import Workload

DAY_S = 86_400
_NS = 1_000_000_000


@dataclass(frozen=True)
class Day:
    """Traffic with measured lengths (`azure-conv`, …) at `qps` requests per second, averaged over a whole day.

    The rate at time t is qps · (1 − swing · cos(2πt / 24 h)), constant within each second. Raises InputError for a rate
    or a duration that is not positive, or a swing outside [0, 1].
    """

    lengths: str
    qps: float
    hours: float = 24.0
    swing: float = 0.5
    window_s: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        quantiles_named(self.lengths)
        for name in ("qps", "hours", "window_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"day of traffic: {name} is {value}; it must be a positive number")
        if not 0 <= self.swing <= 1:
            raise InputError(f"day of traffic: swing is {self.swing}; it must be in [0, 1]")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must not be negative")

    @property
    def name(self) -> str:
        """How results name it."""
        return f"{self.lengths}, {self.hours:g} h at {self.qps:g}/s ± {self.swing:.0%}"

    @property
    def expected(self) -> float:
        """Requests to expect."""
        return float(self._until(np.array(self.hours * 3600.0)))

    def windows(self) -> Iterator[Workload]:
        """The windows in order; ones that nobody asked anything in are left out."""
        for window in range(math.ceil(self.hours * 3600 / self.window_s)):
            found = self._window(window)
            if found is not None:
                yield found

    def _window(self, window: int) -> Workload | None:
        begin = window * self.window_s
        end = min(begin + self.window_s, self.hours * 3600)
        edges = np.append(np.arange(begin, end, 1.0), end)
        expected = self._until(edges)
        rng = np.random.default_rng([self.seed, 105, window])
        n = int(rng.poisson(expected[-1] - expected[0]))
        if not n:
            return None
        place = expected[0] + np.sort(rng.random(n)) * (expected[-1] - expected[0])
        times = np.rint(np.interp(place, expected, edges) * _NS).astype(np.int64)
        prompts, outputs = quantiles_named(self.lengths).draw(n, rng, rng)
        return Workload(times, prompts, outputs, name=self.name, source=quantiles_named(self.lengths).source)

    def _until(self, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Requests expected before a time."""
        turn = 2 * np.pi / DAY_S
        return self.qps * (time_s - self.swing * np.sin(turn * time_s) / turn)
