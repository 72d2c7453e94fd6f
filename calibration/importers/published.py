"""The generic CSV of other people's measurements (`published_serving.csv`): one figure a row.

Columns: source, hardware, n_gpus, tp, model, dtype, engine, engine_version, isl, osl, concurrency_or_qps, metric,
value, unit. Rows that differ only in metric and value are one setting and become one Point. Rows that cannot be
compared with a simulation become `Excluded`, each with its line and reason; the two together are all rows of the
file.
"""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

from calibration.exclusions import Excluded
from calibration.importers.inferencex import jittered
from calibration.importers.names import dtype_or_none, engine_of, gpu_or_none, model_or_none
from calibration.importers.published_row import length_of, load_of, metric_of
from calibration.importers.published_sources import AVERAGES, TRTLLM_REQUESTS, Facts, facts_of
from calibration.importers.reading import read_text
from calibration.points import Load, Point
from calibration.units import check_plausible
from sim.errors import InputError

_SERVER = ("source", "hardware", "n_gpus", "tp", "model", "dtype", "engine", "engine_version")
SETTING = (*_SERVER, "isl", "osl", "concurrency_or_qps")
COLUMNS = (*SETTING, "metric", "value", "unit")
_UNSTATED = "n/a"


@dataclass(frozen=True)
class Published:
    """What the table gives: points to compare with, and the rows left out."""

    points: tuple[Point, ...]
    excluded: tuple[Excluded, ...]


@dataclass(frozen=True)
class _Row:
    line: int
    cells: dict[str, str]
    value: float


def read_published(path: Path) -> Published:
    """Points in the order of the file, and every excluded row. Raises InputError for other columns or a broken row."""
    settings: dict[tuple[str, ...], list[_Row]] = {}
    for row in _rows(path):
        settings.setdefault(tuple(row.cells[name] for name in SETTING), []).append(row)
    points: list[Point] = []
    excluded: list[Excluded] = []
    for rows in settings.values():
        reason = _unusable(rows[0].cells)
        if reason:
            excluded += [_exclude(row, reason) for row in rows]
            continue
        point, left = _point(rows)
        excluded += left
        points += [point] if point else []
    return Published(tuple(points), tuple(excluded))


def _rows(path: Path) -> list[_Row]:
    reader = csv.reader(io.StringIO(read_text(path)))
    header = next(reader)
    if tuple(header) != COLUMNS:
        raise InputError(f"{path}:1: columns are {', '.join(header)}; expected {', '.join(COLUMNS)}")
    rows = []
    for line, cells in enumerate(reader, 2):
        if len(cells) != len(COLUMNS):
            raise InputError(f"{path}:{line}: {len(cells)} cells, expected {len(COLUMNS)}; is the file cut off?")
        named = dict(zip(COLUMNS, cells))
        try:
            value = float(named["value"])
        except ValueError as cause:
            raise InputError(f"{path}:{line}: column 'value' = {named['value']!r} is not a number") from cause
        rows.append(_Row(line, named, value))
    return rows


def _unusable(cells: dict[str, str]) -> str:
    """Why nothing of this setting can be simulated; empty where it can."""
    if model_or_none(cells["model"]) is None:
        return f"model {cells['model']!r} is not in the catalogue"
    if gpu_or_none(cells["hardware"]) is None and not cells["hardware"].startswith(_UNSTATED):
        return f"GPU {cells['hardware']!r} is not in the catalogue"
    if not (cells["n_gpus"].isdigit() and cells["tp"].isdigit()):
        return "number of GPUs or tensor parallelism not stated"
    if length_of(cells["isl"]) is None or length_of(cells["osl"]) is None:
        return "lengths not stated as tokens per request"
    if load_of(cells["concurrency_or_qps"]) is None:
        return f"load {cells['concurrency_or_qps']!r} gives neither a rate nor a concurrency"
    return ""


def _point(rows: list[_Row]) -> tuple[Point | None, list[Excluded]]:
    cells = rows[0].cells
    facts = facts_of(cells["source"], cells["engine"], cells["engine_version"], gpu_or_none(cells["hardware"]))
    measured: dict[str, float] = {}
    left = []
    for row in rows:
        found = metric_of(
            row.cells["metric"], row.cells["unit"], row.value, statistic=facts.statistic, n_gpus=int(cells["n_gpus"])
        )
        if found is None:
            left.append(_exclude(row, f"metric {row.cells['metric']!r} in {row.cells['unit']!r} is not simulated"))
        elif found[0] in measured:
            left.append(_exclude(row, "a second value of the same metric at the same setting"))
        else:
            measured[found[0]] = found[1]
    if not measured:
        return None, left
    try:
        point = _with_facts(_stated(cells, measured), facts)
        check_plausible(point.measured, point.osl, where=f"line {rows[0].line}")
    except InputError as cause:
        return None, [_exclude(row, str(cause)) for row in rows]
    return point, left


def _stated(cells: dict[str, str], measured: dict[str, float]) -> Point:
    """The point as the row states it."""
    sent = load_of(cells["concurrency_or_qps"])
    assert sent is not None
    version = cells["engine_version"]
    engine, told = engine_of(cells["engine"])
    notes = [f"{name} is an assumption of the table" for name in ("hardware", "dtype") if _assumed(cells[name])]
    if any("avg" in cells[name] for name in ("isl", "osl")):
        notes.append(AVERAGES)
    return Point(
        source=cells["source"],
        measured=measured,
        load=sent[0],
        gpu=gpu_or_none(cells["hardware"]),
        n_gpus=int(cells["n_gpus"]),
        tp=int(cells["tp"]),
        model=model_or_none(cells["model"]),
        model_label=cells["model"],
        weights_dtype=dtype_or_none(cells["dtype"]),
        engine=engine or None,
        engine_version=told if version in (_UNSTATED, "") else version,
        isl=length_of(cells["isl"]),
        osl=length_of(cells["osl"]),
        requests=sent[1],
        flags={"strategy": "swift_kv"} if "swiftkv" in cells["model"].lower() else {},
        notes=tuple(notes),
    )


def _with_facts(point: Point, facts: Facts) -> Point:
    """The point with what its source tells outside the table."""
    assert point.load is not None
    slots = int(point.load.value) if point.load.kind == "concurrency" else None
    requests = point.requests or facts.requests
    if facts.requests_per_slot and slots:
        requests = facts.requests_per_slot * slots
    if facts.requests_by_length:
        requests = TRTLLM_REQUESTS.get((point.isl or 0, point.osl or 0), requests)
    flags = {**facts.flags, **point.flags}
    if facts.slots_are_concurrency and slots:
        flags["max_num_seqs"] = slots
    changed = replace(
        point,
        load=_load(point.load, facts),
        kv_dtype=point.weights_dtype if facts.kv_dtype == "as weights" else facts.kv_dtype,
        engine_version=point.engine_version or facts.engine_version,
        requests=requests,
        prefix_tokens=facts.prefix_tokens,
        distinct_prompts=facts.distinct_prompts,
        flags=flags,
        notes=(*point.notes, *facts.notes),
    )
    changed = _regenerated(changed, facts.forced_osl) if facts.forced_osl else changed
    return _jittered(changed) if facts.jittered else changed


def _load(load: Load, facts: Facts) -> Load:
    if load.kind != "qps":
        return load
    return replace(load, arrivals=facts.arrivals, max_concurrency=facts.max_concurrency)


def _jittered(point: Point) -> Point:
    assert point.isl is not None
    assert point.osl is not None
    isl, isl_range = jittered(point.isl)
    osl, osl_range = jittered(point.osl)
    return replace(point, isl=isl, osl=osl, isl_range=isl_range, osl_range=osl_range)


def _regenerated(point: Point, forced: float) -> Point:
    """Output length, TPOT and output rate in tokens generated, where the table counts re-tokenised text."""
    assert point.osl is not None
    measured = dict(point.measured)
    if "tpot_mean_ms" in measured:
        measured["tpot_mean_ms"] *= (point.osl - 1) / (forced - 1)
    if "output_tokens_per_s" in measured:
        measured["output_tokens_per_s"] *= forced / point.osl
    note = f"output length {forced:g} as generated; the table counts {point.osl:g} of re-tokenised text"
    return replace(point, osl=forced, measured=measured, notes=(*point.notes, note))


def _assumed(cell: str) -> bool:
    return cell.endswith("?") or "assumed" in cell


def _exclude(row: _Row, reason: str) -> Excluded:
    return Excluded(row.cells["source"], row.line, row.cells["metric"], reason)
