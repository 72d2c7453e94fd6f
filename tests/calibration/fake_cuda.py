"""As much of torch.cuda as timing uses, on a CPU: a graph replays the launches that were made while it was captured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

NS_PER_LAUNCH = 5_000


class FakeCuda:
    """Counts launches; the device takes NS_PER_LAUNCH for each of them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.launches = 0
        self.capturing: list[Callable[[], object]] | None = None
        self.heads = 0
        for name, value in {
            "Stream": Nothing, "current_stream": Nothing, "stream": lambda _: nullcontext(), "graph": self.capture,
            "synchronize": lambda: None, "CUDAGraph": lambda: FakeGraph(self), "_sleep": self.sleep,
            "Event": lambda **_: FakeEvent(self),
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, name, value, raising=False)

    def launch(self, work: Callable[[], object]) -> None:
        """A kernel: captured, or run."""
        if self.capturing is not None:
            self.capturing.append(work)
            return
        self.launches += 1
        work()

    @contextmanager
    def capture(self, graph: "FakeGraph") -> Iterator[None]:
        """What is launched meanwhile is the graph's."""
        self.capturing = graph.nodes
        yield
        self.capturing = None

    def sleep(self, cycles: int) -> None:
        """A head start for the host."""
        self.heads += 1


class Nothing:
    """A stream without a device."""

    def wait_stream(self, other: Any) -> None:
        """There is nothing to wait for."""


class FakeGraph:
    """Launches that were captured."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.nodes: list[Callable[[], object]] = []

    def replay(self) -> None:
        """All of them, in order."""
        for node in self.nodes:
            self.cuda.launch(node)


class FakeEvent:
    """A moment on the device's clock, which only launches move."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.at = 0

    def record(self) -> None:
        """Now."""
        self.at = self.cuda.launches

    def synchronize(self) -> None:
        """It is over already."""

    def elapsed_time(self, other: "FakeEvent") -> float:
        """Milliseconds to another event."""
        return (other.at - self.at) * NS_PER_LAUNCH / 1e6
