"""Requests as a planner describes them: lengths and an arrival process, with the rate and the seed left open.

Rates of one seed use common random numbers: the same requests in the same order, only their gaps stretched, so that
two rates, and two strategies, differ in nothing else.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from sim.errors import InputError
from sim.workload.arrivals import Arrivals, Offline, arrivals_named
from sim.workload.generate import named_workload, streams, synthetic
from sim.workload.lengths import RangeRatio
from sim.workload.workload import Workload

RESAMPLED_BLOCKS = 30


class Load(ABC):
    """A kind of traffic; `at` gives it a rate."""

    name: str

    @abstractmethod
    def draw(self, arrivals: Arrivals, seed: int) -> Workload:
        """The requests of a seed, arriving as the process says."""

    @abstractmethod
    def at(self, qps: float, seed: int = 0) -> Workload:
        """The requests of a seed at a rate; raises InputError for a rate that is not positive."""

    def together(self, seed: int = 0) -> Workload:
        """The requests of a seed, all there at time 0."""
        return self.draw(Offline(), seed)

    def in_loop(self, concurrency: int, seed: int = 0) -> Workload:
        """The requests of a seed in a closed loop: at most so many in the system, the next enters when one leaves."""
        if concurrency < 1:
            raise InputError(f"concurrency is {concurrency}; a closed loop needs at least 1 request in flight")
        return replace(self.together(seed), concurrency=concurrency)

    def alone(self, requests: int, seed: int = 0) -> Workload:
        """The first requests of a seed, one after the other: what no queue and no batch mate slows down."""
        work = self.in_loop(1, seed)
        return work.take(min(requests, len(work)))


@dataclass(frozen=True)
class NamedLoad(Load):
    """Traffic with a shipped table of measured lengths ("azure-conv")."""

    name: str
    requests: int
    arrivals: str = "poisson"

    def draw(self, arrivals: Arrivals, seed: int) -> Workload:
        return named_workload(self.name, requests=self.requests, arrivals=arrivals, seed=seed)

    def at(self, qps: float, seed: int = 0) -> Workload:
        return self.draw(arrivals_named(self.arrivals, qps), seed)


@dataclass(frozen=True)
class LengthLoad(Load):
    """Traffic with given lengths, jittered by a range ratio as benchmark tools do."""

    prompt_tokens: int
    output_tokens: int
    requests: int
    range_ratio: float = 0.0
    arrivals: str = "poisson"

    @property
    def name(self) -> str:  # type: ignore[override]
        """The lengths."""
        return f"{self.prompt_tokens} in, {self.output_tokens} out"

    def draw(self, arrivals: Arrivals, seed: int) -> Workload:
        prompts = RangeRatio(self.prompt_tokens, self.range_ratio)
        outputs = RangeRatio(self.output_tokens, self.range_ratio)
        return synthetic(
            requests=self.requests, arrivals=arrivals, prompts=prompts, outputs=outputs, seed=seed, name=self.name
        )

    def at(self, qps: float, seed: int = 0) -> Workload:
        return self.draw(arrivals_named(self.arrivals, qps), seed)


@dataclass(frozen=True)
class TraceLoad(Load):
    """Recorded traffic: seed 0 is the trace itself, every other seed a resample of its contiguous blocks.

    A trace with prefix hashes keeps its requests, since sharing lives in their order: of it, the gaps alone are drawn
    again, block by block. With `arrivals` its own arrival times are forgotten and drawn anew.
    """

    trace: Workload
    arrivals: str | None = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The trace's name."""
        return self.trace.name

    def draw(self, arrivals: Arrivals, seed: int) -> Workload:
        trace = self._resampled(seed)
        return replace(trace, arrival_ns=arrivals(len(trace), streams(seed).arrivals))

    def at(self, qps: float, seed: int = 0) -> Workload:
        if self.arrivals is not None:
            return self.draw(arrivals_named(self.arrivals, qps), seed)
        return self._resampled(seed).scaled_to(qps)

    def _resampled(self, seed: int) -> Workload:
        trace, n = self.trace, len(self.trace)
        if seed == 0:
            return trace
        size = -(-n // RESAMPLED_BLOCKS)
        starts = streams(seed).joint.integers(0, n, RESAMPLED_BLOCKS)
        pick = ((starts[:, None] + np.arange(size)) % n).reshape(-1)[:n]
        gaps = np.diff(trace.arrival_ns, prepend=0)
        gaps[0] = round(trace.arrival_ns[-1] / max(1, n - 1))  # the first request has no gap of its own
        arrival_ns = np.cumsum(gaps[pick])
        again = replace(trace, arrival_ns=arrival_ns - arrival_ns[0])
        if trace.hash_ids is not None:
            return again
        return replace(again, prompt_tokens=trace.prompt_tokens[pick], output_tokens=trace.output_tokens[pick])
