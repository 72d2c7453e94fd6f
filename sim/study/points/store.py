"""Answers on disk: one parquet file each, there as a whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import polars as pl

from sim.errors import InputError
from sim.study.points.point import ANSWER, Answer

SCHEMA = {"key": pl.String, **ANSWER}
Warn = Callable[[str], None]


class Store:
    """A folder of answers by key, in a subfolder for each version of the source: an old answer is never taken."""

    def __init__(self, folder: Path, version: str, warn: Warn) -> None:
        """Raises InputError for a folder that cannot be made."""
        self.folder = folder / version
        self._warn = warn
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise InputError(f"cannot keep answers in {folder}: {cause.strerror or cause}") from cause

    def get(self, key: str) -> Answer | None:
        """The answer of a key, None where there is none; a file that is broken is told of and counts as none."""
        path = self._path(key)
        if not path.exists():
            return None
        try:
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as cause:
            why = " ".join(str(cause).split())[:80]
        else:
            if dict(frame.schema) == SCHEMA and frame["key"].to_list() == [key]:
                return frame.drop("key").row(0, named=True)
            why = "it holds something else"
        self._warn(f"{path} cannot be read ({why}); this point is computed again")
        return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer: written beside its place, then moved there. Raises InputError where that cannot be done."""
        path = self._path(key)
        half = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with half.open("wb") as file:
                pl.DataFrame([{"key": key, **answer}], schema=SCHEMA).write_parquet(file)
                file.flush()
                os.fsync(file.fileno())
            half.replace(path)
        except OSError as cause:
            raise InputError(f"cannot write {path}: {cause.strerror or cause}") from cause

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.parquet"
