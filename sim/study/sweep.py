"""A sweep: many deployments, schedulers and plans against each other, by a grid or by a search for the best."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import plotly.graph_objects as go
import polars as pl

from sim.cost.hardware import gpu_named
from sim.errors import InputError
from sim.study.pictures.sweeps import front_picture
from sim.study.points.axes import Axis, Choices
from sim.study.points.desk import Desk
from sim.study.points.identity import source_version
from sim.study.points.objectives import CAPACITY, DEFAULT, best_of, cost, objective_named, pareto
from sim.study.points.optimiser import search, shortfall
from sim.study.points.options import namespace_of
from sim.study.points.point import Point
from sim.study.points.report import report
from sim.study.points.runners import runner
from sim.study.points.space import Settings, Space, grid, space_of
from sim.study.points.store import Store
from sim.study.points.table import check_axes, keeps_quality, table_of
from sim.study.prices import price_of
from sim.study.provenance import DEFINITIONS

FRONT = ("output_tokens_per_s_per_gpu", "tpot_p50_ms")
Tick = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Sweep:
    """Points of a space, each what `capacity` (or with `qps` a run at that rate) says with the same options.

    `vary` maps options of `capacity`, or parameters that a strategy names in braces, to lists of values or ranges
    (`sim.study.points.axes`); `fixed` holds others. `run()` gives the table, `pareto()` the rows that none beats,
    `best` the best one, `figure()` and `html()` pictures. Nothing that is asked here depends on workers or on Ray.
    """

    vary: Mapping[str, object]
    fixed: Mapping[str, object] = field(default_factory=dict)
    objective: str = DEFAULT
    prices: Mapping[str, float] = field(default_factory=dict)  # dollars per GPU-hour by GPU, where not as assumed
    search: int | None = None  # so many points of Optuna's choice; default: the whole grid
    batch: int = 16  # points that a search asks for before it looks at answers
    search_seed: int = 0
    store: Path | None = None  # keep every answer there, and take those that are there
    workers: int | None = None  # processes; default: one per core
    ray: str | None = None  # "auto", or the address of a Ray cluster, to compute there
    tick: Tick | None = field(default=None, compare=False)  # told (what, points done, points in all)
    warn: Callable[[str], None] = field(default=warnings.warn, compare=False)

    def run(self) -> pl.DataFrame:
        """One row per point; the columns are documented in docs/json.md.

        Raises InputError for a space that cannot be, and where no point of it can.
        """
        return self.table

    def pareto(self, *columns: str) -> pl.DataFrame:
        """The feasible rows that none beats in all of the columns; default: tokens per GPU against TPOT."""
        return pareto(self.table, columns or FRONT)

    def figure(self, x: str = FRONT[1], y: str = FRONT[0]) -> go.Figure:
        """Every feasible point, and the line of those that none beats."""
        x, y = objective_named(x), objective_named(y)
        return front_picture(self.table, self.pareto(x, y), x, y)

    def html(self) -> str:
        """The report: one document that opens offline."""
        return report(self.table, self.axes, self.aim, self.provenance)

    @property
    def best(self) -> Mapping[str, object] | None:
        """The row that is best by the objective among those within SLO and quality floor; None: there is none."""
        return best_of(self.table, self.aim)

    @property
    def aim(self) -> str:
        """The column that is the objective. Raises UnknownName for one that is no aim."""
        return objective_named(self.objective)

    @cached_property
    def space(self) -> Space:
        """The axes and what is held, checked."""
        space = space_of(self.vary, self.fixed)
        check_axes(space.axes)
        return space

    @property
    def axes(self) -> list[str]:
        """The names of the axes, as the table has them."""
        return list(self.space.axes)

    @property
    def table(self) -> pl.DataFrame:
        """What `run` returns."""
        return self._outcome[0]

    @property
    def reused(self) -> int:
        """How many of the table's answers were in the store before."""
        return self._outcome[1]

    @cached_property
    def provenance(self) -> Mapping[str, object]:
        """What the table rests on."""
        return {
            "space": {name: _said(axis) for name, axis in self.space.axes.items()},
            "held": {
                n: v for n, v in vars(namespace_of(self.space.fixed)).items() if n not in self.axes and v is not None
            },
            "objective": self.aim,
            "search": {"points": self.search, "batch": self.batch, "seed": self.search_seed} if self.search else "grid",
            "dollars_per_gpu_hour": {"given": self._prices, "else": "assumed, see sim/study/prices.py"},
            "definitions": DEFINITIONS,
            "source_version": source_version(),
        }

    @cached_property
    def _outcome(self) -> tuple[pl.DataFrame, int]:
        self._check()
        store = Store(self.store, source_version(), self.warn) if self.store else None
        with runner(self.workers, self.ray) as pool:
            desk = Desk(self.space, pool, store, partial(self._tell, self.search or 0))
            if self.search is None:
                points = desk.points(grid(self.space))
                self._check_hope(points)
                desk.answer(points)
            else:
                search(
                    self.space, partial(self._judged, desk), trials=self.search, batch=self.batch, seed=self.search_seed
                )
        return self._table_of(desk, desk.asked), desk.reused

    def _judged(self, desk: Desk, wanted: Sequence[Settings]) -> list[tuple[float, dict[str, float]]]:
        """The cost of each point, and by how much it misses SLO and quality floor."""
        points = desk.points(wanted)
        desk.answer(points)
        table = self._table_of(desk, points)
        misses = [shortfall(row, p.quality_floor) for p, row in zip(points, table.iter_rows(named=True))]
        return list(zip(cost(self.aim, table[self.aim]).tolist(), misses))

    def _table_of(self, desk: Desk, points: Sequence[Point]) -> pl.DataFrame:
        answers = [desk.answers.get(point.key or "") for point in points]
        return table_of(self.space.axes, points, answers, prices=self._prices)

    def _tell(self, at_least: int, done: int, of: int) -> None:
        if self.tick:
            self.tick("points", done, max(at_least, of))

    def _check_hope(self, points: Sequence[Point]) -> None:
        """Raises InputError where no point can be, and where none is known to keep the quality: why compute them?"""
        if not any(point.question for point in points):
            raise InputError(f"no point of this space can be; the first one: {points[0].why_not}")
        if not any(keeps_quality(point) for point in points):
            raise InputError(
                "no plan of this space is known to keep the quality that --quality-floor asks for (docs/quality.md);"
                " add --strategy dense, measure, or lower it"
            )

    @cached_property
    def _prices(self) -> Mapping[str, float]:
        """The prices that are given, by the GPUs' own names."""
        return {gpu_named(gpu).name: price for gpu, price in self.prices.items()}

    def _check(self) -> None:
        """Raises InputError for settings that contradict each other or are none."""
        for gpu, price in self._prices.items():
            price_of(gpu, price)
        if self.aim in CAPACITY and "qps" in {**self.space.fixed, **self.space.axes}:
            raise InputError(f"objective {self.aim} is about capacities, and --qps gives the rate; drop one of them")


def _said(axis: Axis) -> object:
    """An axis as its values, or as its range."""
    return list(axis.values) if isinstance(axis, Choices) else vars(axis)
