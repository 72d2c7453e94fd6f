"""`python -m calibration validate --public`: every comparable public point through the simulator."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calibration.engines import profile_of, setting_of
from calibration.exclusions import Excluded
from calibration.fit_engines import configuration, key_of, read_held_out
from calibration.points import Load, Point
from calibration.validate_errors import Compared, error_table, incomparable, median_ape
from calibration.validate_intervals import Held, family_of, remainder_without, spreads, usual_variance, variance
from calibration.validate_points import Case, read_public, rows_of
from calibration.validate_run import Prediction, predict, wanted
from sim.errors import ElideError
from sim.study.pool import executor, run_all

CAPACITY_SLOTS = 256
CAPACITY_WAVES = 3
CHUNK = 8


@dataclass(frozen=True)
class Validation:
    """All comparisons: one row per point and metric, sweeps through saturation, and what was left out."""

    table: pl.DataFrame
    sweeps: pl.DataFrame
    excluded: tuple[Excluded, ...]
    rows_used: int

    def headline(self) -> dict[str, Any]:
        """The figures in per cent, by the keys of --json."""
        covered = self.table["covered"].drop_nulls()
        keys = {f"{name}_median_ape": median_ape(self.table, name) for name in ("tpot", "ttft", "e2e", "throughput")}
        keys |= {
            f"{name}_held_out_ape": median_ape(self.table, name, column="held_out")
            for name in ("tpot", "ttft", "e2e", "throughput")
        }
        below = self.table.filter(pl.col("load_share") < 0.8)
        return keys | {
            "ttft_below_80_median_ape": median_ape(below, "ttft"),
            "capacity_ape": _worst_kubecon(self.sweeps),
            "coverage_90": round(float(covered.cast(pl.Float64).to_numpy().mean()) * 100, 1) if len(covered) else None,
            "rows_used": self.rows_used,
            "rows_excluded": len(self.excluded),
        }

    def shares(self) -> dict[str, Any]:
        """The same with errors and coverage as shares, 0.05 for five per cent: what --json prints."""
        counts = ("rows_used", "rows_excluded")
        return {k: v if k in counts or v is None else round(v / 100, 4) for k, v in self.headline().items()}


def validate_public(folder: Path, *, workers: int = 2, sample: int = 1, draws: int = 0) -> Validation:
    """Every `sample`-th comparable case of the folder (or table), compared on so many processes."""
    public = read_public(folder)
    cases = public.cases[::sample]
    order = sorted(range(len(cases)), key=lambda i: -_cost(cases[i]))
    chunks = [order[i::_chunks(len(order))] for i in range(_chunks(len(order)))]
    with executor(workers) as pool:
        jobs = [("chunk", (compare_all, ([cases[i] for i in chunk], draws))) for chunk in chunks]
        answers = run_all(pool, jobs, lambda _: None)
    found: dict[int, Compared | str] = {}
    for chunk, answer in zip(chunks, answers):
        found |= dict(zip(chunk, answer))
    compared = [one for i in range(len(cases)) if isinstance(one := found[i], Compared)]
    failed = [
        Excluded(cases[i].point.source, 0, metric, why)
        for i, why in sorted(found.items())
        if isinstance(why, str)
        for metric in cases[i].point.measured
    ]
    undefined = [
        Excluded(one.point.source, 0, metric, why)
        for one in compared
        for metric in one.point.measured
        if (why := incomparable(one, metric))
    ]
    used = rows_of([case for i, case in enumerate(cases) if isinstance(found[i], Compared)]) - len(undefined)
    return Validation(error_table(compared), capacities(compared), (*public.excluded, *failed, *undefined), used)


def compare_all(cases: Sequence[Case], draws: int) -> list[Compared | str]:
    """Each case with its prediction, or why there is none: what one process does."""
    held = read_held_out()
    everyone = [one for by_metric in held.values() for one in by_metric.values()]
    return [compare(case, held.get(key_of(case.point), {}), everyone, draws=draws) for case in cases]


def compare(case: Case, held: Mapping[str, Held], everyone: Sequence[Held], *, draws: int = 0) -> Compared | str:
    """The case with its prediction, or the reason why it cannot be simulated.

    The variance of a figure's draws comes from `draws` runs now, is the one stored with its held-out error, or, for a
    point that no fit saw, the usual one of its engine.
    """
    point = case.point
    try:
        setting = setting_of(point)
        prediction = predict(point, workload=case.workload)
        share = load_share(point, prediction)
    except ElideError as cause:
        return str(cause)
    profile, sds = setting.profile, {}
    drawn = spreads(point, prediction, profile, setting.replicas, draws=draws) if draws else {}
    for metric in wanted(point):
        kind = family_of(metric)
        if metric in held:
            known = held[metric].variance
            rest = remainder_without(everyone, profile.name, configuration(point), kind)
        else:
            known = usual_variance(everyone, profile.name, kind)
            rest = profile.residual(metric, str(point.gpu))
        if drawn:
            known = variance(drawn[metric])
        sds[metric] = math.hypot(math.sqrt(known), rest)
    errors = {metric: one.error for metric, one in held.items()}
    return Compared(point, prediction.metrics, share, prediction.outside, errors, sds)


def load_share(point: Point, prediction: Prediction) -> float:
    """Load as a share of the capacity that the simulator finds; NaN for a static batch, infinite for offline."""
    assert point.load is not None
    if point.load.kind == "static_batch":
        return float("nan")
    if point.load.kind == "offline":
        return float("inf")
    asked = point.load.value if point.load.kind == "qps" else prediction.requests_per_s
    return asked / capacity_of(point)


def capacity_of(point: Point) -> float:
    """Requests per second of the point's servers when clients never let the queue run dry."""
    flags = dict(point.flags)
    assert point.load is not None
    if flags.get("max_num_seqs") == point.load.value:
        del flags["max_num_seqs"]  # a limit set to the load of the day is not the server's
    setting = setting_of(point)
    slots = min(CAPACITY_SLOTS, setting.config.max_num_seqs) if "max_num_seqs" in flags else CAPACITY_SLOTS
    bare = replace(
        point,
        source="capacity",
        measured={},
        load=Load("concurrency", float(slots * setting.replicas)),
        requests=slots * CAPACITY_WAVES * setting.replicas,
        flags={},
        notes=(),
    )
    return _capacity(_Hashable(replace(bare, flags=flags)))


class _Hashable:
    """A point as a key: by its text."""

    def __init__(self, point: Point) -> None:
        self.point = point
        self.text = repr(point)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable) and self.text == other.text


@lru_cache(maxsize=512)
def _capacity(key: _Hashable) -> float:
    return predict(key.point, profile_of(key.point)).requests_per_s


def capacities(compared: Sequence[Compared]) -> pl.DataFrame:
    """Measured and predicted plateau of each rate sweep that was driven beyond its capacity."""
    sweeps: dict[tuple[Any, ...], list[Compared]] = {}
    for one in compared:
        p = one.point
        if p.load and p.load.kind in ("qps", "offline") and "requests_per_s" in p.measured:
            sweeps.setdefault((p.source, p.model, p.tp, round(p.isl or 0), p.osl), []).append(one)
    rows = []
    for (source, model, tp, isl, osl), points in sweeps.items():
        saturated = [one for one in points if one.load_share > 1.0]
        if len(points) < 3 or not saturated:
            continue
        measured = max(one.point.measured["requests_per_s"] for one in saturated)
        predicted = max(one.predicted["requests_per_s"] for one in saturated)
        rows.append(
            {
                "source": source, "model": model, "tp": tp, "isl": isl, "osl": osl, "rates": len(points),
                "measured": measured, "predicted": predicted, "error": predicted / measured - 1.0,
            }
        )  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def _worst_kubecon(sweeps: pl.DataFrame) -> float | None:
    """Largest capacity error of the KubeCon sweeps in percent."""
    if sweeps.is_empty():
        return None
    errors = sweeps.filter(pl.col("source").str.contains("kubecon"))["error"].abs()
    return round(float(np.max(errors.to_numpy())) * 100, 2) if len(errors) else None


def _chunks(n: int) -> int:
    return max(1, n // CHUNK)


def _cost(case: Case) -> float:
    point = case.point
    slots = point.load.value if point.load and np.isfinite(point.load.value) else CAPACITY_SLOTS
    return float(slots * (point.osl or 1))
