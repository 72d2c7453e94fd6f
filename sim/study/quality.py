"""What a strategy does to a model's answers, where somebody measured it.

Measurements are files `calibration/data/quality/*.json`: {"model": …, "benchmark": …, "source": …, "plans": {digest:
{"score": number, "dense": number}}}. A plan that no file names is not measured; nothing is guessed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.errors import InputError

FOLDER = Path(__file__).resolve().parents[2] / "calibration" / "data" / "quality"
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Quality:
    """One measurement: the score (higher is better) and what was measured."""

    score: float
    benchmark: str
    source: str


def qualities(model: str, folder: Path = FOLDER) -> Mapping[str, Quality]:
    """Measured quality by plan digest. Raises InputError for a file that is no such measurement."""
    found: dict[str, Quality] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["model"] != model:
                continue
            for digest, entry in data["plans"].items():
                found[digest] = Quality(float(entry["score"]), str(data["benchmark"]), str(data["source"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise InputError(f"{path}: not a quality measurement ({type(cause).__name__}: {cause})") from cause
    return found
