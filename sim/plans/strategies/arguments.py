"""What the strategies share: checked arguments, and the canonical name of what was asked for."""

from collections.abc import Sequence

import numpy as np

from sim.errors import PlanError

Argument = float | str | Sequence[int] | None


def whole(strategy: str, name: str, value: int, low: int, high: int) -> int:
    """`value`, if it is a whole number in low..high; raises PlanError otherwise."""
    if low > high:
        raise PlanError(f"{strategy}: {name}={value} is impossible, the model is too shallow for this strategy")
    if not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise PlanError(f"{strategy}: {name}={value} must be a whole number in {low}..{high}")
    return int(value)


def real(strategy: str, name: str, value: float, low: float, high: float) -> float:
    """`value`, if it is a number in low..high; raises PlanError otherwise, for NaN too."""
    if not low <= value <= high:
        raise PlanError(f"{strategy}: {name}={value} must be a number in {low:g}..{high:g}")
    return float(value)


def unless(value: float, default: float) -> float | None:
    """`value`, or None where it is the default and need not be said."""
    return None if value == default else value


def spec_of(strategy: str, **arguments: Argument) -> str:
    """The spec that names a plan: `swift_kv:keep=16,group=4`; arguments that are None are left out.

    Parsing it back gives the same plan, measured profiles excepted: they are data, not words.
    """
    given = [f"{key}={_spelled(value)}" for key, value in arguments.items() if value is not None]
    return f"{strategy}:{','.join(given)}" if given else strategy


def _spelled(value: float | str | Sequence[int]) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "/".join(str(v) for v in value) + ("/" if len(value) == 1 else "")
    return repr(int(value)) if value == int(value) else repr(float(value))
