"""Tables, progress and files: everything the commands say to a person."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from sim.errors import InputError
from sim.study.jsonable import dumps
from sim.study.numerals import human

if TYPE_CHECKING:
    import polars as pl

WIDE = 160  # columns of a table that is not shown on a terminal
Advance = Callable[[str, int, int | None], None]  # what, done, of how many if that is known


def console() -> Console:
    """Standard output; tables that go to a file or a pipe are not squeezed."""
    return Console(width=None if sys.stdout.isatty() else WIDE, highlight=False, soft_wrap=False)


def say_json(value: object) -> None:
    """Write a result as JSON on standard output."""
    sys.stdout.write(dumps(value) + "\n")


def figure(value: object) -> str:
    """A cell: three significant digits for a float, a dash for nothing."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return human(value) if isinstance(value, float) else str(value)


def between(low: object, high: object) -> str:
    """An interval in brackets, or nothing where it is not known."""
    known = all(isinstance(v, (int, float)) and math.isfinite(v) for v in (low, high))
    return f" [{figure(low)}, {figure(high)}]" if known else ""


def show_table(out: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table under its title; the first column is text, the others are figures."""
    body = Table(header_style="bold", box=None, padding=(0, 1), show_header=any(columns))
    for i, name in enumerate(columns):
        body.add_column(name, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        body.add_row(*(value if isinstance(value, str) else figure(value) for value in row))
    out.print(f"[bold]{title}[/bold]", soft_wrap=True)
    out.print(body)
    out.print()


@contextmanager
def progress(*, quiet: bool, remaining: bool = False) -> Iterator[Advance | None]:
    """A bar on standard error, told (what, done, of), with the time it took or remaining; None where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    clock = TimeRemainingColumn() if remaining else TimeElapsedColumn()
    with Progress(*columns, clock, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compiling the simulator's loop (once, about half a minute)", total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)


def write_text(path: str, text: str) -> None:
    """Write a file and the folders above it; raises InputError where that cannot be done."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as cause:
        raise InputError(f"cannot write {path}: {cause.strerror or cause}") from cause


def write_parquet(path: str, frame: "pl.DataFrame") -> None:
    """Write a frame; raises InputError where that cannot be done."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
    except OSError as cause:
        raise InputError(f"cannot write {path}: {cause.strerror or cause}") from cause
