"""A model's table for people: one line per plan, raw beside adapted, in Markdown, which a terminal shows as well."""

from collections.abc import Mapping
from typing import Any

from sim.study.numerals import percent

HEAD = ("plan", "raw", "adapted", "hurts most, raw", "weight bytes saved, 1 row", "64 rows", "KV reads saved, 64 rows")
Row = Mapping[str, Any]


def markdown(table: Row) -> str:
    """The table of the summaries: mean exact match with the 95 % interval of its difference to dense, in points."""
    plans: dict[tuple[str, str], dict[str, Row]] = {}
    for s in table["summaries"]:
        plans.setdefault((s["strategy"], s["setting"]), {})[s["weights"]] = s
    lines = [_line(HEAD), _line(["---"] * len(HEAD))]
    for (strategy, setting), weights in plans.items():
        raw, adapted = (weights.get(name) for name in ("raw", "adapted"))
        first = raw or adapted
        assert first is not None
        saved = first["realised"]
        bytes_saved = [_share(saved.get(rows), "weight_bytes_skip_realised") for rows in ("1 row", "64 rows")]
        cells = (f"{strategy} {setting}".strip(), _score(raw), _score(adapted), _worst(first), *bytes_saved)
        lines.append(_line([*cells, _share(saved.get("64 rows"), "kv_read_skip_realised")]))
    return "\n".join(lines) + "\n"


def absent(table: Row) -> str:
    """What the model has no room for, one line each."""
    return "\n".join(f"- {a['strategy']} {a['setting']}: {a['why_not']}" for a in table["absent"]) + "\n"


def _score(s: Row | None) -> str:
    if s is None:
        return ""
    low, high = (100 * s[f"difference_{end}"] for end in ("low", "high"))
    return f"{s['score']:.3f}" + (f" ({low:+.1f} to {high:+.1f})" if low or high else "").replace("-", "−")


def _worst(s: Row) -> str:
    return f"{s['worst_task']} {100 * s['worst_difference']:+.0f}".replace("-", "−") if s["worst_difference"] else ""


def _share(realised: Row | None, name: str) -> str:
    return percent(realised[name]) if realised and name in realised else ""


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"
