"""`python -m calibration fit-engines`: every engine profile from its priors and the public points.

Writes `sim/cost/engines/<name>.json`, and `calibration/data/validation/held_out.json`: of every figure the log error
under the estimate that never saw its configuration (GPU, model, TP), and the variance of its draws. Validation quotes
the first beside the error in sample and judges intervals by both.
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibration.engines import setting_of
from calibration.fit_serving import Fit, Floats, cases_of, fit_profile, held_out, run_cases
from calibration.points import Point
from calibration.validate_intervals import Held, family_of, remainder, spreads, variance
from calibration.validate_points import Case, Public
from calibration.validate_run import predict, wanted
from sim.cost.profiles import FOLDER, PARAMETERS, EngineProfile
from sim.errors import InputError
from sim.study.pool import executor, run_all

PRIORS = Path(__file__).parent / "data" / "engines" / "priors.toml"
HELD_OUT = Path(__file__).parent / "data" / "validation" / "held_out.json"
HOST_BESIDE = "h100"  # priors and fits are of hosts of H100 servers; older ones are slower (sim/cost/profiles.py)
UNSEEN_SD = {"ttft": 0.5, "tpot": 0.2, "e2e": 0.25, "throughput": 0.25}


def fit_engines(
    public: Public,
    *,
    only: Sequence[str] = (),
    workers: int = 1,
    rounds: int = 4,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Held]]]:
    """The files of the profiles (all, or `only` some) and the held-out errors of their figures."""
    files: dict[str, dict[str, Any]] = {}
    held: dict[str, dict[str, Held]] = {}
    with executor(workers) as pool:
        run = run_cases if pool is None else partial(_spread, pool, workers)
        for name, table in read_priors().items():
            if only and name not in only:
                continue
            start = prior_profile(name, table, files)
            cases = cases_of(public.cases, name) if table["fit"] else []
            if not cases:
                files[name] = file_of(start, table, None, UNSEEN_SD, ())
                continue
            tell(f"{name}: {len(cases)} settings")
            fit = fit_profile(cases, start, table["fit"], run=run, rounds=rounds, tell=tell)
            out = held_out(fit, [configuration(case.point) for case in cases])
            known = replace(fit.profile, fitted=fit.names, covariance=tuple(map(tuple, fit.covariance.tolist())))
            held |= held_figures(fit, known, cases, out)
            own = [one for by_metric in held.values() for one in by_metric.values() if one.profile == name]
            files[name] = file_of(known, table, fit, scatter(own), cases)
    return files, held


def write(files: Mapping[str, Mapping[str, Any]], held: Mapping[str, Mapping[str, Held]]) -> None:
    """Write the profiles and the held-out errors where they ship; errors of profiles not fitted now are kept."""
    for name, facts in files.items():
        (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    HELD_OUT.parent.mkdir(parents=True, exist_ok=True)
    all_of_them = {**read_held_out(), **held}
    lines = [f"{json.dumps(point)}: {_one_line(by_metric)}" for point, by_metric in sorted(all_of_them.items())]
    HELD_OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _one_line(by_metric: Mapping[str, Held]) -> str:
    facts = next(iter(by_metric.values()))
    figures = {metric: [round(one.error, 4), round(one.variance, 6)] for metric, one in by_metric.items()}
    return json.dumps([[facts.profile, facts.configuration], figures])


def read_priors(path: Path = PRIORS) -> dict[str, dict[str, Any]]:
    """The table of each profile, `like` ones after those they are like. Raises InputError for a broken file."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as cause:
        raise InputError(f"{path}: not readable as TOML ({cause})") from cause
    default = tables.pop("default")
    full = {name: {**default, **table} for name, table in tables.items()}
    for name, table in full.items():
        table["own"] = set(tables[name])
    return full


def prior_profile(name: str, table: Mapping[str, Any], fitted: Mapping[str, Mapping[str, Any]]) -> EngineProfile:
    """The profile before any fit; what it does not set itself comes from the profile it is like."""
    parameters = {key: float(table[key]) for key in PARAMETERS}
    like = table.get("like")
    if like:
        parameters |= {k: v for k, v in _fitted(like, fitted).items() if k not in table["own"]}
    if "pool" in table:
        members = [_fitted(member, fitted) for member in table["pool"]]
        parameters |= {k: float(np.exp(np.mean([np.log(one[k]) for one in members]))) for k in PARAMETERS}
    scheduler = {**table["scheduler"], **({"small_gpu": table["small_gpu"]} if "small_gpu" in table else {})}
    return EngineProfile(
        name=name,
        engine=table["engine"],
        versions=tuple(table["versions"]),
        parameters=parameters,
        fitted=(),
        covariance=(),
        residual_sd={},
        scheduler=scheduler,
        switches=table["switches"],
        provenance={"host": HOST_BESIDE},
    )


def scatter(held: Sequence[Held]) -> dict[str, float]:
    """By family of metrics, how far servers scatter around the fit; wide where no figure of it was measured."""
    seen = {one.family for one in held}
    return {family: remainder(held, family) if family in seen else sd for family, sd in UNSEEN_SD.items()}


def _fitted(name: str, fitted: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The parameters of a profile, as fitted now or as it ships."""
    found = fitted.get(name) or json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return dict(found["parameters"])


def file_of(
    profile: EngineProfile,
    table: Mapping[str, Any],
    fit: Fit | None,
    spread: Mapping[str, float],
    cases: Sequence[Case],
) -> dict[str, Any]:
    """The JSON of a profile, with where it comes from."""
    sources = sorted({case.point.source.split("#")[0] for case in cases})
    origin: dict[str, Any] = {
        "sources": sources,
        "settings": len(cases),
        "gpus": sorted({str(case.point.gpu) for case in cases}),
        "models": sorted({str(case.point.model) for case in cases}),
        "command": "python -m calibration fit-engines",
        "priors": "calibration/data/engines/priors.toml",
        "host": profile.provenance.get("host"),
    }
    origin |= {key: table[key] for key in ("like", "pool") if key in table}
    return {
        "engine": profile.engine,
        "versions": list(profile.versions),
        "parameters": {key: float(f"{value:.4g}") for key, value in profile.parameters.items()},
        "fitted": list(fit.names) if fit else [],
        "covariance": [[float(f"{x:.3g}") for x in row] for row in fit.covariance] if fit else [],
        "residual_sd": {key: round(value, 4) for key, value in spread.items()},
        "scheduler": dict(profile.scheduler),
        "switches": dict(profile.switches),
        "provenance": origin,
    }


def configuration(point: Point) -> str:
    """What is left out together: one model on one kind of GPU with one TP, of one source."""
    return f"{point.source.split('#')[0][:40]} {point.gpu} {point.model} {point.weights_dtype} TP{point.tp}"


def key_of(point: Point) -> str:
    """A point's name in the file of held-out errors."""
    load = f"{point.load.kind} {point.load.value:g}" if point.load else ""
    file = point.source.rsplit("/", 1)[-1]
    facts = (file, point.gpu, point.model, point.weights_dtype, point.tp, point.isl, point.osl, load)
    return " | ".join(map(str, facts))


def held_figures(fit: Fit, profile: EngineProfile, cases: Sequence[Case], out: Floats) -> dict[str, dict[str, Held]]:
    """Every figure's held-out error by point and metric, with the variance of its draws under the fitted profile."""
    errors: dict[int, dict[str, float]] = {}
    for error, metric, i in zip(out, fit.residuals.metric, fit.residuals.case):
        errors.setdefault(int(i), {})[metric] = float(error)
    for i, total in e2e_errors(errors, cases).items():
        errors[i]["e2e_mean_ms"] = total
    found: dict[str, dict[str, Held]] = {}
    for i, by_metric in errors.items():
        point = cases[i].point
        prediction = predict(point, profile, workload=cases[i].workload)
        drawn = spreads(point, prediction, profile, setting_of(point, profile).replicas)
        found[key_of(point)] = {
            metric: Held(profile.name, configuration(point), family_of(metric), error, variance(drawn[metric]))
            for metric, error in by_metric.items()
        }
    return found


def e2e_errors(errors: Mapping[int, Mapping[str, float]], cases: Sequence[Case]) -> dict[int, float]:
    """Log error of mean E2E by case, composed of those of TTFT and TPOT in proportion to their time."""
    found = {}
    for i, by_metric in errors.items():
        measured = wanted(cases[i].point)
        tpot = next((name for name in ("tpot_mean_ms", "itl_mean_ms") if name in by_metric), None)
        if tpot and "ttft_mean_ms" in by_metric and "e2e_mean_ms" in measured:
            first = measured["ttft_mean_ms"] * np.exp(by_metric["ttft_mean_ms"])
            rest = (measured["e2e_mean_ms"] - measured["ttft_mean_ms"]) * np.exp(by_metric[tpot])
            found[i] = float(np.log((first + rest) / measured["e2e_mean_ms"]))
    return found


def read_held_out(path: Path = HELD_OUT) -> dict[str, dict[str, Held]]:
    """Held-out errors by point and metric; none where no fit has been run."""
    if not path.exists():
        return {}
    table = json.loads(path.read_text(encoding="utf-8"))
    return {
        point: {
            metric: Held(profile, configuration, family_of(metric), error, spread)
            for metric, (error, spread) in by_metric.items()
        }
        for point, ((profile, configuration), by_metric) in table.items()
    }


def _spread(pool: Any, workers: int, tasks: Sequence[tuple[Case, EngineProfile]]) -> list[Mapping[str, float] | None]:
    """`run_cases` over processes: interleaved, so that each gets its share of long ones."""
    parts = [list(range(i, len(tasks), 4 * workers)) for i in range(4 * workers)]
    answers = run_all(pool, [("fit", (run_cases, ([tasks[i] for i in part],))) for part in parts], lambda _: None)
    found: list[Mapping[str, float] | None] = [None] * len(tasks)
    for part, answer in zip(parts, answers):
        for i, one in zip(part, answer):
            found[i] = one
    return found
