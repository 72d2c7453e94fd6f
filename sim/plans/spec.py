"""Strategies as users write them: `name[:key=value,...]`, several joined by `+`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import get_args, get_type_hints

from sim.errors import InputError, UnknownName
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.strategies import STRATEGIES, compose


def strategy_named(spec: str, model: ModelShape) -> SkipPlan:
    """The plan that a spec asks for, named by the spec in its normal form.

    `swift_kv`, `swift_kv:keep=16,group=4`, `skip_decode:speedup=2`, `swift_kv+skip_decode:speedup=2`; "none" is the
    dense plan, hyphens are underscores, case does not matter, and `static_depth:drop=20/21/25` lists layers. Without
    arguments: skip_decode halves the layers, ffn_skip leaves out 25 % of the FFNs, swift_kv keeps half of the layers.
    Raises UnknownName for a strategy or an argument (with the nearest one), InputError for text that is no such
    list, PlanError for values that do not fit the model.
    """
    return compose(*(_single(part, model) for part in spec.split("+")))


def arguments_of(strategy: Callable[..., SkipPlan]) -> Mapping[str, frozenset[object]]:
    """The arguments that a spec can give a strategy, with the types each takes; measured arrays cannot be spelled."""
    hints = get_type_hints(strategy)
    names = [n for n, p in inspect.signature(strategy).parameters.items() if p.kind is p.KEYWORD_ONLY]
    kinds = {n: frozenset(get_args(hints[n]) or (hints[n],)) for n in names}
    return {n: kind for n, kind in kinds.items() if kind & {int, float, bool, str}}


def _single(part: str, model: ModelShape) -> SkipPlan:
    written, _, text = part.partition(":")
    name = written.strip().lower().replace("-", "_")
    if name == "none":
        name = "dense"
    if name not in STRATEGIES:
        raise UnknownName("strategy", written.strip(), STRATEGIES)
    known = arguments_of(STRATEGIES[name])
    given: dict[str, object] = {}
    for pair in text.split(",") if text.strip() else []:
        key, equals, value = (piece.strip() for piece in pair.partition("="))
        key = key.lower().replace("-", "_")
        if not equals:
            raise InputError(f"strategy {part.strip()!r}: {pair.strip()!r} is not key=value; {_usage(name, known)}")
        if key not in known:
            hint = UnknownName("argument", key, known) if known else "unknown argument"
            raise InputError(f"strategy {part.strip()!r}: {hint}; {_usage(name, known)}")
        if key in given:
            raise InputError(f"strategy {part.strip()!r}: {key} is given twice")
        given[key] = _value(part.strip(), key, value, known[key])
    return STRATEGIES[name](model, **given)


def _usage(name: str, known: Mapping[str, frozenset[object]]) -> str:
    return f"{name} takes {', '.join(known)}" if known else f"{name} takes no arguments"


def _value(part: str, key: str, text: str, kinds: frozenset[object]) -> object:
    """The number that `text` spells: a whole one where the strategy wants that, a list of layers if it has slashes."""
    if str in kinds:
        return text
    if bool in kinds and text.lower() in ("0", "1", "true", "false"):
        return text.lower() in ("1", "true")
    wants = "true or false" if bool in kinds else "a number" if float in kinds else "a whole number"
    try:
        if "/" in text and Sequence[int] in kinds:
            return tuple(int(layer) for layer in text.split("/") if layer)
        number = float(text)
    except ValueError:
        raise InputError(f"strategy {part!r}: {key}={text} is not {wants}") from None
    if float in kinds:
        return number
    if bool in kinds or not number.is_integer():
        raise InputError(f"strategy {part!r}: {key}={text} is not {wants}")
    return int(number)
