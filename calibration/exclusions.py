"""Rows of a published table that no simulation can be compared with, each with the reason: counted, never dropped."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Excluded:
    """One row left out: where it stands in the file, what it measures, and why it cannot be used."""

    source: str
    line: int
    metric: str
    reason: str


def exclusion_table(excluded: Sequence[Excluded]) -> pl.DataFrame:
    """Rows excluded by source and reason, most first; columns source, reason, rows."""
    counts = Counter((row.source, row.reason) for row in excluded)
    rows = [(source, reason, n) for (source, reason), n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    return pl.DataFrame(rows, schema={"source": pl.String, "reason": pl.String, "rows": pl.Int64}, orient="row")
