"""What launching costs: the host for each kernel, the device between the nodes of a graph and between graphs."""

from collections.abc import Callable

import torch

from calibration.items import Item
from calibration.timing import Clock, Spread, between, spread_of
from engine.kernels.act import relu

SAMPLES, LAUNCHES = 15, 200  # launches that a queue holds without making the host wait
ELEMENTS = 1024


def launched(item: Item, device: torch.device) -> Spread:
    """Host nanoseconds of launching one small kernel, of torch's or of the engine's."""
    launch, clock, samples = _small(str(item["kernel"]), device), Clock(device), []
    for _ in range(SAMPLES + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = clock()
        for _ in range(LAUNCHES):
            launch()
        samples.append((clock() - started) / LAUNCHES)
    return spread_of(samples[1:], "host")


def replayed(item: Item, device: torch.device) -> tuple[Spread, Spread]:
    """Device nanoseconds of a chain of graphs of small kernels, and the host's to launch it."""
    launch, clock = _small("engine", device), Clock(device)
    graphs = [_captured(launch, item["kernels"]) for _ in range(item["graphs"])]

    def chain() -> None:
        for graph in graphs:
            graph.replay()

    chain()
    spans = [between(chain) for _ in range(SAMPLES)]
    host = []
    for _ in range(SAMPLES):
        torch.cuda.synchronize()
        started = clock()
        chain()
        host.append(float(clock() - started))
    return spread_of(spans, "graph"), spread_of(host, "host")


def _small(kernel: str, device: torch.device) -> Callable[[], object]:
    x = torch.ones(ELEMENTS, device=device)
    return (lambda: relu(x)) if kernel == "engine" else (lambda: x.mul_(1.0))


def _captured(launch: Callable[[], object], kernels: int) -> torch.cuda.CUDAGraph:
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(kernels):
            launch()
    return graph
