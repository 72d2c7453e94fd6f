"""What a strategy does to a model's answers, where somebody measured it: shares of the dense model's score.

Files in `calibration/data/quality`: measurements by plan digest ({"model", "benchmark", "source", "plans": {digest:
{"score", "dense", …}}}), written by `python -m calibration quality run | import`; and `published/*.json`, results of
papers, by strategy. A plan that no file names is not measured; nothing is guessed.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.errors import ElideError, InputError
from sim.plans.catalogue import model_named
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named

FOLDER = Path(__file__).resolve().parents[2] / "calibration" / "data" / "quality"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Quality:
    """One result, with what it was measured on."""

    score: float  # as a share of the dense model's; above 1 is better than dense
    benchmark: str
    source: str
    origin: str = "measured"  # measured (here), imported (by a user), published (by somebody else)
    weights: str = ""  # that the plan met: raw or adapted (ours), untrained, distilled, … (published)
    model: str = ""
    strategy: str = "dense"
    low: float | None = None  # ends of the 95 % interval, where known
    high: float | None = None
    conditions: str = ""
    warning: bool = False  # a second result of the same plan that the first does not tell

    @property
    def how(self) -> str:
        """Where the figure comes from, in two words at most: "published, distilled"."""
        return ", ".join(word for word in (self.origin, self.weights) if word)

    @property
    def text(self) -> str:
        """The figure with its origin: "0.986 (published, distilled)"."""
        return said(self.score, self.how)


DENSE = Quality(1.0, "any", "by definition", origin="")


def said(score: float | None, how: str | None) -> str:
    """A share of the dense model's score and its origin, for a cell of a table."""
    if score is None:
        return NOT_MEASURED
    return f"{score:.3f}" + (f" ({how})" if how else "")


def quality_of(plan: SkipPlan, model: str, folder: Path = FOLDER) -> Quality | None:
    """The quality of a plan on a model, 1 for the dense one; None where nobody measured it. Raises as `qualities`."""
    return DENSE if plan.is_dense else qualities(model, folder).get(plan.digest)


def qualities(model: str, folder: Path = FOLDER) -> Mapping[str, Quality]:
    """Quality by plan digest; what was measured on the model itself comes before what others published.

    Raises InputError, naming the file, for one that holds something else.
    """
    found: dict[str, Quality] = {}
    for result, plans in published(folder):
        if result.model == model and not result.warning:
            for plan in plans:
                found.setdefault(plan.digest, result)
    for path in sorted(folder.glob("*.json")):
        data = _read(path)
        try:
            if data["model"] == model:
                found |= dict(_measured(data))
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise _broken(path, cause) from cause
    return found


def _measured(data: Mapping[str, Any]) -> Iterator[tuple[str, Quality]]:
    """Entries whose dense score is known: without it a score says nothing about what was lost."""
    origin = str(data.get("origin", "measured"))
    for digest, entry in data["plans"].items():
        score, dense = float(entry["score"]), entry.get("dense")
        if dense:
            ends = (entry.get(f"difference_{end}") for end in ("low", "high"))
            low, high = (None if e is None else 1 + float(e) / float(dense) for e in ends)
            about = (str(data["benchmark"]), str(data["source"]), origin, str(entry.get("weights", "")))
            name = str(entry.get("strategy", entry.get("plan", "")))
            yield digest, Quality(score / float(dense), *about, str(data["model"]), name, low, high)


@cache
def published(folder: Path = FOLDER) -> tuple[tuple[Quality, tuple[SkipPlan, ...]], ...]:
    """Published results with the plans that they are about, in the order of the files. Raises InputError."""
    return tuple(result for path in sorted((folder / "published").glob("*.json")) for result in _published(path))


def _published(path: Path) -> Iterator[tuple[Quality, tuple[SkipPlan, ...]]]:
    data = _read(path)
    try:
        for entry in data["results"]:
            model, specs = str(entry["model"]), [str(spec) for spec in entry["plans"]]
            quality = Quality(
                float(entry["score"]) / float(entry["dense"]),
                str(entry["benchmark"]),
                str(entry["source"]),
                "published",
                str(entry["weights"]),
                model,
                specs[0],
                conditions=str(entry["conditions"]),
                warning=bool(entry.get("warning", False)),
            )
            yield quality, tuple(strategy_named(spec, model_named(model)) for spec in specs)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError, ElideError) as cause:
        raise _broken(path, cause) from cause


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as cause:
        raise _broken(path, cause) from cause


def _broken(path: Path, cause: Exception) -> InputError:
    return InputError(f"{path}: not a quality measurement ({type(cause).__name__}: {cause})")
