"""A large fleet in cells: each has its own dispatcher and its own part of the replicas, so cells run side by side.

Round robin and random choice do not look at replicas, so the cells are one fleet, request for request. The others look
at the replicas of their cell alone: the traffic is split over cells at random, as a front end that spreads it over
several gateways would do. What a cell does depends on its number, never on which process runs it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sim.errors import InputError
from sim.run.cluster import Fleet
from sim.run.dispatch import Batch
from sim.run.fleet_result import FleetResult
from sim.run.traffic import batch_of, pick
from sim.serving.columns import Ints
from sim.workload.stream import Day

CELL_LUCK = 106


@dataclass(frozen=True)
class Cells:
    """A fleet of one group under a day of traffic, in so many cells."""

    fleet: Fleet
    day: Day
    cells: int = 1

    def __post_init__(self) -> None:
        if len(self.fleet.groups) != 1 or self.fleet.controls:
            raise InputError("cells divide a fleet of one group whose replicas neither come nor go")
        if not 1 <= self.cells <= self.replicas:
            raise InputError(f"{self.cells} cells for {self.replicas} replicas: needs 1 to {self.replicas}")

    @property
    def replicas(self) -> int:
        """Of all cells."""
        return self.fleet.groups[0].replicas

    def edges(self) -> list[int]:
        """Replicas edges[c] .. edges[c + 1] - 1 are cell c's."""
        return [self.replicas * c // self.cells for c in range(self.cells + 1)]

    def run(self, cell: int) -> FleetResult:
        """What one cell did. Its replicas count on from those of the cells before it."""
        first, end = self.edges()[cell : cell + 2]
        group = replace(self.fleet.groups[0], replicas=end - first)
        part = replace(self.fleet, groups=[group], seed=self.fleet.seed + cell)
        like = next(self.day.windows())
        result = part.serve(self._batches(cell), like=like, exact=False)
        lives = [{**life, "replica": int(str(life["replica"])) + first} for life in result.lives]
        return replace(result, lives=lives)

    def _batches(self, cell: int) -> Iterator[Batch]:
        """The cell's requests, window by window."""
        edges = np.array(self.edges())
        numbered = 0
        for window, work in enumerate(self.day.windows()):
            batch = batch_of(work, [k.share for k in self.fleet.classes], self.day.seed, first=numbered, window=window)
            numbered += len(work)
            yield self._mine(batch, edges, cell, window)

    def _mine(self, batch: Batch, edges: Ints, cell: int, window: int) -> Batch:
        first, end = edges[cell], edges[cell + 1]
        if self.fleet.router == "round_robin":
            place = batch.number % self.replicas
        elif self.fleet.router == "random":
            place = (batch.luck[:, 0] * self.replicas).astype(np.int64)
        else:
            rng = np.random.default_rng([self.day.seed, CELL_LUCK, window])
            place = rng.integers(0, self.replicas, batch.number.size)
        mine = pick(batch, np.flatnonzero((place >= first) & (place < end)))
        if self.fleet.router == "random":
            mine.luck[:, 0] = (place[(place >= first) & (place < end)] - first + 0.5) / (end - first)
        return mine


def merged(parts: Sequence[FleetResult], wall_s: float) -> FleetResult:
    """The cells' results as one fleet's, merged in the order of the cells."""
    whole = parts[0]
    for part in parts[1:]:
        whole.ledger.merge(part.ledger)
    return replace(whole, lives=[life for part in parts for life in part.lives], wall_s=wall_s)
