"""What a study found: frames and provenance, which can be saved, read again and drawn."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
import polars as pl

from sim.errors import InputError
from sim.study.jsonable import dumps
from sim.study.pictures import capacity_bars
from sim.study.report import report

FRAMES = ("rows", "points", "steps", "streams", "ffn", "depth", "quality", "whatif", "ladder", "operations")
ABOUT = "study.json"


@dataclass(frozen=True)
class Outcome:
    """The frames of a study by name (FRAMES), and what it rests on."""

    frames: Mapping[str, pl.DataFrame]
    provenance: Mapping[str, object]

    @property
    def rows(self) -> pl.DataFrame:
        """One row per strategy."""
        return self.frames["rows"]

    def figure(self) -> go.Figure:
        """Requests per second per GPU of each strategy that has a capacity."""
        return capacity_bars(self.rows.drop_nulls("max_qps_per_gpu"))

    def html(self) -> str:
        """The report."""
        return report(self.frames, self.provenance)

    def as_json(self) -> dict[str, object]:
        """Every frame as a list of rows, with the provenance."""
        return {name: frame.to_dicts() for name, frame in self.frames.items()} | {"provenance": self.provenance}

    def save(self, folder: Path) -> None:
        """Write one parquet file per frame and study.json; raises InputError where that cannot be done."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in FRAMES:
                self.frames[name].write_parquet(folder / f"{name}.parquet")
            (folder / ABOUT).write_text(dumps(self.provenance), encoding="utf-8")
        except OSError as cause:
            raise InputError(f"cannot save the study in {folder}: {cause.strerror or cause}") from cause


def load_outcome(folder: Path) -> Outcome:
    """The outcome that was saved in a folder; raises InputError where there is none."""
    if not (folder / ABOUT).is_file():
        raise InputError(f"{folder} holds no saved study ({ABOUT} is missing); write one with `study --save {folder}`")
    try:
        frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES}
        return Outcome(frames, json.loads((folder / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, pl.exceptions.PolarsError) as cause:
        text = " ".join(str(cause).split())
        raise InputError(f"{folder}: the saved study cannot be read ({text[:200]}); save it again") from cause
