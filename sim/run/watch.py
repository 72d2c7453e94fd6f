"""What the fleet looked like from moment to moment."""

from dataclasses import dataclass, field

import polars as pl

from sim.errors import InputError
from sim.run.crew import Crew, Event


@dataclass
class Watch:
    """Looks every so often, changes nothing, and keeps a row per look and group."""

    every_ns: int
    groups: tuple[str, ...]
    rows: list[tuple[float, str, int, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.every_ns < 1:
            raise InputError(f"looks every {self.every_ns} ns: must be at least 1")

    def run(self, crew: Crew) -> Event:
        """Look and wait."""
        self.rows.clear()
        while crew.more:
            crew.look()
            for group, name in enumerate(self.groups):
                mine = [m for m in crew.live() if m.group == group]
                phases = [sum(m.phase == phase for m in mine) for phase in ("serving", "starting", "draining")]
                there, waiting = sum(m.outstanding for m in mine), sum(m.waiting for m in mine)
                self.rows.append((crew.now_ns / 1e9, name, phases[0], phases[1] + phases[2], there, waiting))
            yield crew.env.timeout(self.every_ns)

    def frame(self) -> pl.DataFrame:
        """One row per look and group: time_s, group, serving, changing, outstanding, waiting."""
        schema = {"time_s": pl.Float64, "group": pl.String, "serving": pl.Int64, "changing": pl.Int64,
                  "outstanding": pl.Int64, "waiting": pl.Int64}  # fmt: skip
        return pl.DataFrame(self.rows, schema=schema, orient="row")
