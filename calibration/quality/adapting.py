"""Adapting a folder for a plan with our tasks or any text: which method, on what, how fast."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from calibration.provenance import provenance
from calibration.quality.sampling import held_out, packed, training_step
from calibration.quality.sizes import size_of
from calibration.quality.suite import need_of
from calibration.quality.tasks import tasks_of
from calibration.quality.vocabulary import Vocabulary
from calibration.quality.world import FILE, read_world
from engine.adapt import Adapted, Batches, Recipe, distil_swift_kv, fine_tune
from engine.adapt_data import Example, Texts, read_jsonl, texts_of
from engine.adapt_folder import tokenizer_of
from engine.config import read_config
from sim.errors import InputError
from sim.plans.plan import SkipPlan

RECORD = "adapted.json"
DISTIL = Recipe(steps=100, adam_lr=2e-3)  # the published optimiser, ten times its rate for a model this small
TUNE = Recipe(steps=160, adam_lr=1e-3, lr=0.005, betas=(0.9, 0.95))
Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Source:
    """What is trained on, and what is only measured."""

    batches: Batches
    held: list[Texts]
    text: str  # in words


def adapt_to(
    folder: Path,
    out: Path,
    plan: SkipPlan,
    source: Source,
    *,
    distil: Recipe = DISTIL,
    tune: Recipe = TUNE,
    device: str = "cpu",
    progress: Progress = lambda step, text: None,
) -> list[Adapted]:
    """Write the model that the plan wants to `out`, with `adapted.json` beside its weights.

    Moved keys are distilled as SwiftKV is, left-out layers fine-tuned as SkipDecode is, and where a plan has both
    the one comes before the other. Raises InputError where a plan wants neither.
    """
    need, done = need_of(plan), []
    if need == "nothing":
        raise InputError(f"plan {plan.name!r} runs every layer on its own keys: there is nothing to adapt to")
    if need.startswith("distil"):
        keep = int(plan.kv_input[-1])
        group = int(np.bincount(plan.kv_owner).max())
        done.append(
            distil_swift_kv(
                folder,
                out,
                keep=keep,
                group=group,
                batches=source.batches,
                held=source.held,
                recipe=distil,
                device=device,
                progress=progress,
            )
        )
    if need.endswith("tune"):
        start = out if done else folder
        done.append(
            fine_tune(
                start,
                out,
                plan=plan,
                batches=source.batches,
                held=source.held,
                recipe=tune,
                device=device,
                progress=progress,
            )
        )
    if (folder / FILE).exists():
        read_world(folder).write(out)
    record: dict[str, object] = {"from": folder.resolve().name, "text": source.text}
    record |= {"stages": [asdict(d) for d in done], "recipes": {"distil": _recipe(distil), "tune": _recipe(tune)}}
    record["provenance"] = provenance()
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return done


def _recipe(recipe: Recipe) -> dict[str, object]:
    return {name: str(value) if isinstance(value, torch.dtype) else value for name, value in vars(recipe).items()}


def task_source(folder: Path, *, seed: int) -> Source:
    """Our tasks in the world that the model's folder names: trained on one split, measured on the calibrate split."""
    size, vocabulary = size_of(folder), Vocabulary(read_world(folder))
    tasks = tasks_of(vocabulary)

    def batches(step: int) -> list[Texts]:
        items = training_step(tasks, size.adapt_mix, seed=seed + 1, step=step)
        return packed(items, tokens=size.batch_tokens, widths=size.widths)

    kept = held_out(tasks, "calibrate", count=32, seed=seed)
    held = packed(kept, tokens=size.batch_tokens, widths=size.widths)
    return Source(batches, held, f"the tasks' training split, {sum(size.adapt_mix.values())} rows per step")


def text_source(folder: Path, file: Path, *, seed: int, rows: int = 8, max_tokens: int = 512) -> Source:
    """A jsonl file of any text; every tenth example is held out. Raises InputError for a folder without tokenizer."""
    most = min(max_tokens, read_config(folder).shape.max_context)
    examples = read_jsonl(file, tokenizer_of(folder), max_tokens=most)
    if len(examples) < 2:
        raise InputError(f"{file}: gives {len(examples)} example; one to train on and one to measure on are needed")
    held, kept = examples[::10], [e for i, e in enumerate(examples) if i % 10]

    def batches(step: int) -> list[Texts]:
        chosen = np.random.default_rng([seed, step]).integers(0, len(kept), rows)
        return [texts_of([kept[i] for i in chosen])]

    parts: list[list[Example]] = [held[i : i + rows] for i in range(0, len(held), rows)]
    return Source(batches, [texts_of(part) for part in parts], f"{file.name}, {len(kept)} examples, {rows} per step")


def scaled(recipe: Recipe, *, steps: int | None, lr: float | None) -> Recipe:
    """A recipe with other steps, or another AdamW rate (Muon's moves along)."""
    factor = 1.0 if lr is None else lr / recipe.adam_lr
    return replace(
        recipe,
        steps=recipe.steps if steps is None else steps,
        adam_lr=recipe.adam_lr * factor,
        lr=recipe.lr * factor,
    )
