"""Which questions are asked: a mix for every training step, a fixed set for every evaluation, all from seeds."""

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
from torch.nn.functional import pad

from calibration.quality.tasks import Item, Split, Task
from engine.adapt_data import Texts, texts_of
from sim.errors import InputError


def held_out(tasks: Mapping[str, Task], split: Split, *, count: int, seed: int, only: Sequence[str] = ()) -> list[Item]:
    """`count` different prompts per task of a split, in the order of the tasks. Raises InputError for an empty set.

    A task that has fewer different prompts (facts about few people) gives what it has.
    """
    if count < 1:
        raise InputError(f"an evaluation of {count} items per task is empty; ask for at least 1")
    chosen = [name for name in tasks if not only or name in only]
    return [item for name in chosen for item in _distinct(tasks[name], split, count, seed)]


def _distinct(task: Task, split: Split, count: int, seed: int) -> list[Item]:
    rng = np.random.default_rng([seed, crc32(task.name.encode()), crc32(split.encode())])
    found: dict[tuple[int, ...], Item] = {}
    for _ in range(20 * count):
        item = task.draw(rng, split)
        found.setdefault(item.prompt, item)
        if len(found) == count:
            break
    return list(found.values())


def training_step(tasks: Mapping[str, Task], mix: Mapping[str, int], *, seed: int, step: int) -> list[Item]:
    """The items of one step: `mix` says how many of each task. A function of seed and step alone, so runs resume."""
    rng = np.random.default_rng([seed, 7, step])
    return [tasks[name].draw(rng, "train") for name, count in mix.items() for _ in range(count)]


def packed(items: Sequence[Item], *, tokens: int, widths: Sequence[int], full: bool = False) -> list[Texts]:
    """The items as batches of about `tokens` padded tokens, of one of `widths` each: short rows do not pay for long.

    Answers count, prompts do not. With `full` every batch has all its rows, empty ones behind: a compiled model then
    meets one shape per width.
    """
    batches = []
    for narrower, width in zip((0, *widths), widths):
        rows = [i for i in items if narrower < len(i.prompt) + len(i.answer) <= width]
        each = max(1, tokens // width)
        for start in range(0, len(rows), each):
            texts = texts_of([(i.prompt, i.answer) for i in rows[start : start + each]], width=width)
            batches.append(_filled(texts, each) if full else texts)
    return batches


def _filled(texts: Texts, rows: int) -> Texts:
    missing = rows - len(texts.prompt)
    tokens, counted = (pad(part, (0, 0, 0, missing)) for part in (texts.tokens, texts.counted))
    return Texts(tokens, pad(texts.prompt, (0, missing), value=1), counted)
