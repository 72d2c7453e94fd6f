"""The points of a sweep: which options are held, which vary, and the grid of all combinations."""

import math
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

from sim.errors import InputError
from sim.study.points.axes import Axis, Choices, axis_of
from sim.study.points.options import is_option, option_named, value_of

Settings = Mapping[str, object]  # a point: a value for each axis, None where the point has no use for it
MOST_POINTS = 1_000_000
STRATEGY = "strategy"


@dataclass(frozen=True)
class Space:
    """Options that are held, and axes by name, in order.

    An axis is an option, or a parameter that a strategy names in braces: `swift_kv:keep={keep}` has a value for the
    axis `keep`, other strategies have not. Made by `space_of`, which checks it.
    """

    axes: Mapping[str, Axis]
    fixed: Mapping[str, object] = field(default_factory=dict)

    def uses(self, settings: Settings, axis: str) -> bool:
        """Whether a point whose strategy is among these settings has a value on the axis."""
        strategy = settings.get(STRATEGY, self.fixed.get(STRATEGY, "dense"))
        return is_option(axis) or axis in parameters_of(str(strategy))

    def options_of(self, settings: Settings) -> dict[str, object]:
        """The options of a point, the strategy spelled out."""
        options = dict(self.fixed) | {name: value for name, value in settings.items() if is_option(name)}
        if STRATEGY in options:
            parameters = {name: value for name, value in settings.items() if not is_option(name)}
            options[STRATEGY] = str(options[STRATEGY]).format(**parameters)
        return options


def space_of(vary: Mapping[str, object], fixed: Mapping[str, object] | None = None) -> Space:
    """The space of these axes (`axis_of` says what one may be) and held options.

    Raises UnknownName for what is neither an option nor named by a strategy, with the nearest one; InputError for an
    empty axis, for an option that is held and varied, for a parameter that nothing varies, and for no axis at all.
    """
    held = {(name := option_named(key)): value_of(name, value) for key, value in (fixed or {}).items()}
    written = next((value for key, value in vary.items() if key.strip("- ") == STRATEGY), None)
    strategies = axis_of(STRATEGY, written) if written is not None else Choices((held.get(STRATEGY, "dense"),))
    assert isinstance(strategies, Choices)
    named = {name for spec in strategies.values for name in parameters_of(str(spec))}
    axes: dict[str, Axis] = {}
    for key, given in vary.items():
        name = key if key in named else option_named(key, frozenset(named))
        if name in held:
            raise InputError(f"{name} is held at {held[name]} and varied; give one of the two")
        axes[name] = axis_of(name, given)
    missing = sorted(named - set(axes))
    if missing:
        raise InputError(f"a strategy names {{{missing[0]}}}, and nothing varies it; add --vary {missing[0]}=…")
    if not axes:
        raise InputError("nothing varies: give --vary OPTION=A,B,…, several --strategy, or --space FILE with [vary]")
    return Space(axes, held)


def parameters_of(strategy: str) -> tuple[str, ...]:
    """The parameters that a strategy names in braces. Raises InputError for braces that do not close."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(strategy) if name is not None]
    except ValueError as cause:
        raise InputError(f"strategy {strategy!r}: {cause}") from cause
    for name in names:
        if not name.isidentifier() or is_option(name):
            raise InputError(
                f"strategy {strategy!r}: {{{name}}} is no name for a parameter; use letters, as in {{keep}}"
            )
    return tuple(names)


def grid(space: Space) -> Iterator[Settings]:
    """Every combination once, the last axis fastest. Raises InputError for more than a million, or an endless axis."""
    values = {name: a.values if isinstance(a, Choices) else a.grid(name) for name, a in space.axes.items()}
    count = math.prod(len(v) for v in values.values())
    if count > MOST_POINTS:
        raise InputError(f"the grid has {count:,} points; vary less, or look for the best ones with --search N")
    seen: set[tuple[object, ...]] = set()
    for combination in product(*values.values()):
        settings = dict(zip(values, combination))
        settings = {name: value if space.uses(settings, name) else None for name, value in settings.items()}
        point = tuple(settings.values())
        if point not in seen:
            seen.add(point)
            yield settings
