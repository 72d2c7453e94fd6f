"""The largest rate that still works, found by doubling and halving."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sim.errors import CapacityError

MOST_STEPS = 40
MOST_STEP, GROW = 4.0, 1.25


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


def search(
    works: Callable[[float], bool], *, start: float, step: float = 2.0, tolerance: float = 0.02, least: float = 0.0
) -> Bracket:
    """The bracket around the largest value that works, `tolerance` wide relative to its lower end.

    From `start` the value is multiplied by `step` until it fails (or divided until it works), in steps that grow; then
    the bracket is halved on a logarithmic scale. `works` should be true below a limit and false above; where it wavers,
    the answer is one of the places where it turns. Raises CapacityError where it never turns, or not above `least`.
    """
    known = {start: works(start)}
    value = start
    while known[value] == known[start]:
        if len(known) > MOST_STEPS or (value < least and not known[value]):
            raise CapacityError(_endless(known))
        value = value * step if known[start] else value / step
        known[value] = works(value)
        step = min(step**GROW, max(step, MOST_STEP))
    low = max(v for v, good in known.items() if good)
    high = min(v for v, good in known.items() if not good)
    while high / low - 1.0 > tolerance:
        value = math.sqrt(low * high)
        known[value] = works(value)
        low, high = (value, high) if known[value] else (low, value)
    return Bracket(low, high, len(known))


def _endless(known: dict[float, bool]) -> str:
    if all(known.values()):
        return f"no limit found: {max(known):.3g} requests per second still work; raise --requests"
    return f"not even {min(known):.3g} requests per second work, though a request alone does; raise --requests"
