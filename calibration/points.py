"""One schema for every measured serving result: a setting of a real server and what was measured there.

Importers return `Point`s; fits and validations read nothing else. Metric names carry statistic and unit
("ttft_p50_ms", "output_tokens_per_s"); calibration/units.py says what each means and how each tool defines it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import polars as pl

from sim.errors import InputError, UnknownName

LoadKind = Literal["qps", "concurrency", "offline", "static_batch"]
Arrivals = Literal["poisson", "gamma", "constant", "unknown"]

LATENCIES = ("ttft", "tpot", "itl", "e2e", "prefill", "decode_step")
RATES = ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s")
_METRIC = re.compile(rf"({'|'.join(LATENCIES)})_(mean|p\d+(\.\d+)?)_ms|{'|'.join(RATES)}")

# What a simulation needs and a result file often lacks.
_SERVER = ("gpu", "n_gpus", "tp", "model", "weights_dtype", "kv_dtype", "engine", "engine_version", "flags")
WANTED = (*_SERVER, "isl", "osl", "load", "requests")


@dataclass(frozen=True)
class Load:
    """How requests were sent.

    qps: open loop at `value` requests per second, of which at most `max_concurrency` are in flight (None: no cap).
    concurrency: closed loop, `value` requests always in flight. offline: all at once, `value` is infinite.
    static_batch: one batch of `value` sequences, prefilled and decoded together, no scheduler.
    `burstiness` is the shape of the gamma distribution of the gaps (1 is Poisson).
    """

    kind: LoadKind
    value: float
    max_concurrency: int | None = None
    arrivals: Arrivals = "unknown"
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(LoadKind):
            raise UnknownName("load", self.kind, get_args(LoadKind))
        if not self.value > 0 or math.isinf(self.value) != (self.kind == "offline"):
            raise InputError(f"load {self.kind} = {self.value}: must be positive, and infinite only for offline")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise InputError(f"max_concurrency = {self.max_concurrency}: must be at least 1")


def offline() -> Load:
    """Every request sent at once."""
    return Load("offline", math.inf)


@dataclass(frozen=True)
class Point:
    """One measured setting of a real server.

    `gpu` and `model` are catalogue names (None: unknown or not in the catalogue; `model_label` keeps what the file
    says). `isl` and `osl` are mean tokens per request, `isl_range`/`osl_range` the bounds of a uniform draw;
    `prefix_tokens` of each prompt are shared with other prompts, of which `distinct_prompts` exist. 16-bit dtypes are
    all "bf16": same bytes, same tensor-core rate. `flags` holds engine settings that are known.
    """

    source: str
    measured: Mapping[str, float]
    load: Load | None = None
    gpu: str | None = None
    n_gpus: int | None = None
    tp: int | None = None
    model: str | None = None
    model_label: str = ""
    weights_dtype: str | None = None
    kv_dtype: str | None = None
    engine: str | None = None
    engine_version: str | None = None
    isl: float | None = None
    osl: float | None = None
    isl_range: tuple[float, float] | None = None
    osl_range: tuple[float, float] | None = None
    prefix_tokens: float | None = None
    distinct_prompts: int | None = None
    requests: int | None = None
    flags: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in self.measured.items():
            if not _METRIC.fullmatch(name):
                raise InputError(f"{self.source}: {name!r} is no canonical metric name (see calibration/units.py)")
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{self.source}: {name} = {value}: must be finite and not negative")
        for name in ("n_gpus", "tp", "isl", "requests"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{self.source}: {name} = {value}: must be positive")

    @property
    def missing(self) -> tuple[str, ...]:
        """What this point cannot tell and a simulation of it must assume."""
        return tuple(name for name in WANTED if getattr(self, name) in (None, {}))


def with_known(point: Point, **known: Any) -> Point:
    """The point with what the user knows filled in; notes are appended, flags merged.

    Raises InputError where the file itself says otherwise, and for a name that is no field of a Point.
    """
    names = {f.name for f in fields(Point)} - {"source", "measured", "model_label"}
    changes: dict[str, Any] = {}
    for name, value in known.items():
        if name not in names:
            raise UnknownName("fact about a measured point", name, names)
        if value is None:
            continue
        told = getattr(point, name)
        if name == "flags":
            changes[name] = {**point.flags, **value}
        elif name == "notes":
            changes[name] = (*point.notes, *value)
        elif told is not None and told != value:
            raise InputError(f"{point.source}: the file says {name} = {told!r}, you say {value!r}; leave one out")
        else:
            changes[name] = value
    if changes.get("tp") and point.n_gpus is None:
        changes.setdefault("n_gpus", changes["tp"])
    return replace(point, **changes)


_FRAME_SCHEMA: dict[str, Any] = {
    "point": pl.Int64, "source": pl.String, "gpu": pl.String, "n_gpus": pl.Int64, "tp": pl.Int64,
    "model": pl.String, "weights_dtype": pl.String, "kv_dtype": pl.String, "engine": pl.String,
    "engine_version": pl.String, "isl": pl.Float64, "osl": pl.Float64, "requests": pl.Int64,
    "load": pl.String, "load_value": pl.Float64, "max_concurrency": pl.Int64,
    "metric": pl.String, "value": pl.Float64, "missing": pl.String, "notes": pl.String,
}  # fmt: skip


def points_frame(points: Sequence[Point]) -> pl.DataFrame:
    """One row per point and metric; `point` numbers the points, so that a setting can be grouped again."""
    rows = []
    for number, point in enumerate(points):
        load = point.load
        setting = {name: getattr(point, name, None) for name in _FRAME_SCHEMA}
        setting |= {
            "point": number,
            "load": load.kind if load else None,
            "load_value": load.value if load else None,
            "max_concurrency": load.max_concurrency if load else None,
            "missing": ", ".join(point.missing),
            "notes": "; ".join(point.notes),
        }
        rows += [{**setting, "metric": metric, "value": value} for metric, value in point.measured.items()]
    return pl.DataFrame(rows, schema=_FRAME_SCHEMA, orient="row")
