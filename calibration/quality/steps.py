"""Training steps in order, prepared ahead by other processes where one cannot keep up."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import torch

from calibration.quality.sampling import packed, training_step
from calibration.quality.sizes import Size, size_named
from calibration.quality.tasks import Task, tasks_of
from calibration.quality.vocabulary import Vocabulary
from engine.adapt_data import Texts

AHEAD = 3  # steps per process that are under way


def prepared(
    size: Size, seed: int, steps: range, *, full: bool = False, workers: int = 0
) -> Iterator[tuple[int, list[Texts]]]:
    """(step, batches) of each step, the same whoever prepares them.

    With `workers` the size has to be one of the named ones, for processes are told its name.
    """
    if not workers:
        tasks = tasks_of(Vocabulary(size.world))
        for step in steps:
            yield step, _batches(size, tasks, seed, step, full=full)
        return
    spawned = get_context("spawn")  # a forked child would inherit CUDA
    with ProcessPoolExecutor(workers, spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending: deque[tuple[int, Future[list[Texts]]]] = deque()
        for step in steps:
            pending.append((step, pool.submit(_elsewhere, size.name, seed, step, full=full)))
            if len(pending) > AHEAD * workers:
                number, done = pending.popleft()
                yield number, done.result()
        for number, done in pending:
            yield number, done.result()


def _batches(size: Size, tasks: dict[str, Task], seed: int, step: int, *, full: bool) -> list[Texts]:
    items = training_step(tasks, size.mix, seed=seed, step=step)
    return packed(items, tokens=size.batch_tokens, widths=size.widths, full=full)


@cache
def _tasks(name: str) -> dict[str, Task]:
    return tasks_of(Vocabulary(size_named(name).world))


def _elsewhere(name: str, seed: int, step: int, *, full: bool) -> list[Texts]:
    return _batches(size_named(name), _tasks(name), seed, step, full=full)
