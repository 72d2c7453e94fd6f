"""What a point of a sweep can set: every option of `capacity`, under the name it has there, and a rate."""

import argparse
from collections.abc import Mapping
from functools import cache

from sim.errors import InputError, UnknownName
from sim.study.options import Parser, add_deployment, add_scheduler, add_search, add_slo

YES, NO = ("true", "yes", "1"), ("false", "no", "0")


def add_point(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a point: those of `capacity`, without draws, which would cost more than all the rest."""
    parser.add_argument("--qps", type=float, help="run at this rate instead of searching for the largest one")
    add_search(parser)
    add_deployment(parser)
    add_scheduler(parser)
    add_slo(parser)
    draws = next(action for action in parser._actions if action.dest == "draws")
    draws.default, draws.help = 0, "draws of kernels and engine for each point's interval (0: of the traffic alone)"


@cache
def _actions() -> Mapping[str, argparse.Action]:
    parser = Parser(add_help=False)
    parser.add_argument("--strategy", default="dense")
    add_point(parser)
    return {action.dest: action for action in parser._actions}


def option_named(name: str, others: frozenset[str] = frozenset()) -> str:
    """The option's attribute: "max-num-seqs" is max_num_seqs. Raises UnknownName, the nearest of all and `others`."""
    found = name.strip().lstrip("-").replace("-", "_").lower()
    if found not in _actions():
        raise UnknownName("option", name, {*_actions(), *others})
    return found


def is_option(name: str) -> bool:
    """Whether a point has such an option."""
    return name in _actions()


def value_of(option: str, value: object) -> object:
    """The value as the command line would read it. Raises InputError for one that it would refuse."""
    action = _actions()[option]
    if action.nargs == 0:
        return _flag(option, str(value).lower())
    kind = action.type if callable(action.type) else str
    try:
        return kind(str(value))
    except ValueError:
        raise InputError(f"{option}={value}: must be {'a whole number' if kind is int else 'a number'}") from None


def is_whole(option: str) -> bool:
    """Whether the option takes whole numbers."""
    return _actions()[option].type is int


def is_number(option: str) -> bool:
    """Whether the option takes numbers."""
    return _actions()[option].type in (int, float)


def namespace_of(given: Mapping[str, object]) -> argparse.Namespace:
    """The options as the command line would give them: what is not given has its default."""
    defaults = {name: action.default for name, action in _actions().items()}
    return argparse.Namespace(**{**defaults, **given})


def _flag(option: str, text: str) -> bool:
    if text not in (*YES, *NO):
        raise InputError(f"{option}={text}: must be true or false")
    return text in YES
