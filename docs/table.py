"""Writes the README's table (or another page's, named second): `python docs/table.py out/study`, of `study --save`."""

import re
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from sim.errors import InputError
from sim.study.outcome import Outcome, load_outcome

README = Path(__file__).resolve().parents[1] / "README.md"
TABLE = re.compile(r"^\| plan \|.*?\n\n\(\d{4}-\d\d-\d\d;", re.MULTILINE | re.DOTALL)
PLANS = {
    "dense": "dense",
    "skip_decode:speedup=2": "SkipDecode 2x",
    "ffn_skip:share=0.25": "FFN skip 25 %",
    "swift_kv:keep=16": "SwiftKV 50 %",
    "swift_kv:keep=16,group=4": "SwiftKV 50 %, 4-way AcrossKV",
    "swift_kv:keep=16+skip_decode:speedup=2": "SwiftKV 50 % ∘ SkipDecode 2x",
}
SAVED = ("flops_saved", "weight_bytes_saved", "kv_read_bytes_saved")


def table(outcome: Outcome, today: date) -> str:
    """The table and the date below it, up to the semicolon. Raises InputError for another study than the default."""
    rows = outcome.rows.to_dicts()
    if [row["strategy"] for row in rows] != list(PLANS):
        raise InputError("the README shows the default study; save that one")
    columns = ("plan", "requests/s per GPU", "GPUs", "against dense", f"TPOT p50 at {rows[0]['compared_at_qps']:.1f}/s",
               "saved: FLOPs, weight reads, KV reads", "quality kept", "by a small model")  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    known = outcome.frames["quality"].to_dicts()
    lines += [f"| {' | '.join((*cells(row), *quality(row, known)))} |" for row in rows]
    return "\n".join(lines) + f"\n\n({today.isoformat()};"


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One plan's cells: figures with their 90 % intervals."""
    gain, saved = "1.00x", ""
    if row["strategy"] != "dense":
        gain = within(row, "gain", "x", ".2f")
        saved = ", ".join(percent(row[name]) for name in SAVED)
    capacity = within(row, "max_qps_per_gpu", "", ".1f", "max_qps")
    gpus, tpot = within(row, "gpus", "", "d"), within(row, "tpot_p50_ms", " ms", ".1f")
    return (PLANS[row["strategy"]], capacity, gpus, gain, tpot, saved)


def quality(row: Mapping[str, Any], known: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What the plan keeps of the dense model's score: as published for it, and as measured on the small model here."""
    if row["strategy"] == "dense":
        return "", ""
    kept = "not measured" if row["quality"] is None else percent(row["quality"])
    small = [one for one in known if one["strategy"] == row["strategy"] and one["evidence"] == "small model"]
    return kept, ", ".join(f"{percent(one['quality'])} {one['how'].removeprefix('measured, ')}" for one in small)


def within(row: Mapping[str, Any], name: str, unit: str, form: str, bounds: str = "") -> str:
    """A figure with its 90 % interval; alone in a study without one."""
    value, low, high = row[name], row.get(f"{bounds or name}_low"), row.get(f"{bounds or name}_high")
    return f"{value:{form}}{unit}" + ("" if low is None else f" ({low:{form}}–{high:{form}})")


def percent(share: float) -> str:
    """A share in whole per cent; in tenths below one."""
    return f"{100 * share:.{1 if 0.0005 <= share < 0.0095 else 0}f} %"


if __name__ == "__main__":
    try:
        new = table(load_outcome(Path(sys.argv[1] if len(sys.argv) > 1 else "out/study")), date.today())
        page = Path(sys.argv[2]) if len(sys.argv) > 2 else README
        text, found = TABLE.subn(lambda _: new, page.read_text(encoding="utf-8"))
        if found != 1:
            raise InputError(f"{page} holds {found} such tables; it should hold one")
        page.write_text(text, encoding="utf-8")
    except InputError as mistake:
        sys.exit(f"table: {mistake}")
