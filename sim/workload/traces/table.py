"""A trace as a table of text cells, each of which can be traced back to its line in the file.

Cells stay text until their column is known, so that every cell that cannot be used is quoted as it stands.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from sim.errors import InputError

LIST_COLUMNS = ("hash_ids",)


@dataclass(frozen=True)
class Table:
    """Rows of one trace file: named text columns, and where each row stands."""

    path: Path
    frame: pl.DataFrame
    place: Callable[[int], str]  # row index -> "line 7"
    lists: Mapping[str, Sequence[object]] = field(default_factory=dict)  # columns whose cells are lists

    def text(self, column: str) -> pl.Series:
        """The column as stripped text, null where the cell is missing or blank."""
        try:
            return self.frame[column].cast(pl.String).str.strip_chars().replace("", None)
        except pl.exceptions.PolarsError:
            raise InputError(f"{self.path}: column {column!r} holds {self.frame[column].dtype}, not numbers") from None

    def refuse(self, row: int, column: str, why: str) -> InputError:
        """The error that names file, line, column and value."""
        value = self.lists[column][row] if column in self.lists else self.frame[column][row]
        shown = "no value" if value is None else f"value {str(value)[:60]!r}"
        return InputError(f"{self.path}, {self.place(row)}, column {column!r}, {shown}: {why}")


def csv_table(path: Path, data: bytes) -> Table:
    """The table of a CSV file with a header; raises InputError for rows that don't fit the header.

    Polars reads it, and the slower csv module where polars refuses or a row is blank: it knows the lines.
    """
    try:
        frame = pl.read_csv(io.BytesIO(data), infer_schema=False)
    except pl.exceptions.PolarsError:
        return _csv_by_line(path, data)
    header = _header(path, data)
    blank = frame.select(pl.all_horizontal(pl.all().is_null()).any()).item()
    if frame.width != len(header) or not frame.height or blank:
        return _csv_by_line(path, data)
    frame.columns = header
    return Table(path, frame, lambda row: f"line {_line_of(path, data, row)}")


def _records(path: Path, data: bytes) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of each record that is not blank, the header included."""
    reader = csv.reader(io.StringIO(decoded(path, data), newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: not readable as CSV ({error})") from None


def _line_of(path: Path, data: bytes, row: int) -> int:
    return next(line for i, (line, _) in enumerate(_records(path, data)) if i == row + 1)


def _header(path: Path, data: bytes) -> list[str]:
    start = len(data) - len(data.lstrip(b"\xef\xbb\xbf\r\n"))
    stop = data.find(b"\n", start)
    return _names(path, next(_records(path, data[start : stop if stop >= 0 else None]), (1, []))[1])


def _names(path: Path, cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}, line 1: column {twice[0]!r} appears twice in the header")
    return names


def _csv_by_line(path: Path, data: bytes) -> Table:
    records = _records(path, data)
    names = _names(path, next(records, (1, []))[1])
    lines, rows = [], []
    for line, cells in records:
        if len(cells) != len(names):
            raise InputError(f"{path}, line {line}: {len(cells)} cells, but the header names {len(names)} columns")
        lines.append(line)
        rows.append(cells)
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
    return Table(path, frame, lambda row: f"line {lines[row]}")


def json_lines_table(path: Path, data: bytes) -> Table:
    """The table of a JSON Lines file: one object a line, blank lines aside; numbers stay as they are written."""
    lines, objects = [], []
    for line, text in enumerate(decoded(path, data).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text, parse_float=str, parse_constant=str)
        except (ValueError, RecursionError) as error:
            why = f"value {text[:60]!r} is not JSON ({error}); a trace has one object a line"
            raise InputError(f"{path}, line {line}: {why}") from None
        if not isinstance(row, dict):
            why = f"value {text[:60]!r} is no JSON object; a trace has one object a line"
            raise InputError(f"{path}, line {line}: {why}")
        lines.append(line)
        objects.append(row)
    names = list(dict.fromkeys(name for row in objects for name in row))
    texts = {n: [_text(row.get(n)) for row in objects] for n in names if n not in LIST_COLUMNS}
    frame = pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String))
    lists = {n: [row.get(n) for row in objects] for n in LIST_COLUMNS if n in names}
    return Table(path, frame, lambda row: f"line {lines[row]}", lists)


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def parquet_table(path: Path, data: bytes) -> Table:
    """The table of a Parquet file; rows count from 1."""
    try:
        frame = pl.read_parquet(io.BytesIO(data))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: starts like Parquet but cannot be read ({str(error).splitlines()[0]})") from None
    lists = {n: frame[n].to_list() for n in LIST_COLUMNS if n in frame.columns}
    return Table(path, frame.drop(lists), lambda row: f"row {row + 1}", lists)


def decoded(path: Path, data: bytes) -> str:
    """The text of a file; raises InputError naming the line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8 text") from None
