"""`python -m calibration import FILE`: what an ordinary benchmark file says of a server, and what it cannot say.

The engine's own profile is the prior; a few parameters that differ between servers of one engine (the host, the
frontend, clocks under power) move as far as the file's figures make them. What the figures cannot tell stays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.engines import NEEDED, OPTIONS, obstacle, profile_of
from calibration.fit_engines import file_of
from calibration.fit_serving import SPREAD, Fit, fit_profile, run_cases
from calibration.importers.detect import read_all
from calibration.points import Point
from calibration.validate_errors import family
from calibration.validate_points import Case
from calibration.validate_run import wanted
from sim.cost.profiles import EngineProfile, profile_named
from sim.errors import InputError

FITTED = ("step_ms", "row_us", "request_ms", "compute", "weights", "decode_attention")
ONE_SERVER = 0.3  # of the error that a fit of many servers leaves
TOLD = 0.7  # posterior over prior spread from which on a file says nothing of a parameter
UNSEEN = ("kernel factors one by one: they act together on every latency", "KV memory, unless the server reported it")


@dataclass(frozen=True)
class Imported:
    """What an import found: the points, the profile before and after, errors by metric, what was not identified."""

    tool: str
    points: tuple[Point, ...]
    left_out: int
    before: EngineProfile
    after: EngineProfile
    errors: tuple[tuple[str, int, float, float], ...]  # metric family, figures, median APE before and after
    unidentified: tuple[str, ...]
    facts: Mapping[str, Any]


def import_result(
    path: Path, *, engine: str | None = None, tell: Callable[[str], None] = lambda _: None, **known: Any
) -> Imported:
    """The server behind a result file, fitted. Raises InputError naming the options that fill in what it lacks."""
    profile = profile_named(engine) if engine else None
    if profile and engine and engine.endswith(".json"):
        engine = f"{profile.engine}-{profile.versions[-1]}"
    reading = read_all(path, engine=engine, **known)
    points = tuple(point for point in reading.points if not obstacle(point))
    if not points:
        raise InputError(f"{path}: {lacking(reading.points)}")
    before = profile or profile_of(points[0])
    cases = [Case(point) for point in points]
    names = [name for name in FITTED if before.parameters[name] > 0]
    fit = fit_profile(cases, before, names, rounds=4, share=ONE_SERVER, tell=tell)
    errors = _errors(cases, before, fit.profile)
    sd = np.sqrt(np.diag(fit.covariance))
    unidentified = [name for name, one in zip(fit.names, sd) if one > TOLD * SPREAD[name]]
    after = _known(fit)
    table = {"like": before.name}
    return Imported(
        tool=reading.tool,
        points=points,
        left_out=len(reading.points) - len(points) + len(reading.excluded),
        before=before,
        after=after,
        errors=errors,
        unidentified=(*unidentified, *UNSEEN),
        facts=file_of(after, table, fit, before.residual_sd, cases),
    )


def lacking(points: Sequence[Point]) -> str:
    """One line: which options to add, or why nothing of the file can be simulated."""
    if not points:
        return "holds no point"
    missing = [name for name in NEEDED if all(getattr(point, name) is None for point in points)]
    if missing:
        options = ", ".join(OPTIONS.get(name, f"--{name}") for name in missing)
        return f"the file does not say everything; add {options}"
    return obstacle(points[0])


def _known(fit: Fit) -> EngineProfile:
    covariance = tuple(map(tuple, fit.covariance.tolist()))
    return replace(fit.profile, fitted=fit.names, covariance=covariance)


def _errors(
    cases: Sequence[Case], before: EngineProfile, after: EngineProfile
) -> tuple[tuple[str, int, float, float], ...]:
    """Median absolute error by family of metrics, before and after, in shares."""
    answers = [run_cases([(case, profile) for case in cases]) for profile in (before, after)]
    found: dict[str, list[tuple[float, float]]] = {}
    for case, *both in zip(cases, *answers):
        for metric, measured in wanted(case.point).items():
            if measured > 0 and all(one is not None for one in both):
                pair = [abs(one[metric] / measured - 1.0) for one in both if one is not None]
                found.setdefault(family(metric), []).append((pair[0], pair[1]))
    return tuple(
        (name, len(pairs), float(np.median([a for a, _ in pairs])), float(np.median([b for _, b in pairs])))
        for name, pairs in found.items()
    )
