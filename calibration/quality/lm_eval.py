"""Results of lm-evaluation-harness, read as quality of a plan: what a user measured counts like what we measure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from calibration.quality.grade import Z
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named

# The metric that stands for a task, the first that it has: generated answers before likelihoods.
PREFERRED = ("exact_match", "prompt_level_strict_acc", "pass@1", "acc_norm", "acc", "f1", "rougeL", "bleu")
LIKELIHOOD = ("loglikelihood", "loglikelihood_rolling", "multiple_choice")


@dataclass(frozen=True)
class Harness:
    """One run of the harness."""

    scores: Mapping[str, float]  # by task, larger is better
    metrics: Mapping[str, str]
    errors: Mapping[str, float]  # standard errors, where given
    samples: Mapping[str, int]
    likelihood: tuple[str, ...]  # tasks scored by the likelihood of prompts
    model: str
    date: object


def read_harness(file: Path, *, metric: str | None = None) -> Harness:
    """The leaf tasks of a results file (schema of lm-eval 0.4) with one metric each; `metric` overrules the choice.

    Groups are left out, for their tasks are there; so are tasks whose only metrics are better when smaller. Raises
    InputError naming the file for anything that is no such file, or that has no usable task.
    """
    data = _read(file)
    results = data["results"]
    subtasks = data.get("group_subtasks") or {}
    groups = {name for name, members in subtasks.items() if members} | set(data.get("groups") or {})
    scores, metrics, errors = {}, {}, {}
    for task, values in results.items():
        chosen = None if task in groups else _choose(task, values, data.get("higher_is_better") or {}, metric)
        if chosen is not None:
            name, filtered = chosen
            scores[task], metrics[task] = float(values[f"{name},{filtered}"]), f"{name},{filtered}"
            error = values.get(f"{name}_stderr,{filtered}")
            if isinstance(error, int | float):
                errors[task] = float(error)
    if not scores:
        wanted = f"metric {metric!r}" if metric else f"a metric out of {', '.join(PREFERRED)}"
        raise InputError(f"{file}: no task has {wanted}; it has {sorted({k for v in results.values() for k in v})}")
    configs, samples = data.get("configs") or {}, data.get("n-samples") or {}
    return Harness(
        scores,
        metrics,
        errors,
        {task: int(samples[task]["effective"]) for task in scores if "effective" in (samples.get(task) or {})},
        tuple(task for task in scores if (configs.get(task) or {}).get("output_type") in LIKELIHOOD),
        str((data.get("config") or {}).get("model_args") or data.get("model_name") or ""),
        data.get("date"),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, dict) or not all(isinstance(values, dict) for values in results.values()):
        raise InputError(f'{file}: is no results file of lm-eval; it has no "results" by task')
    return dict(data)


def _choose(
    task: str, values: Mapping[str, Any], better: Mapping[str, Any], metric: str | None
) -> tuple[str, str] | None:
    """(metric, filter) that stands for a task; the file's order decides between filters."""
    names = [tuple(key.split(",", 1)) for key, value in values.items() if "," in key and isinstance(value, int | float)]
    for wanted in (metric,) if metric else PREFERRED:
        for name, filtered in names:
            if name == wanted and (better.get(task) or {}).get(name, True):
                return name, filtered
    return None


def import_harness(
    file: Path, *, model: str, plan: str, dense: Path | None, out: Path, metric: str | None = None
) -> dict[str, Any]:
    """The quality file that results and the dense model's results make, written to `out` (joined to what it holds).

    The score is the mean over the tasks that both files have; studies show it as a share of the dense one, so without
    a dense result it stays unseen. Raises InputError where the files share no task, `out` holds another model or
    benchmark, UnknownName for the model or the plan.
    """
    shape = model_named(model)
    made = strategy_named(plan, shape)
    mine = read_harness(file, metric=metric)
    theirs = read_harness(dense, metric=metric) if dense else mine if made.is_dense else None
    tasks = sorted(mine.scores if theirs is None else set(mine.scores) & set(theirs.scores))
    if not tasks:
        raise InputError(f"{file} and {dense} share no task: {sorted(mine.scores)} against {sorted(theirs.scores)}")  # type: ignore[union-attr]
    benchmark = "lm-eval " + ", ".join(f"{task} ({mine.metrics[task]})" for task in tasks)
    data: dict[str, Any] = {"model": shape.name, "benchmark": benchmark, "source": file.name, "origin": "imported"}
    if out.exists():
        before = _quality(out)
        if (before.get("model"), before.get("benchmark")) != (shape.name, benchmark):
            raise InputError(f"{out}: holds {before.get('benchmark')!r} of {before.get('model')!r}; give another --out")
        data = before
    data.setdefault("plans", {})[made.digest] = _entry(mine, theirs, tasks, made.name, prompt_skip=made.prompt_skip)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return data


def _entry(mine: Harness, theirs: Harness | None, tasks: list[str], plan: str, *, prompt_skip: float) -> dict[str, Any]:
    score = sum(mine.scores[t] for t in tasks) / len(tasks)
    dense = sum(theirs.scores[t] for t in tasks) / len(tasks) if theirs else None
    entry: dict[str, Any] = {
        "plan": plan,
        "score": score,
        "dense": dense,
        "tasks": {t: {"score": mine.scores[t], "dense": theirs.scores[t] if theirs else None,
                      "stderr": mine.errors.get(t), "n": mine.samples.get(t)} for t in tasks},
        "measured_model": mine.model,
        "date": mine.date,
    }  # fmt: skip
    if theirs is not None and dense is not None and all(t in mine.errors and t in theirs.errors for t in tasks):
        # as if the runs had seen different questions: too wide rather than too narrow
        half = Z * sqrt(sum(mine.errors[t] ** 2 + theirs.errors[t] ** 2 for t in tasks)) / len(tasks)
        entry |= {"difference_low": score - dense - half, "difference_high": score - dense + half}
    odd = sorted(set(mine.likelihood) & set(tasks))
    if odd and prompt_skip:
        entry["note"] = (
            f"{', '.join(odd)}: scored by likelihoods of prompt tokens, which this plan does not compute; valid only if"
            " the evaluation ran all layers for prompts"
        )
    return entry


def _quality(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: is no quality file ({error}); give another --out") from error
