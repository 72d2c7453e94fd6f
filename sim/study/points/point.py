"""One point: what it asks, resolved from its options, and the answer, which depends on nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from sim.errors import ElideError, UnknownName
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.study.capacity import capacity_of, replicas_for
from sim.study.floor import check_floor
from sim.study.intervals import check_draws
from sim.study.loads import Load
from sim.study.points.identity import digest_of, source_version
from sim.study.points.options import namespace_of
from sim.study.points.space import Settings, Space
from sim.study.service import Service
from sim.study.settings import rated_load_of, seeds_of, service_of, slo_of
from sim.study.sustained import sustains

LOAD = ("trace", "sort", "limit", "workload", "prompt_tokens", "output_tokens", "range_ratio", "arrivals", "requests",
        "tokens_per_char")  # fmt: skip
QUANTILES = ("p50", "p90")
SAVED = ("flops_saved", "weight_bytes_saved", "kv_read_bytes_saved", "kv_capacity_saved")
ANSWER = {
    "max_qps": pl.Float64,
    "max_qps_low": pl.Float64,
    "max_qps_high": pl.Float64,
    "limited_by": pl.String,
    "qps": pl.Float64,  # the rate of the run that all figures below are of
    "within_slo": pl.Boolean,
    "slo_met_share": pl.Float64,
    **{f"{metric}_{quantile}_ms": pl.Float64 for metric in ("ttft", "tpot") for quantile in QUANTILES},
    "output_tokens_per_s": pl.Float64,
    "busy_share": pl.Float64,
    "kv_capacity_tokens": pl.Int64,
    "kv_peak_share": pl.Float64,
    **dict.fromkeys(SAVED, pl.Float64),
    "extrapolated_share": pl.Float64,
    "note": pl.String,
}
Answer = dict[str, object]  # the columns of ANSWER; None where there is no figure


@dataclass(frozen=True)
class Question:
    """What is computed: the capacity of a service under an SLO, or with `qps` a run at that rate."""

    service: Service
    slo: Slo
    seeds: Sequence[int]
    tolerance: float
    draws: int = 0
    qps: float | None = None


@dataclass(frozen=True)
class Point:
    """A combination of settings with what it asks; without a question it cannot be, and `why_not` says why."""

    settings: Settings
    question: Question | None = None
    demand_qps: float = 0.0
    quality_floor: float | None = None
    why_not: str = ""

    @cached_property
    def key(self) -> str | None:
        """The digest of everything that the answer depends on."""
        return digest_of(self.question) if self.question else None


class Resolver:
    """Makes points of settings; a load that several of them share is read once."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._loads: dict[tuple[object, ...], Load] = {}

    def point(self, settings: Settings) -> Point:
        """The point of these settings.

        A combination that cannot be (a GPU too small, a depth that the model has not) is a point without a question.
        Raises UnknownName for a name that nobody knows: that is a slip of the pen, not a combination that cannot be;
        InputError for a demand, a number of draws or a quality floor that is none.
        """
        args = namespace_of(self._space.options_of(settings))
        replicas_for(args.demand_qps, 1.0)
        check_draws(args.draws)
        floor = check_floor(args.quality_floor)
        try:
            service = service_of(args, self._load(args))
            question = Question(service, slo_of(args), seeds_of(args), args.tolerance, args.draws, args.qps)
        except UnknownName:
            raise
        except ElideError as cause:
            return Point(settings, why_not=one_line(cause))
        return Point(settings, question, args.demand_qps, floor)

    def _load(self, args: object) -> Load:
        wanted = tuple(getattr(args, name) for name in LOAD)
        if wanted not in self._loads:
            self._loads[wanted] = rated_load_of(args)  # type: ignore[arg-type]
        return self._loads[wanted]


def answer_of(question: Question) -> tuple[str, Answer]:
    """The version of the source that answers, and the answer.

    What no hardware can serve is an answer, too: figures are None and `note` says why.
    """
    question = replace(question, service=replace(question.service))  # whose price list goes when the answer is there
    row: dict[str, object] = dict.fromkeys(ANSWER)
    try:
        row |= _capacity(question) if question.qps is None else _run(question, question.qps)
    except ElideError as cause:
        row |= {"note": one_line(cause)}
    return source_version(), row


def one_line(cause: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(cause).split())


def _capacity(question: Question) -> dict[str, object]:
    service, slo, seeds = question.service, question.slo, question.seeds
    found = capacity_of(service, slo, seeds=seeds, tolerance=question.tolerance, draws=question.draws)
    row = {"max_qps": found.qps, "max_qps_low": found.low, "max_qps_high": found.high}
    at = found.brackets[0].low
    figures = _figures(service.at(at, seeds[0]), slo)
    return row | figures | {"limited_by": found.limited_by, "qps": at, "within_slo": True, "note": found.note}


def _run(question: Question, qps: float) -> dict[str, object]:
    """The run of the first seed; it is within the SLO if those of all seeds are."""
    runs = [question.service.at(qps, seed) for seed in question.seeds]
    within = all(sustains(run, question.slo) for run in runs)
    return _figures(runs[0], question.slo) | {"qps": qps, "within_slo": within, "note": ""}


def _figures(result: Result, slo: Slo) -> dict[str, object]:
    summary, realised = result.summary(intervals=False), result.realised
    row: dict[str, object] = {name: summary[name] for name in ANSWER if name in summary}
    for metric in ("ttft", "tpot"):
        spread = summary[f"{metric}_ms"]
        assert isinstance(spread, dict)
        row |= {f"{metric}_{quantile}_ms": spread[quantile] for quantile in QUANTILES}
    return row | {name: realised[name] for name in SAVED} | {"slo_met_share": result.goodput(slo)[1]}
