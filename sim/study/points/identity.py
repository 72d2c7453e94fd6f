"""What an answer depends on, as a digest: every resolved input, and the source that computes it."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sim.plans.plan import SkipPlan

ROOT = Path(__file__).resolve().parents[2]
SHOWN = ("study/pictures/", "study/assets/", "study/commands/")  # how results are shown changes none
DATA = (".py", ".toml", ".json")
LIBRARIES = ("numpy", "numba", "polars")


def digest_of(value: object) -> str:
    """Twenty-four hex digits of a value's content. Raises TypeError for what has no content that could be compared."""
    return hashlib.sha256(json.dumps(_content(value), sort_keys=True).encode()).hexdigest()[:24]


@cache
def source_version() -> str:
    """Twelve hex digits of the simulator's source and data, and of the versions of what it computes with."""
    h = hashlib.sha256(repr([platform.python_version(), *map(version, LIBRARIES)]).encode())
    for path in sorted(ROOT.rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in DATA and not name.startswith(SHOWN):
            h.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return h.hexdigest()[:12]


def _content(value: object) -> object:
    """The value in terms of JSON; a dataclass is its type and the fields it is compared by."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, SkipPlan):
        return ["plan", value.digest]
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    if is_dataclass(value):
        return [type(value).__name__, {f.name: _content(getattr(value, f.name)) for f in fields(value) if f.compare}]
    if isinstance(value, Mapping):
        return {repr(key): _content(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_content(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no content to compare")
