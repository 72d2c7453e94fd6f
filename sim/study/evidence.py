"""Results that speak about a strategy without being its quality: other settings, other models, other benchmarks."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from sim.plans.plan import SkipPlan
from sim.study.quality import FOLDER, Quality, published, quality_of

SAME = "same plan"  # on another benchmark or with other weights
SMALL = "small model"  # trained by this project; its magnitudes are its own
OTHER = "other setting"
FRAME = {
    "strategy": pl.String,
    "plan_digest": pl.String,
    "evidence": pl.String,  # quality, or one of the kinds below
    "quality": pl.Float64,
    "quality_low": pl.Float64,
    "quality_high": pl.Float64,
    "how": pl.String,
    "measured_model": pl.String,
    "measured_strategy": pl.String,
    "benchmark": pl.String,
    "conditions": pl.String,
    "source": pl.String,
}


@dataclass(frozen=True)
class Evidence:
    """A result and how near it is to what was asked."""

    kind: str
    result: Quality


def evidence(plan: SkipPlan, model: str, folder: Path = FOLDER) -> list[Evidence]:
    """What is known beside the quality of the plan on the model, nearest first.

    Warnings of the same plan; where the plan itself has no result, those published for the same strategies with the
    nearest shares skipped; and what the same strategies did to the project's small models, raw and adapted, which
    ranks strategies and says nothing about this model's loss. Raises InputError as `qualities` does.
    """
    if plan.is_dense:
        return []
    own = [q for q, plans in published(folder) if q.model == model and plan.digest in {p.digest for p in plans}]
    found = [Evidence(SAME, q) for q in own if q.warning]
    if quality_of(plan, model, folder) is None:
        found += [Evidence(OTHER, q) for q in _nearest(plan, _others(plan, folder))]
    return found + [Evidence(SMALL, q) for entries in proxies(folder) for q in _nearest(plan, _alike(plan, entries))]


def quality_frame(plans: Iterable[SkipPlan], model: str, folder: Path = FOLDER) -> pl.DataFrame:
    """All that is known, tidy: one row per plan and result, the plan's own quality first (FRAME)."""
    rows = []
    for plan in plans:
        own = quality_of(plan, model, folder)
        listed = [Evidence("quality", own)] if own and not plan.is_dense else []
        for e in [*listed, *evidence(plan, model, folder)]:
            q = e.result
            values = (plan.name, plan.digest, e.kind, q.score, q.low, q.high, q.how, q.model, q.strategy)
            rows.append(dict(zip(FRAME, (*values, q.benchmark, q.conditions, q.source))))
    return pl.DataFrame(rows, schema=FRAME)


def phrases(known: pl.DataFrame) -> list[tuple[str, str]]:
    """(strategy, what is known beside its own quality) of a `quality_frame`, each result with whose it is."""
    beside = known.filter(pl.col("evidence") != "quality")
    said: dict[str, list[str]] = {}
    for r in beside.iter_rows(named=True):
        words = [r["measured_strategy"]] * (r["evidence"] != SAME) + [r["benchmark"]] * (r["evidence"] != SMALL)
        where = ", ".join([f"{r['evidence']}: {r['measured_model']}", *words])
        said.setdefault(r["strategy"], []).append(f"{r['quality']:.3f} {r['how']} ({where})")
    return [(strategy, "; ".join(texts)) for strategy, texts in said.items()]


def strategies_of(name: str) -> frozenset[str]:
    """The strategies that a plan's name joins, without their arguments."""
    return frozenset(part.partition(":")[0] for part in name.split("+"))


def shares_of(plan: SkipPlan) -> "Shares":
    """What plans of different depth are compared by: shares skipped of prompts and of decode, share of caches."""
    return plan.prompt_skip, plan.nominal_skip, plan.caches.size / plan.layers


Shares = tuple[float, float, float]
Found = tuple[Quality, tuple[Shares, ...]]


def _others(plan: SkipPlan, folder: Path) -> list[Found]:
    return _alike(plan, [(q, tuple(shares_of(p) for p in plans)) for q, plans in published(folder)])


def _alike(plan: SkipPlan, found: Iterable[Found]) -> list[Found]:
    """Results of the same strategies."""
    mine = strategies_of(plan.name)
    return [(q, shares) for q, shares in found if strategies_of(q.strategy.partition(" ")[0]) == mine]


def _nearest(plan: SkipPlan, found: Sequence[Found]) -> list[Quality]:
    """All results of the one setting whose shares are the nearest; of equally near ones the first."""
    mine = np.array(shares_of(plan))

    def away(one: Found) -> float:
        return round(min(float(np.abs(mine - shares).sum()) for shares in one[1]), 3)

    near = min(found, key=away)[0].strategy if found else ""
    return [q for q, _ in found if q.strategy == near]


@cache
def proxies(folder: Path = FOLDER) -> tuple[tuple[Found, ...], ...]:
    """What each small model's table says by strategy and shares skipped. Raises InputError as `qualities` does."""
    return tuple(tuple(_proxy(json.loads(p.read_text(encoding="utf-8")))) for p in sorted(folder.glob("*.json")))


def _proxy(data: dict[str, Any]) -> Iterator[Found]:
    base = Quality(0.0, str(data["benchmark"]), str(data["source"]), "measured", model=str(data["model"]))
    for e in data.get("proxy", ()):
        name, dense = f"{e['strategy']} {e['setting']}".strip(), float(e["dense"])
        low, high = (1 + float(e[f"difference_{end}"]) / dense for end in ("low", "high"))
        made = replace(base, score=float(e["score"]) / dense, weights=str(e["weights"]), low=low, high=high)
        shares = (float(e["prompt_skip"]), float(e["decode_skip"]), float(e["kv_caches"]))
        yield replace(made, strategy=name, conditions="ranks strategies; not this model's loss"), (shares,)
