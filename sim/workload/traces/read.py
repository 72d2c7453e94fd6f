"""A trace file becomes a workload: which container, which format, which rows.

Nothing is dropped silently: rows that record a failed request are counted in `Workload.failed`, every other row is a
request or an InputError.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError
from sim.workload.arrivals import Arrivals
from sim.workload.generate import streams
from sim.workload.traces import cells
from sim.workload.traces.formats import KNOWN, Layout, layout_of
from sim.workload.traces.sharegpt import conversation_lengths
from sim.workload.traces.table import Table, csv_table, json_lines_table, parquet_table
from sim.workload.workload import Column, Workload


def read_trace(
    path: str | Path,
    *,
    sort: bool = False,
    arrivals: Arrivals | None = None,
    seed: int = 0,
    tokens_per_char: float | None = None,
    hash_block_tokens: int = 512,
) -> Workload:
    """The workload of a trace file, its format recognised by content and column names (see formats.py).

    Arrivals count in nanoseconds from the first request. `arrivals` (drawn with `seed`) is used for files that hold
    lengths only; `sort` allows rows out of order; `tokens_per_char` is for text; `hash_block_tokens` is the size of the
    prefix blocks of Mooncake rows. Raises InputError, naming file, line, column and value where there is one.
    """
    path = Path(path)
    if hash_block_tokens < 1:
        raise InputError(f"hash_block_tokens is {hash_block_tokens}; it must be at least 1")
    data = _contents(path)
    first = data.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if first == b"[":
        prompt, output, failed = conversation_lengths(path, data, tokens_per_char)
        if not len(prompt):
            raise InputError(f"{path}: none of its {failed} conversations has an answered question")
        times = _drawn(path, "ShareGPT", len(prompt), arrivals, seed)
        return Workload(times, prompt, output, path.stem, _source("ShareGPT", path, failed), failed=failed)
    table = _table(path, data, first)
    layout = layout_of(path, [*table.frame.columns, *table.lists])
    if not table.frame.height:
        raise InputError(f"{path}: a {layout.format.name} header without rows; a trace needs at least one request")
    rows, timed, prompt, output = _rows(table, layout, sort=sort)
    times = _drawn(path, layout.format.name, len(rows), arrivals, seed) if timed is None else timed
    failed = table.frame.height - len(rows)
    source = _source(layout.format.name, path, failed, layout.format.remark)
    workload = Workload(times, prompt[rows], output[rows], path.stem, source, failed=failed)
    if layout.format.hashes not in table.lists:
        return workload
    ids, offsets = cells.block_ids(table, layout.format.hashes, prompt, hash_block_tokens)
    ids, offsets = cells.gather_blocks(ids, offsets, rows)
    return replace(workload, hash_ids=ids, hash_offsets=offsets, hash_block_tokens=hash_block_tokens)


def _contents(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path} is a directory; name one trace file in it; {KNOWN}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; give a trace file; {KNOWN}") from None
    except ValueError as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from None
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise InputError(f"{path} is empty; {KNOWN}")
    if not data.startswith(b"PAR1") and (b"\0" in data[:65536] or data.startswith((b"\x1f\x8b", b"(\xb5/\xfd"))):
        raise InputError(f"{path} is binary and not Parquet (unpack it if it is compressed); {KNOWN}")
    return data


def _table(path: Path, data: bytes, first: bytes) -> Table:
    if data.startswith(b"PAR1"):
        return parquet_table(path, data)
    return json_lines_table(path, data) if first == b"{" else csv_table(path, data)


def _rows(table: Table, layout: Layout, *, sort: bool) -> tuple[NDArray[np.intp], Column | None, Column, Column]:
    """Which rows are requests, in order of arrival [k], their times [k], and all rows' prompt and output tokens [n]."""
    form = layout.format
    least = 0 if form.failure else 1
    prompt = cells.token_counts(table, layout.prompt, least=least)
    output = cells.token_counts(table, layout.output, least=least)
    odd = np.flatnonzero((output > 0) & (prompt < 1))
    if odd.size:
        raise table.refuse(int(odd[0]), layout.prompt, "too few tokens; an answered request has at least 1")
    if not output.any():
        raise InputError(f"{table.path}: all {len(output)} rows record failed requests; there is nothing to replay")
    if not layout.arrival:
        return np.flatnonzero(output > 0), None, prompt, output
    times = form.arrival[layout.arrival](table, layout.arrival)
    order = cells.sorted_order(table, layout.arrival, times, sort=sort)
    rows = order[output[order] > 0]
    return rows, times[rows] - times[rows[0]], prompt, output


def _drawn(path: Path, form: str, requests: int, arrivals: Arrivals | None, seed: int) -> Column:
    if arrivals is None:
        raise InputError(f"{path}: {form} holds no arrival times; give a rate with --qps (arrivals=Poisson(qps))")
    return arrivals(requests, streams(seed).arrivals)


def _source(form: str, path: Path, failed: int, remark: str = "") -> str:
    counted = f"{failed} failed requests counted, not replayed" if failed else ""
    return "; ".join(filter(None, (f"{form} trace {path.name}", counted, remark)))
