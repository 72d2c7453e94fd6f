"""Where points are computed: this process, a pool of processes, or a Ray cluster. The answers are the same."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any

from sim.errors import InputError
from sim.study.pool import executor

AUTO = "auto"
MOST_PENDING = 512  # jobs handed out at a time: each may carry a trace
PATIENCE_S = 5.0  # Ray itself waits for minutes before it calls an address unreachable


def runner(workers: int | None, ray: str | None) -> AbstractContextManager[Executor | None]:
    """Where to compute: so many processes (default: one per core; None for one), or a Ray cluster.

    `ray` is the address of a cluster, or "auto": the one that runs here or that RAY_ADDRESS names, else one that is
    started for the purpose. Raises InputError without Ray, and for a cluster that does not answer.
    """
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    if ray is None:
        return executor(workers or os.cpu_count() or 1)
    return _on_ray(ray, workers)


def each(
    pool: Executor | None, function: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]]
) -> Iterator[tuple[str, Any]]:
    """The name and the answer of each job, as they come. Raises InputError where a process died."""
    if pool is None:
        for name, arguments in jobs.items():
            yield name, function(*arguments)
        return
    left = iter(jobs.items())
    pending: dict[Future[Any], str] = {}
    try:
        while True:
            for name, arguments in islice(left, MOST_PENDING - len(pending)):
                pending[pool.submit(function, *arguments)] = name
            if not pending:
                return
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield pending.pop(future), future.result()
    except BrokenExecutor as cause:
        raise InputError(
            "a worker process died, out of memory perhaps; what is done is kept: give the same command again, with"
            " fewer --workers"
        ) from cause


class _Tasks(Executor):
    """Ray's tasks as futures."""

    def __init__(self, ray: Any) -> None:
        self._call = ray.remote(_call)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        future: Future[Any] = self._call.remote(function, arguments, named).future()
        return future


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    return function(*arguments, **named)


@contextmanager
def _on_ray(address: str, workers: int | None) -> Iterator[Executor]:
    try:
        import ray
    except ImportError as cause:
        raise InputError("--ray needs Ray: pip install 'elide[cluster]'") from cause
    _connect(ray, address, workers)
    try:
        yield _Tasks(ray)
    except ray.exceptions.RayError as cause:
        said = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
        raise InputError(
            f"Ray gave up ({said}); every machine needs elide, in this version; what is done is kept"
        ) from cause
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, workers: int | None) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    if address != AUTO and workers is not None:
        raise InputError("--workers is for a pool or for a cluster that is started here; the one at --ray has its own")
    if address != AUTO:
        _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as cause:
        if address != AUTO or "RAY_ADDRESS" in os.environ:
            raise InputError(f"no Ray cluster answers at {address}: {' '.join(str(cause).split())}") from cause
        ray.init(address="local", num_cpus=workers or os.cpu_count(), include_dashboard=False, **quiet)


def _check_reachable(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--ray {address}: say auto, HOST:PORT, or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE_S).close()
    except (OSError, OverflowError) as cause:
        raise InputError(f"no Ray cluster answers at {address} ({cause}); start one with `ray start --head`") from cause
