"""Columns of text become columns of int64: token counts, times and block ids.

A cell that cannot be used raises InputError naming file, line, column and value; none is skipped or clipped.
"""

from collections.abc import Callable
from itertools import chain

import numpy as np
import polars as pl
from numpy.typing import NDArray

from sim.workload.traces.table import Table
from sim.workload.workload import Column

Clock = Callable[[Table, str], Column]

_DATE = r"^(?:19|20|21)\d\d-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?"
_ZONE = r"(?:Z|[+-]\d\d:?\d\d)$"


def token_counts(table: Table, column: str, *, least: int = 1) -> Column:
    """Whole numbers of at least `least` tokens, [n]; 12.0 is one, 12.5, NaN and text are none."""
    text = table.text(column)
    whole = text.cast(pl.Int64, strict=False)
    tokens = whole.fill_null(0).to_numpy().copy()
    odd = np.flatnonzero(whole.is_null().to_numpy())
    if odd.size:
        tokens[odd] = _whole_floats(table, column, text, odd)
    small = np.flatnonzero(tokens < least)
    if small.size:
        raise table.refuse(int(small[0]), column, f"too few tokens; the least is {least}")
    return tokens


def _whole_floats(table: Table, column: str, text: pl.Series, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    values = _floats(text, rows)
    bad = np.flatnonzero(~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) >= 2.0**53))
    if bad.size:
        raise table.refuse(int(rows[bad[0]]), column, "not a whole number of tokens")
    return values


def _floats(text: pl.Series, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """The cells of those rows as floats, NaN where they are none."""
    return text.gather(rows).cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def decimal_clock(digits: int, unit: str) -> Clock:
    """A clock for decimal numbers of a unit that holds 10^digits nanoseconds: exact to the nanosecond, then rounded."""
    latest = 2**62 // 10**digits

    def clock(table: Table, column: str) -> Column:
        text = table.text(column)
        parts = text.str.extract_groups(r"^\+?(\d+)(?:\.(\d*))?$").struct
        whole = parts.field("1").cast(pl.Int64, strict=False).fill_null(-1).to_numpy()
        places = parts.field("2").fill_null("").str.pad_end(digits + 1, "0").str.slice(0, digits + 1)
        exact = (whole >= 0) & (whole < latest)
        ns = np.where(exact, whole, 0) * 10**digits + (places.cast(pl.Int64).to_numpy() + 5) // 10
        odd = np.flatnonzero(~exact)
        if odd.size:
            values = _floats(text, odd)
            bad = np.flatnonzero(~(values >= 0) | (values >= latest))
            if bad.size:
                raise table.refuse(int(odd[bad[0]]), column, f"not a time in {unit} from 0 to {latest}")
            ns[odd] = np.rint(values * 10.0**digits).astype(np.int64)
        return ns

    return clock


def date_clock(table: Table, column: str) -> Column:
    """Nanoseconds of dates such as 2023-11-16 18:17:03.9799600, with or without a zone (all rows alike), [n]."""
    text = table.text(column)
    zoned = bool(text.str.contains(_ZONE).fill_null(value=False)[0])
    shaped = text.str.contains(_DATE + (_ZONE if zoned else "$")).fill_null(value=False)
    plain = text.str.replace("T", " ", literal=True)
    if zoned:
        plain = plain.str.replace(r"Z$", "+00:00")
    pattern = "%Y-%m-%d %H:%M:%S%.f" + ("%#z" if zoned else "")
    times = plain.str.to_datetime(pattern, time_unit="ns", strict=False).cast(pl.Int64)
    bad = (~shaped | times.is_null()).arg_max()
    if bad is not None and (not shaped[bad] or times[bad] is None):
        raise table.refuse(bad, column, f"not a date like 2023-11-16 18:17:03.9799600{'+00:00' if zoned else ''}")
    return times.to_numpy()


def sorted_order(table: Table, column: str, times: Column, *, sort: bool) -> NDArray[np.intp]:
    """Row order by time: as in the file, or, where `sort` allows it, stably sorted; raises InputError otherwise."""
    back = np.flatnonzero(times[1:] < times[:-1])
    if not back.size:
        return np.arange(times.shape[0])
    if not sort:
        row = int(back[0]) + 1
        before = table.frame[column][row - 1]
        why = f"earlier than {before} in the row above; sort the trace with --sort (sort=True)"
        raise table.refuse(row, column, why)
    return np.argsort(times, kind="stable")


def block_ids(table: Table, column: str, prompt_tokens: Column, block_tokens: int) -> tuple[Column, Column]:
    """Block ids of each prompt as CSR (ids [m], offsets [n + 1]), renumbered 0, 1, 2, … in order of appearance.

    Each prompt has one id per `block_tokens` tokens, the last block possibly partial.
    """
    rows = table.lists[column]
    for row, ids in enumerate(rows):
        if not isinstance(ids, list) or not set(map(type, ids)) <= {int}:
            raise table.refuse(row, column, "not a list of whole numbers")
    lists = [ids for ids in rows if isinstance(ids, list)]
    counts = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    blocks = -(-prompt_tokens // block_tokens)
    wrong = np.flatnonzero(counts != blocks)
    if wrong.size:
        row = int(wrong[0])
        why = f"{counts[row]} ids, but {prompt_tokens[row]} prompt tokens make {blocks[row]} blocks of {block_tokens}"
        raise table.refuse(row, column, f"{why}; a trace of another block size needs hash_block_tokens")
    dense: dict[object, int] = {}
    ids = np.fromiter((dense.setdefault(i, len(dense)) for i in chain.from_iterable(lists)), dtype=np.int64)
    return ids, np.concatenate([[0], np.cumsum(counts)])


def gather_blocks(ids: Column, offsets: Column, rows: NDArray[np.intp]) -> tuple[Column, Column]:
    """The CSR lists of those rows, in that order."""
    counts = np.diff(offsets)[rows]
    ends = np.concatenate([[0], np.cumsum(counts)])
    return ids[np.repeat(offsets[rows] - ends[:-1], counts) + np.arange(ends[-1])], ends
