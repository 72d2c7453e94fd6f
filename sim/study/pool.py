"""Independent jobs over processes: the same answers in the same order as one after the other."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

from sim.errors import InputError

Job = tuple[Callable[..., Any], tuple[Any, ...]]
Ticker = Callable[[str], None]


@contextmanager
def executor(workers: int) -> Iterator[Executor | None]:
    """A pool of so many processes, or None for one. Children are spawned: forking a process with threads can hang.

    Raises InputError for none at all.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_the_parent) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_all(pool: Executor | None, jobs: Sequence[tuple[str, Job]], tick: Ticker) -> list[Any]:
    """The answers of the jobs in their order; `tick` is told each job's name as its answer is in."""
    if pool is None:
        answers = []
        for name, (function, arguments) in jobs:
            answers.append(function(*arguments))
            tick(name)
        return answers
    futures = [pool.submit(function, *arguments) for _, (function, arguments) in jobs]
    for (name, _), future in zip(jobs, futures):
        future.add_done_callback(partial(_ticked, tick, name))
    return [future.result() for future in futures]


def _ticked(tick: Ticker, name: str, future: "Future[Any]") -> None:
    if not future.cancelled() and future.exception() is None:
        tick(name)


def _follow_the_parent() -> None:
    """Leave interrupts to the parent, and end when it has ended: a pool whose parent is killed would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
