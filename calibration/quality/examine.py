"""One model under one plan, examined: what it said, and what it would have said after the right beginning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.quality.answers import Answers, ask
from calibration.quality.forced import Forced, forced, perplexity
from calibration.quality.grade import agreement, collapsed, interval, mcnemar, paired, wilson
from calibration.quality.tasks.item import Item
from calibration.quality.tasks.orders import obeyed
from calibration.quality.vocabulary import Vocabulary
from engine.adapt_folder import read_twin
from sim.plans.plan import SkipPlan

PLACES = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 8), (8, 10**9))  # output positions that are reported together
Row = dict[str, Any]


@dataclass(frozen=True)
class Sheet:
    """The answers to all items, in order."""

    items: Sequence[Item]
    answers: Answers
    forced: list[Forced]

    @property
    def right(self) -> list[bool]:
        """Which answers are the right ones, token for token, end included."""
        return [tuple(said) == item.answer for said, item in zip(self.answers.tokens, self.items)]

    @property
    def disagreements(self) -> int:
        """Items on which the engine and its twin differ.

        Greedy decoding gives the right answer exactly when every token is the likeliest after the right beginning, so
        what the engine says is right must be what the twin scores right: rounding aside, this is zero.
        """
        scored = [bool(f.right.all()) for f in self.forced]
        return sum(a != b for a, b, item in zip(scored, self.right, self.items) if not item.prose)

    def of(self, task: str) -> list[int]:
        """Numbers of a task's items."""
        return [i for i, item in enumerate(self.items) if item.task == task]


def examine(folder: Path, items: Sequence[Item], plan: SkipPlan, *, rows: int, device: str = "cpu") -> Sheet:
    """The sheet of a model's folder under a plan. Raises InputError for no items, PlanError for another depth."""
    answers = ask(folder, items, plan, rows=rows, device=device)
    return Sheet(items, answers, forced(read_twin(folder, device=device), items, plan))


def task_rows(sheet: Sheet, dense: Sheet, vocabulary: Vocabulary, *, seed: int) -> Iterator[Row]:
    """One row per task: exact match with its interval and its paired difference to dense, and what lies beneath."""
    for task in dict.fromkeys(item.task for item in sheet.items):
        which = sheet.of(task)
        rng = np.random.default_rng([seed, len(which)])
        mine, theirs = [sheet.forced[i] for i in which], [dense.forced[i] for i in which]
        row: Row = {"task": task, "n": len(which)}
        if not sheet.items[which[0]].prose:
            row |= _exact(sheet, dense, which, rng) | {"by_facet": _by_facet(sheet, which)}
        row |= {"perplexity": perplexity(mine), "perplexity_dense": perplexity(theirs)}
        row |= _ratio(mine, theirs, rng)
        row["forced_accuracy"] = _mean([s.right for s in mine])
        row["forced_agreement"] = _mean([a.best == b.best for a, b in zip(mine, theirs)])
        row["agreement"] = float(np.mean([agreement(sheet.answers.tokens[i], dense.answers.tokens[i]) for i in which]))
        row["collapse"] = float(np.mean([collapsed(sheet.answers.tokens[i], sheet.items[i].answer) for i in which]))
        row["by_position"] = _by_position(mine)
        if task == "order":
            row["constraints"] = _constraints(sheet, which, vocabulary)
        yield {name: round(v, 5) if isinstance(v, float) else v for name, v in row.items()}


def _exact(sheet: Sheet, dense: Sheet, which: list[int], rng: np.random.Generator) -> Row:
    right, before = sheet.right, dense.right
    count, pair = sum(right[i] for i in which), paired([right[i] for i in which], [before[i] for i in which])
    low, high = wilson(count, len(which))
    difference_low, difference_high = interval(pair.resampled(rng))
    said = [sheet.answers.tokens[i] for i in which]
    return {
        "right": count,
        "exact": count / len(which),
        "low": low,
        "high": high,
        "dense": sum(before[i] for i in which) / len(which),
        "difference": pair.difference,
        "difference_low": difference_low,
        "difference_high": difference_high,
        "lost": pair.lost,
        "gained": pair.gained,
        "p": mcnemar(pair.lost, pair.gained),
        "unended": float(np.mean([tokens[-1] != sheet.items[i].answer[-1] for i, tokens in zip(which, said)])),
    }


def _ratio(mine: list[Forced], theirs: list[Forced], rng: np.random.Generator) -> Row:
    """Interval of perplexity over dense's, bootstrapped over items."""
    loss = np.array([[-a.logprob.sum(), -b.logprob.sum(), len(a.logprob)] for a, b in zip(mine, theirs)])
    drawn = loss[rng.integers(0, len(loss), (1000, len(loss)))].sum(axis=1)
    low, high = interval(np.exp((drawn[:, 0] - drawn[:, 1]) / drawn[:, 2]))
    return {"perplexity_ratio_low": low, "perplexity_ratio_high": high}


def _by_position(scores: list[Forced]) -> dict[str, float]:
    """Share of answer tokens that are right after the right beginning, by place in the answer."""
    out = {}
    for low, high in PLACES:
        there = [s.right[low:high] for s in scores if len(s.right) > low]
        if there:
            out[f"{low}" if high == low + 1 else f"{low}-{high - 1}" if high < 10**9 else f"{low}+"] = _mean(there)
    return out


def _by_facet(sheet: Sheet, which: list[int]) -> dict[str, list[int]]:
    """Right answers and items by facet, where facets repeat (distances, lengths, carries)."""
    groups: dict[str, list[int]] = {}
    for i in which:
        groups.setdefault(sheet.items[i].facet, []).append(i)
    if len(groups) > len(which) / 3:
        return {}
    right = sheet.right
    return {facet: [sum(right[i] for i in groups[facet]), len(groups[facet])] for facet in sorted(groups)}


def _constraints(sheet: Sheet, which: list[int], vocabulary: Vocabulary) -> dict[str, float]:
    met = [obeyed(sheet.items[i], vocabulary.text(sheet.answers.tokens[i])) for i in which]
    return {name: round(float(np.mean([m[name] for m in met])), 5) for name in met[0]}


def _mean(parts: Sequence[Any]) -> float:
    return round(float(np.concatenate(parts).mean()), 5)
