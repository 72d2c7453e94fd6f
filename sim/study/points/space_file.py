"""A sweep as a file: TOML with the tables [vary], [fixed] and [prices], and the settings of the sweep above them."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from sim.errors import InputError, UnknownName
from sim.study.points.objectives import DEFAULT

TABLES = ("vary", "fixed", "prices")
# beside the tables, under the same names as on the command line: kind, placeholder, meaning
SETTINGS: Mapping[str, tuple[type, str, str]] = {
    "objective": (str, "COLUMN", f"what is best ({DEFAULT}); docs/json.md names the others"),
    "search": (int, "N", "look for the best with N points of Optuna's choice"),
    "batch": (int, "N", "points that a search asks for at a time (16)"),
    "search_seed": (int, "N", "seed of the search (0)"),
}


def read_space(path: str) -> dict[str, object]:
    """What the file says, keys with underscores. Raises InputError where there is no TOML, UnknownName for a key."""
    try:
        read = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise InputError(f"{path}: not readable as TOML ({getattr(cause, 'strerror', None) or cause})") from cause
    for key in read:
        if _plain(key) not in (*TABLES, *SETTINGS):
            raise UnknownName("key of a space", key, (*TABLES, *SETTINGS))
    return {_plain(key): value for key, value in read.items()}


def table_of(read: Mapping[str, object], name: str, path: str) -> dict[str, object]:
    """A table of the file, empty if it has none. Raises InputError for something else of that name."""
    table = read.get(name, {})
    if not isinstance(table, Mapping):
        raise InputError(f"{path}: {name} must be a table, [{name}]")
    return {key if name == "prices" else _plain(key): value for key, value in table.items()}


def settings_of(read: Mapping[str, object], path: str) -> dict[str, object]:
    """The settings that the file gives. Raises InputError for one of the wrong kind."""
    found: dict[str, object] = {}
    for name, (kind, _, _) in SETTINGS.items():
        value = read.get(name)
        if value is not None and type(value) is not kind:
            raise InputError(f"{path}: {name} = {value!r} is of the wrong kind; it takes {kind.__name__}")
        found |= {} if value is None else {name: value}
    return found


def _plain(key: str) -> str:
    return key.replace("-", "_")
