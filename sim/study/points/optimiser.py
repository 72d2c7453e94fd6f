"""A search for the best points with Optuna's TPE: seeded, and in batches, so that no worker's haste changes it."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sim.errors import InputError
from sim.study.points.axes import Axis, Choices
from sim.study.points.space import STRATEGY, Settings, Space

if TYPE_CHECKING:
    from optuna.trial import Trial

# of a batch of points: the cost of each, lower is better, and by how much it misses each demand (0 or less: not at all)
Judge = Callable[[Sequence[Settings]], Sequence[tuple[float, Mapping[str, float]]]]

DIGITS = 4  # of a number that is not whole: nobody sets more


def search(space: Space, judge: Judge, *, trials: int, batch: int, seed: int) -> None:
    """Ask for `trials` points in batches, each batch after what all before it were worth.

    A point may be asked twice. The points depend on the seed, the size of the batch and the answers alone; the judge
    keeps them. Raises InputError without Optuna and for counts that are none.
    """
    for name, value in (("search", trials), ("batch", batch)):
        if value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    try:
        import optuna
    except ImportError as cause:
        raise InputError("--search needs Optuna: pip install 'elide[search]'") from cause
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed,
            multivariate=True,
            group=True,  # parameters that only some strategies have
            constant_liar=True,  # keeps the points of a batch apart
        )
    study = optuna.create_study(sampler=sampler)
    asked = 0
    while asked < trials:
        some = [study.ask() for _ in range(min(batch, trials - asked))]
        asked += len(some)
        for trial, (cost, misses) in zip(some, judge([_settings(space, trial) for trial in some])):
            for demand, by in misses.items():
                trial.set_constraint(demand, by)
            study.tell(trial, cost if math.isfinite(cost) else math.inf)


def _settings(space: Space, trial: "Trial") -> Settings:
    """The point that a trial suggests; axes that its strategy has no use for are not asked about."""
    found: dict[str, object] = {}
    order = sorted(space.axes, key=lambda name: name != STRATEGY)  # what else is asked depends on the strategy
    for name in order:
        found[name] = _suggested(trial, name, space.axes[name]) if space.uses(found, name) else None
    return {name: found[name] for name in space.axes}


def _suggested(trial: "Trial", name: str, axis: Axis) -> object:
    if isinstance(axis, Choices):
        if axis.ordered:  # neighbours are alike: suggest a place among them
            return axis.values[trial.suggest_int(name, 0, len(axis.values) - 1)]
        place: int = trial.suggest_categorical(name, range(len(axis.values)))
        return axis.values[place]
    high = axis.high if axis.step is None else axis.grid(name)[-1]
    if axis.whole:
        return trial.suggest_int(name, int(axis.low), int(high), step=int(axis.step or 1), log=axis.log)
    exact = trial.suggest_float(name, axis.low, high, step=axis.step, log=axis.log)
    return min(max(float(f"{exact:.{DIGITS}g}"), axis.low), high)


def shortfall(row: Mapping[str, object], floor: float | None) -> dict[str, float]:
    """By how much a row misses the SLO and the quality floor, 0 or less where it does not; 1 for what is not known."""
    kept = row["quality"]
    quality = 0.0 if floor is None else floor - kept if isinstance(kept, float) else 1.0
    return {"slo": 0.0 if row["within_slo"] else 1.0, "quality": quality}
