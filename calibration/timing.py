"""How long a launch takes: replays of a CUDA graph between events on a GPU, the thread's own time on a CPU.

On a GPU many launches are captured into one graph, each on the next set of buffers, so that what the engine reads from
memory is not found in a cache; a launch's time contains the gap to the next kernel, as `sim.cost.times` counts it.
After timing, the outputs are poisoned with NaN and written once more: a kernel that leaves a hole was not measured.

On a CPU, where one thread does all the work, what other programs take from the machine does not count.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns, sleep, thread_time_ns
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sim.errors import ElideError

REPLAYS, WARM_REPLAYS = 15, 3
GRAPH_NS = 3e6  # least duration of one replay, where launches are short
MOST_LAUNCHES = 512
SAMPLES, SAMPLE_NS = 15, 3e5  # on a CPU
SPIN_NS = 2_000_000  # waits shorter than that are not slept through
LONG_NS = 5e7  # launches that take longer are timed fewer times
HEAD_START = 1_000_000  # cycles that the GPU idles first, so that the host's launches are there when it begins


class BrokenKernel(ElideError, RuntimeError):
    """A kernel that left part of its output unwritten, or wrote NaN."""


class Clock:
    """The time of a device's host in ns: the world's beside a GPU; on a CPU the thread's own, and waits are jumped."""

    def __init__(self, device: torch.device) -> None:
        self._world = device.type == "cuda"
        self._jumped = 0

    def __call__(self) -> int:
        """Now."""
        return perf_counter_ns() if self._world else thread_time_ns() + self._jumped

    def wait_until(self, due_ns: int) -> None:
        """None, when it is that late."""
        while (left := due_ns - self()) > 0:
            if not self._world:
                self._jumped += left
            elif left > SPIN_NS:
                sleep((left - SPIN_NS) / 1e9)


@dataclass(frozen=True)
class Op:
    """A launch on the i-th of several sets of buffers, and the tensors that each launch fills."""

    run: Callable[[int], object]
    sets: int
    outputs: Sequence[Tensor] = ()


@dataclass(frozen=True)
class Spread:
    """Nanoseconds of one launch: quantiles over so many samples, and how they were taken."""

    p20_ns: float
    p50_ns: float
    p80_ns: float
    samples: int
    method: str


class Timer(Protocol):
    """What times an op on one kind of device."""

    def __call__(self, op: Op) -> Spread:
        """The spread of its time. Raises BrokenKernel."""


def spread_of(samples: Sequence[float], method: str) -> Spread:
    """The quantiles of samples in ns."""
    low, middle, high = np.quantile(samples, (0.2, 0.5, 0.8))
    return Spread(float(low), float(middle), float(high), len(samples), method)


def timer_for(device: torch.device) -> Timer:
    """The timer of a device."""
    return on_gpu if device.type == "cuda" else on_cpu


@torch.inference_mode()
def on_cpu(op: Op) -> Spread:
    """Samples of enough consecutive launches for a clock to tell."""
    for i in range(2):
        op.run(i % op.sets)
    once = _elapsed(op, 1)
    launches = int(np.clip(SAMPLE_NS / once, 1, MOST_LAUNCHES))
    samples = [_elapsed(op, launches) / launches for _ in range(_count(SAMPLES, once * launches))]
    _check(op, lambda: op.run(0))
    return spread_of(samples, "thread")


def _elapsed(op: Op, launches: int) -> float:
    """Nanoseconds of so many launches."""
    started = thread_time_ns()
    for i in range(launches):
        op.run(i % op.sets)
    return float(thread_time_ns() - started)


def _count(most: int, each_ns: float) -> int:
    """Samples to take: fewer where each is long."""
    return int(np.clip(most * LONG_NS / max(each_ns, 1.0), 3, most))


@torch.inference_mode()
def on_gpu(op: Op) -> Spread:
    """Samples of graph replays."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for i in range(2):
            op.run(i % op.sets)
        once = between(lambda: op.run(0))
    torch.cuda.current_stream().wait_stream(stream)
    launches = int(np.clip(GRAPH_NS / max(once, 1.0), 1, MOST_LAUNCHES))
    if once * op.sets < LONG_NS:
        launches = max(launches, min(op.sets, MOST_LAUNCHES))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            op.run(i % op.sets)
    for _ in range(WARM_REPLAYS):
        graph.replay()
    samples = [between(graph.replay) / launches for _ in range(_count(REPLAYS, once * launches))]
    _check(op, graph.replay)
    return spread_of(samples, "graph")


def between(launch: Callable[[], object]) -> float:
    """Nanoseconds on the device from before a launch to behind it."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]
    torch.cuda._sleep(HEAD_START)  # type: ignore[no-untyped-call]
    first.record()
    launch()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) * 1e6


def _check(op: Op, again: Callable[[], object]) -> None:
    """Raises BrokenKernel where a fresh launch leaves NaN in an output."""
    for output in op.outputs:
        output.fill_(float("nan"))
    again()
    for output in op.outputs:
        if output.isnan().any():
            raise BrokenKernel(f"an output of shape {list(output.shape)} was not written in full")
