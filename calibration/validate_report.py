"""The committed record of a validation: one JSON of summaries and one Markdown table, and what the misses are."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from calibration.validate_errors import CLASSES, summary
from calibration.validate_public import Validation
from sim.errors import InputError

FOLDER = Path(__file__).parent / "data" / "validation"
PEERS = Path(__file__).parent / "data" / "validation" / "peers.json"
MISSES = Path(__file__).parent / "data" / "validation" / "misses.json"
LOAD_ORDER = [name for _, name in CLASSES] + ["static"]


def facts_of(validation: Validation) -> dict[str, Any]:
    """Everything that is committed of a validation, ready for JSON."""
    return {
        "headline": validation.headline(),
        "by_source": _rows(by_source(validation)),
        "by_engine": _rows(summary(validation.table, ("engine", "gpu", "family"))),
        "by_load": _rows(by_load(validation)),
        "capacity": _rows(validation.sweeps),
        "excluded": exclusions(validation),
        "misses": misses(),
    }


def by_source(validation: Validation) -> pl.DataFrame:
    """Errors by source and family of metrics."""
    short = pl.col("source").str.split("@").list.first().str.split("/serving/").list.last()
    return summary(validation.table.with_columns(source=short), ("source", "family"))


def by_load(validation: Validation) -> pl.DataFrame:
    """Errors by load class, in its order, and family; points of a load generator only."""
    table = summary(validation.table.filter(pl.col("load_class") != "static"), ("load_class", "family"))
    order = pl.col("load_class").replace_strict(LOAD_ORDER, range(len(LOAD_ORDER)), return_dtype=pl.Int64)
    return table.sort(order, "family")


def exclusions(validation: Validation) -> list[dict[str, Any]]:
    """Rows left out by source and reason, most first."""
    counts = Counter((one.source.split("@")[0], one.reason) for one in validation.excluded)
    return [{"source": s, "reason": r, "rows": n} for (s, r), n in counts.most_common()]


def misses(path: Path = MISSES) -> list[dict[str, str]]:
    """What the model is known to miss, why, and what would fix it."""
    return _read(path)


def peers(path: Path = PEERS) -> list[dict[str, Any]]:
    """Errors that other simulators publish of themselves, with their sources."""
    return _read(path)


def write(validation: Validation, folder: Path = FOLDER) -> None:
    """Write public.json and public.md. Raises InputError where that cannot be done."""
    facts = facts_of(validation)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "public.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        (folder / "public.md").write_text(markdown(facts), encoding="utf-8")
    except OSError as cause:
        raise InputError(f"cannot write into {folder}: {cause.strerror or cause}") from cause


def markdown(facts: Mapping[str, Any]) -> str:
    """The record as Markdown tables."""
    head = facts["headline"]
    parts = [
        "# Predicted and measured, on public points\n",
        "Written by `python -m calibration validate --public --write`. Errors in percent; held out: under the fit that"
        " never saw the configuration (GPU, model, TP). Coverage: share of measurements inside the 90 % interval,"
        " judged by held-out errors.\n",
        _table([{"figure": k, "value": v} for k, v in head.items()]),
        "\n## By source\n", _table(facts["by_source"]),
        "\n## By load\n", _table(facts["by_load"]),
        "\n## Capacity of rate sweeps\n", _table(facts["capacity"]),
        "\n## Known misses\n", *(f"- **{m['what']}** {m['why']} {m['fix']}\n" for m in facts["misses"]),
        "\n## Rows left out\n", _table(facts["excluded"]),
    ]  # fmt: skip
    return "\n".join(parts)


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()} for row in frame.iter_rows(named=True)
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "none\n"
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in names) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return found
