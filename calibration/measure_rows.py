"""The file that measurements are kept in: one JSON object per line and observation, complete in itself.

Rows are written as they are measured, an item's in one go, and a file that was cut off is taken up where it ends.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sim.errors import InputError

FILE = "rows.jsonl"
SAME = ("model", "device", "dtype")  # what all rows of a file share
Row = Mapping[str, Any]


class Rows:
    """A folder's rows: what is there, and room for more."""

    def __init__(self, folder: Path, head: Mapping[str, Any], *, resume: bool) -> None:
        """Raises InputError where rows are there and `resume` is not said, or where they are of something else."""
        self.path = folder / FILE
        self.head = dict(head)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise InputError(f"cannot write into {folder}: {cause.strerror or cause}") from cause
        there = read_rows(self.path) if self.path.exists() else []
        if there and not resume:
            raise InputError(f"{self.path}: holds {len(there)} rows; say --resume, or give another folder")
        for name in SAME:
            if there and there[0].get(name) != self.head[name]:
                raise InputError(f"{self.path}: holds rows of {name} {there[0].get(name)!r}, this is {head[name]!r}")
        self.done = {str(row["key"]) for row in there if "error" not in row}
        self.failed = {str(row["key"]) for row in there} - self.done
        self._write(there, mode="w")  # without a last line that was cut off

    def add(self, key: str, rows: Iterable[Row]) -> None:
        """Append an item's rows."""
        self._write([{"key": key, **row, **self.head} for row in rows], mode="a")
        self.done.add(key)

    def _write(self, rows: Iterable[Row], *, mode: str) -> None:
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as cause:
            raise InputError(f"cannot write {self.path}: {cause.strerror or cause}") from cause


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, or of a folder's file. Raises InputError naming file and line for what is no row.

    A last line without its end is what a cut leaves, and is passed over.
    """
    path = path / FILE if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"{path}: cannot be read ({cause}); measure writes such a file") from cause
    rows = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            row["key"], row["op"]
        except (ValueError, TypeError, KeyError) as cause:
            raise InputError(f"{path}, line {number}: is no measured row ({cause!r})") from cause
        rows.append(row)
    return rows
