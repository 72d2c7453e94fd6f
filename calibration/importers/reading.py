"""JSON files as records whose every access says file, place and field when it fails."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import InputError

PERCENTILES = (50, 90, 95, 99)
_ABSENT = object()


@dataclass(frozen=True)
class Record:
    """A JSON object and where it stands. Keys are dotted paths ("successes.latency")."""

    data: Mapping[str, Any]
    where: str

    def get(self, key: str, default: Any = None) -> Any:
        """Whatever is at `key`, `default` where any part of the path is absent or null."""
        value: Any = self.data
        for part in key.split("."):
            if not isinstance(value, Mapping) or value.get(part, _ABSENT) in (_ABSENT, None):
                return default
            value = value[part]
        return value

    def number(self, key: str) -> float:
        """The finite number at `key`; raises InputError where it is absent or none."""
        value = self.get(key)
        if value is None:
            raise InputError(f"{self.where}: field {key!r} is missing")
        return self._finite(key, value)

    def optional(self, key: str) -> float | None:
        """The finite number at `key`, None where it is absent."""
        value = self.get(key)
        return None if value is None else self._finite(key, value)

    def integer(self, key: str) -> int:
        """The integer at `key`, exact: a nanosecond timestamp does not fit a float. Raises InputError for another."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{self.where}: field {key!r} = {value!r} is not an integer")
        return value

    def part(self, key: str) -> "Record":
        """The object at `key`; raises InputError where there is none."""
        value = self.get(key)
        if not isinstance(value, Mapping):
            raise InputError(f"{self.where}: field {key!r} is {'missing' if value is None else 'not an object'}")
        return Record(value, f"{self.where}: {key}")

    def parts(self, key: str) -> Iterator["Record"]:
        """The objects of the list at `key`; raises InputError where there is no such list, or it is empty."""
        value = self.get(key)
        if not isinstance(value, list) or not value:
            raise InputError(f"{self.where}: field {key!r} is missing or an empty list")
        for i, item in enumerate(value):
            if not isinstance(item, Mapping):
                raise InputError(f"{self.where}: {key}[{i}] is not an object")
            yield Record(item, f"{self.where}: {key}[{i}]")

    def _finite(self, key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{self.where}: field {key!r} = {value!r} is not a finite number")
        return float(value)


def read_records(path: Path) -> list[Record]:
    """The objects of a JSON document, a JSON list, or a file of JSON lines (as `--append-result` writes them).

    Raises InputError naming line and column for truncated or broken JSON, and for a file without any object.
    """
    text = read_text(path)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as cause:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if not lines or not _parses(lines[0][1]):
            raise InputError(f"{path}:{cause.lineno}:{cause.colno}: not JSON, or cut off ({cause.msg})") from cause
        return [_record(_line(path, number, line), f"{path}:{number}") for number, line in lines]
    if isinstance(document, list):
        if not document:
            raise InputError(f"{path}: an empty list; there is no result in it")
        return [_record(item, f"{path}[{i}]") for i, item in enumerate(document)]
    return [_record(document, str(path))]


def read_text(path: Path) -> str:
    """The file's text; raises InputError where it cannot be read or is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"{path}: cannot be read as text ({cause})") from cause
    if not text.strip():
        raise InputError(f"{path}: is empty")
    return text


def summary(kind: str, values_ms: Sequence[float]) -> dict[str, float]:
    """Mean and percentiles of latencies under canonical names; nothing for no values."""
    if not len(values_ms):
        return {}
    column = np.asarray(values_ms, dtype=np.float64)
    marks = np.percentile(column, PERCENTILES)
    return {f"{kind}_mean_ms": float(column.mean())} | {
        f"{kind}_p{p}_ms": float(mark) for p, mark in zip(PERCENTILES, marks)
    }


def _parses(line: str) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as cause:
        raise InputError(f"{path}:{number}:{cause.colno}: not JSON, or cut off ({cause.msg})") from cause


def _record(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return Record(value, where)
