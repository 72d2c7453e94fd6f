"""Every comparable point of `../shared/data/serving`, and every row that is not, with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calibration.engines import obstacle
from calibration.exclusions import Excluded
from calibration.importers.llmservingsim import read_llmservingsim, workload_of
from calibration.importers.published import read_published
from calibration.importers.splitwise import read_splitwise
from calibration.points import Point
from calibration.validate_run import wanted
from sim.workload.workload import Workload

TABLE = "published_serving.csv"
SPLITWISE = "splitwise_perf_model.csv"
REQUEST_LOG = "llmservingsim_RTX4090_Llama-3.1-8B"
LOGGED = "LLMServingSim/bench/examples/RTX4090"
SWIFT = ("ArcticInference", "Snowflake", "arXiv:2410.03960")


@dataclass(frozen=True)
class Case:
    """A point to compare with; `folder` holds its requests one by one, where they were recorded."""

    point: Point
    folder: Path | None = None

    @property
    def workload(self) -> Workload | None:
        """The recorded requests."""
        return workload_of(self.folder) if self.folder else None


@dataclass(frozen=True)
class Public:
    """Cases, excluded rows, and how many rows of the table the cases came from."""

    cases: tuple[Case, ...]
    excluded: tuple[Excluded, ...]


def read_public(folder: Path) -> Public:
    """The public serving data. A row of the table is either in a case or excluded.

    The RTX 4090 run is replayed from its request log instead of its averages; splitwise's H100 runs, which the table
    leaves out, come from their own file. Measurements of skip strategies are a test of their own
    (`calibration.published_skip`).
    """
    table = folder / TABLE if folder.is_dir() else folder
    published = read_published(table)
    cases, excluded = [], list(published.excluded)
    for point in published.points:
        case, why = _case(point, folder)
        if why:
            excluded += [Excluded(point.source, 0, metric, why) for metric in point.measured]
        else:
            cases.append(case)
    for point in _other_splitwise(folder / SPLITWISE):
        if point.flags.get("power_capped"):
            excluded += [Excluded(point.source, 0, metric, "under a power cap") for metric in point.measured]
        else:
            cases.append(Case(point))
    return Public(tuple(cases), tuple(excluded))


def _other_splitwise(path: Path) -> list[Point]:
    """Splitwise's settings on the GPU that the table leaves out."""
    points = read_splitwise(path) if path.is_file() else []
    return [replace(point, source=f"splitwise-sim/data/{path.name}#h100") for point in points if point.gpu == "h100"]


def rows_of(cases: Sequence[Case]) -> int:
    """Figures that are compared: the metrics of all points, those derived from others not counted."""
    return sum(len(case.point.measured) for case in cases)


def derived(point: Point) -> set[str]:
    """Metrics that no row states but that follow from two that do."""
    return set(wanted(point)) - set(point.measured)


def _case(point: Point, folder: Path) -> tuple[Case, str]:
    if point.source.startswith(SWIFT):
        return Case(point), "a measurement of SwiftKV: compared in published_skip"
    if point.source.startswith(LOGGED) and (folder / REQUEST_LOG).is_dir():
        (logged,) = read_llmservingsim(folder / REQUEST_LOG)
        return Case(logged, folder / REQUEST_LOG), ""
    return Case(point), obstacle(point)
