"""The largest rate that still works, found by doubling and halving."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sim.errors import CapacityError

MOST_STEPS = 60


@dataclass(frozen=True)
class Bracket:
    """`low` was seen to work, `high` not to; the limit lies between."""

    low: float
    high: float
    evaluations: int

    @property
    def width(self) -> float:
        """The bracket's relative width."""
        return self.high / self.low - 1.0


def search(works: Callable[[float], bool], *, start: float, step: float = 2.0, tolerance: float = 0.02) -> Bracket:
    """The bracket around the largest value that works, `tolerance` wide relative to its lower end.

    From `start` the value is multiplied by `step` until it fails (or divided until it works), then the bracket is
    halved on a logarithmic scale. `works` should be true below a limit and false above; where it wavers near the
    limit, the answer is one of the places where it turns. Raises CapacityError where it never turns.
    """
    known = {start: works(start)}
    value = start
    while known[value] == known[start]:
        if len(known) > MOST_STEPS:
            raise CapacityError(f"no limit found between {min(known):.3g} and {max(known):.3g}")
        value = value * step if known[start] else value / step
        known[value] = works(value)
    low = max(v for v, good in known.items() if good)
    high = min(v for v, good in known.items() if not good)
    while high / low - 1.0 > tolerance:
        value = math.sqrt(low * high)
        known[value] = works(value)
        low, high = (value, high) if known[value] else (low, value)
    return Bracket(low, high, len(known))
