"""What varies: listed values, or a range of numbers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sim.errors import InputError, UnknownName
from sim.study.points.options import is_number, is_option, is_whole, value_of

KEYS = ("low", "high", "step", "log")
MOST_VALUES = 100_000


@dataclass(frozen=True)
class Choices:
    """Listed values, each once."""

    values: tuple[object, ...]

    @property
    def ordered(self) -> bool:
        """Whether the values are numbers that grow, so that neighbours are alike."""
        numbers = [v for v in self.values if isinstance(v, int | float) and not isinstance(v, bool)]
        return len(numbers) == len(self.values) and numbers == sorted(numbers)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included: on a grid if there is a `step`, on a logarithmic scale if `log`."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether it holds whole numbers only."""
        return all(isinstance(v, int) for v in (self.low, self.high, self.step or 0))

    def grid(self, name: str) -> tuple[float, ...]:
        """Its values in steps. Raises InputError for a range without one."""
        if self.step is None:
            raise InputError(
                f"{name}: a grid needs a step ({self.low}..{self.high}:STEP), or listed values; or --search N"
            )
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        if count > MOST_VALUES:
            raise InputError(f"{name}: {count:,} values; take a larger step")
        return tuple(round(self.low + i * self.step, 12) for i in range(count))


Axis = Choices | Range


def axis_of(name: str, given: object) -> Axis:
    """The axis that a value describes: a list, {low, high, step, log}, or text as in `--vary` ("8,16", "8..64:8").

    `name` is an option or a strategy's parameter. Raises InputError for nothing to vary and for what is no value.
    """
    if isinstance(given, str):
        given = _parsed(name, given)
    if isinstance(given, Mapping):
        return _range(name, given)
    if not isinstance(given, Iterable):
        raise InputError(
            f"{name}: {given!r} is neither a list of values nor a range; to hold it fixed, put it in fixed"
        )
    values = tuple(dict.fromkeys(value_of(name, v) if is_option(name) else _number(v) for v in given))
    if not values:
        raise InputError(f"{name}: no values; list at least one")
    if len({isinstance(value, str) for value in values}) > 1:
        raise InputError(f"{name}: numbers and words are mixed")
    return Choices(values)


def _parsed(name: str, text: str) -> object:
    low, dots, rest = text.partition("..")
    if not dots or (is_option(name) and not is_number(name)):
        return [part.strip() for part in text.split(",") if part.strip()]
    high, _, step = rest.partition(":")
    table: dict[str, object] = {"low": _number(low), "high": _number(high)}
    if step:
        table |= {"log": True} if step == "log" else {"step": _number(step)}
    return table


def _range(name: str, table: Mapping[str, object]) -> Range:
    for key in table:
        if key not in KEYS:
            raise UnknownName(f"key of {name}'s range", key, KEYS)
    if "low" not in table or "high" not in table:
        raise InputError(f"{name}: a range needs low and high")
    low, high, step = (table.get(key) for key in KEYS[:3])
    for key, value in (("low", low), ("high", high), ("step", step)):
        known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (known or (key == "step" and value is None)):
            raise InputError(f"{name}: {key}={value!r} is not a number")
        if is_option(name) and is_whole(name) and value is not None and not isinstance(value, int):
            raise InputError(f"{name}: {key}={value} must be a whole number")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    assert step is None or isinstance(step, int | float)
    if is_option(name) and not is_number(name):
        raise InputError(f"{name} takes no numbers; list its values")
    if not low < high or (step is not None and not step > 0):
        raise InputError(f"{name}: {low}..{high}{'' if step is None else f':{step}'} is an empty range")
    log = bool(table.get("log", False))
    if log and (step is not None or low <= 0):
        raise InputError(f"{name}: a logarithmic range starts above 0 and has no step")
    if is_option(name) and not is_whole(name):
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Range(low, high, step, log)


def _number(value: object) -> object:
    """A strategy's parameter: a number where it reads as one."""
    text = str(value).strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
