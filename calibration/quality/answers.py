"""Answers that the engine generates: greedy, batched, through its scheduler and paged cache, under any plan."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.quality.tasks.item import Item
from engine.llm import LLM
from engine.sampler import SamplingParams
from sim.errors import InputError
from sim.plans.plan import SkipPlan
from sim.serving.config import SchedulerConfig

SPARE = 12  # tokens beyond the right answer's length: enough to see an answer that does not end
REALISED = ("skip_requested", "weight_bytes_skip_realised", "kv_read_skip_realised", "draft_acceptance")


@dataclass(frozen=True)
class Answers:
    """What was said to each item, and what the engine saved on the way."""

    tokens: list[list[int]]
    realised: dict[str, float]
    iterations: int
    notes: tuple[str, ...]


def ask(
    folder: Path, items: Sequence[Item], plan: SkipPlan, *, rows: int, device: str = "cpu", dtype: str = "float32"
) -> Answers:
    """The answers to items, at most `rows` at once.

    Raises InputError for no items or a model without the prompts' tokens, PlanError for a plan of another depth.
    """
    if not items:
        raise InputError("there is nothing to ask; the evaluation set is empty")
    scheduler = SchedulerConfig(max_num_seqs=rows, max_num_batched_tokens=max(2048, 16 * rows))
    llm = LLM(folder, plan=plan, device=device, dtype=dtype, scheduler=scheduler, kv_blocks=_blocks(items, plan, rows))
    each = [SamplingParams(max_tokens=len(i.answer) + (0 if i.prose else SPARE), ignore_eos=i.prose) for i in items]
    done = llm.generate([i.prompt for i in items], each, progress=True)
    failed = [c.error for c in done if c.error]
    if failed:
        raise InputError(f"{folder}: {failed[0]}")
    summary = llm.metrics.summary()
    return Answers([c.token_ids for c in done], realised_of(summary), int(summary["iterations"]), llm.notes)


def realised_of(summary: dict[str, Any]) -> dict[str, float]:
    """What was asked to be skipped, and the bytes that were in fact not read, as shares of a dense run's."""
    return {name: round(float(summary[name]), 4) for name in REALISED}


def _blocks(items: Sequence[Item], plan: SkipPlan, rows: int) -> int:
    """Blocks of 16 tokens of all caches for that many of the longest sequences: memory is not what is tested here."""
    longest = max(len(i.prompt) + len(i.answer) + SPARE for i in items)
    return rows * (longest // 16 + 2)
