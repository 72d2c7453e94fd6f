"""Every error a user of elide can meet.

ElideError
├── InputError(ValueError)       a file, an option or a number that cannot be used: says which, and the remedy
│   └── UnknownName(LookupError) a model, GPU, strategy or policy we do not have: says the nearest one
├── PlanError(ValueError)        a skip plan that breaks a law (KV-safety, shapes, depth)
├── CapacityError(RuntimeError)  a request or an SLO that this hardware can never serve
└── UncalibratedOp(LookupError)  an operation that no measurement and no roofline covers

The command line prints one line of any of them and exits with status 2.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ElideError(Exception):
    """Root of the tree: catch it to catch every mistake we can explain."""


class InputError(ElideError, ValueError):
    """Input that cannot be used."""


class UnknownName(InputError, LookupError):
    """A name that is not in the catalogue."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self._given = (kind, name, names)
        near = get_close_matches(name.lower(), names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {', '.join(names)}")

    def __reduce__(self) -> tuple[type["UnknownName"], tuple[str, str, list[str]]]:
        return UnknownName, self._given  # so that a worker process can raise it in its parent


class PlanError(ElideError, ValueError):
    """A plan that breaks a law."""


class CapacityError(ElideError, RuntimeError):
    """More than this hardware can ever hold or serve."""


class UncalibratedOp(ElideError, LookupError):
    """An operation without a price."""
