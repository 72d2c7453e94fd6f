"""The table of a model: one summary per plan and weights, one row per task of each, in the file that studies read."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.quality.examine import Row
from calibration.quality.grade import Paired, interval
from calibration.quality.suite import Candidate
from calibration.quality.tasks import EXACT
from sim.errors import InputError
from sim.plans.plan import SkipPlan

SCORED = ("strategy", "setting", "weights", "score", "dense")
SHARES = ("prompt_skip", "decode_skip", "kv_caches")
DIFFERENCE = ("difference", "difference_low", "difference_high")
BENCHMARK = "elide's tasks, mean exact match over " + ", ".join(EXACT)


def summary_of(candidate: Candidate, plan: SkipPlan, weights: str, rows: Sequence[Row], *, seed: int) -> Row:
    """What a plan costs in one line: mean exact match over tasks against dense, with a bootstrap interval."""
    exact = [row for row in rows if "exact" in row]
    rng = np.random.default_rng([seed, 3])
    drawn = np.mean([Paired(r["n"], r["lost"], r["gained"]).resampled(rng) for r in exact], axis=0)
    score, dense = (float(np.mean([r[name] for r in exact])) for name in ("exact", "dense"))
    low, high = interval(drawn)
    worst = min(exact, key=lambda r: r["difference"])
    code = [row for row in rows if "exact" not in row]
    return {
        "strategy": candidate.family,
        "setting": candidate.setting,
        "weights": weights,
        "plan": plan.name,
        "digest": candidate.key,
        "prompt_skip": round(plan.prompt_skip, 5),
        "decode_skip": round(plan.nominal_skip, 5),
        "kv_caches": round(plan.caches.size / plan.layers, 5),
        "score": round(score, 5),
        "dense": round(dense, 5),
        "difference": round(score - dense, 5),
        "difference_low": round(low, 5),
        "difference_high": round(high, 5),
        "worst_task": worst["task"],
        "worst_difference": worst["difference"],
        "perplexity": code[0]["perplexity"] if code else None,
        "perplexity_dense": code[0]["perplexity_dense"] if code else None,
        "agreement": round(float(np.mean([r["agreement"] for r in exact])), 5),
        "collapse": round(float(np.mean([r["collapse"] for r in rows])), 5),
    }


def write_table(
    file: Path, head: Mapping[str, Any], summaries: Sequence[Row], rows: Sequence[Row], absent: Sequence[Row]
) -> None:
    """Write the JSON file of a model in one move.

    `plans` is what `sim.study.quality` looks up: the score of a plan's digest on this model, with adapted weights where
    both were measured. `proxy` says the same by strategy and share skipped, for models of other depth; it is this
    model's quality, never theirs. A batch's vote is no plan, so neither has it.
    """
    summaries_of_plans = [s for s in summaries if "/" not in s["digest"]]
    best = {s["digest"]: s for s in sorted(summaries_of_plans, key=lambda s: s["weights"] == "adapted")}
    plans = {digest: {name: s[name] for name in (*SCORED, *DIFFERENCE)} for digest, s in best.items()}
    proxy = [{name: s[name] for name in (*SCORED, *SHARES, *DIFFERENCE)} for s in summaries_of_plans]
    lists = {"proxy": proxy, "summaries": list(summaries), "absent": list(absent), "rows": list(rows)}
    data = {**head, "plans": plans, **lists}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(_lines(data), encoding="utf-8")
    part.replace(file)


def _lines(data: Mapping[str, Any]) -> str:
    """JSON with one entry of each list or mapping per line: small, and readable in a diff."""
    parts = []
    for key, value in data.items():
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join("  " + json.dumps(v, ensure_ascii=False) for v in value) + "\n ]"
        elif key == "plans":
            entries = [f'  "{digest}": {json.dumps(entry, ensure_ascii=False)}' for digest, entry in value.items()]
            text = "{\n" + ",\n".join(entries) + "\n }"
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f' "{key}": {text}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read_table(file: Path) -> dict[str, Any]:
    """A table that `write_table` wrote. Raises InputError for any other file."""
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not {"model", "plans", "summaries", "rows"} <= set(data):
            raise InputError(f"{file}: is no quality table")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is no quality table ({error})") from error
    return data


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    """The tidy rows without their nested parts, for spreadsheets."""
    flat = [{k: v for k, v in row.items() if not isinstance(v, dict | list)} for row in rows]
    columns = list(dict.fromkeys(k for row in flat for k in row))
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(flat)
