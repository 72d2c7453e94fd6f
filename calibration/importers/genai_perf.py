"""genai-perf exports: `profile_export_genai_perf.json` (statistics) and `profile_export.json` (raw timestamps).

The statistics have aiperf's layout (aiperf is its successor); `input_config.perf_analyzer.stimulus` says
`{concurrency: n}` or `{request_rate: r}`. Raw: `experiments[].experiment{mode, value}` and `requests[]{timestamp,
response_timestamps[]}` in ns. Responses are chunks of text, not tokens, so the raw file gives TTFT, E2E and gaps
between chunks, but no output length and no TPOT.
"""

from itertools import pairwise
from pathlib import Path

from calibration.importers.aiperf import aggregate_point
from calibration.importers.reading import Record, read_records, summary
from calibration.points import Load, Point
from calibration.units import check_plausible
from sim.errors import InputError


def read_genai_perf(path: Path) -> list[Point]:
    """The one Point of `profile_export_genai_perf.json`."""
    (record,) = read_records(path)
    models = record.get("input_config.model_names") or [""]
    stimulus = record.get("input_config.perf_analyzer.stimulus") or {}
    load = None
    for mode, value in stimulus.items():
        load = _load(record, str(mode), value)
    return [aggregate_point(record, str(models[0]), load)]


def read_genai_perf_requests(path: Path) -> list[Point]:
    """One Point per experiment of `profile_export.json`. Raises InputError for an experiment without a response."""
    (record,) = read_records(path)
    return [_experiment(experiment) for experiment in record.parts("experiments")]


def _experiment(experiment: Record) -> Point:
    ttfts, e2es, gaps = [], [], []
    starts, ends = [], []
    requests = list(experiment.parts("requests"))
    for request in requests:
        answers = request.get("response_timestamps") or []
        if not answers:
            continue
        start = request.integer("timestamp")
        starts.append(start)
        ends.append(answers[-1])
        ttfts.append((answers[0] - start) / 1e6)
        e2es.append((answers[-1] - start) / 1e6)
        gaps += [(after - before) / 1e6 for before, after in pairwise(answers)]
    if not ttfts:
        raise InputError(f"{experiment.where}: no request has 'response_timestamps'")
    measured = summary("ttft", ttfts) | summary("e2e", e2es) | summary("itl", gaps)
    if len(ttfts) > 1:
        measured["requests_per_s"] = len(ttfts) / ((max(ends) - min(starts)) / 1e9)
    check_plausible(measured, None, where=experiment.where)
    settings = experiment.part("experiment")
    lost = len(requests) - len(ttfts)
    return Point(
        source=experiment.where,
        measured=measured,
        load=_load(experiment, str(settings.get("mode")), settings.get("value")),
        requests=len(ttfts),
        notes=("gaps are between chunks, not tokens", *((f"{lost} requests without a response",) if lost else ())),
    )


def _load(record: Record, mode: str, value: object) -> Load:
    if not isinstance(value, int | float) or mode not in ("concurrency", "request_rate"):
        raise InputError(f"{record.where}: {mode!r} = {value!r} is neither a concurrency nor a request_rate")
    return Load("concurrency", value) if mode == "concurrency" else Load("qps", value)
