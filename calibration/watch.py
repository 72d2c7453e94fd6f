"""Watches on an engine's own functions: what the processor spends on a step, and what the gate lets past."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from engine.batch import Batch
from engine.forward import Outcome
from engine.llm import LLM

OWN = ("_launch", "_complete", "_emit")  # the engine's functions that never wait for the device


class Watch:
    """What was seen since the watch began."""

    def __init__(self, llm: LLM) -> None:
        self.launched: list[tuple[float, float]] = []  # by iteration: host ns, of which in the forward pass
        self.gate = llm.plan.gate
        self._clock = llm.engine.clock
        self._host = self._forward = 0.0
        self._tokens = 0.0  # past the gate's warm-up, those included that run in full
        self._skipped: Tensor | None = None

    def facts(self) -> dict[str, Any]:
        """The share of generated tokens that skipped each layer's FFN, where the plan has a gate."""
        if self.gate is None:
            return {}
        counts: Sequence[float] = self._skipped.tolist() if self._skipped is not None else [0.0] * len(self.gate.skip)
        return {"gate_skip": [round(count / max(1.0, self._tokens), 4) for count in counts]}

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The engine's function, its time booked; an iteration ends with its `_complete`."""

        def run(*arguments: Any) -> Any:
            started = self._clock()
            try:
                return call(*arguments)
            finally:
                self._host += self._clock() - started
                if name == "_complete":
                    self.launched.append((self._host, self._forward))
                    self._host = self._forward = 0.0

        return run

    def forward(self, call: Callable[[Batch], Outcome]) -> Callable[[Batch], Outcome]:
        """The forward pass, its time and its gate booked."""

        def run(batch: Batch) -> Outcome:
            started = self._clock()
            outcome = call(batch)
            self._forward += self._clock() - started
            self._note_gate(batch, outcome)
            return outcome

        return run

    def _note_gate(self, batch: Batch, outcome: Outcome) -> None:
        if self.gate is None or outcome.gate is None or batch.eligible is None:
            return
        eligible = batch.eligible.bool()
        skipped = (~outcome.gate.active[:, : len(eligible)].bool() & eligible).sum(1)
        self._skipped = skipped if self._skipped is None else self._skipped + skipped
        self._tokens += float(eligible.sum()) * self.gate.cadence / max(1, self.gate.cadence - 1)


@contextmanager
def watched(llm: LLM) -> Iterator[Watch]:
    """A watch on the engine, taken off again at the end."""
    engine, watch = llm.engine, Watch(llm)
    forward = engine.forward
    engine.forward = watch.forward(forward)  # type: ignore[assignment]
    for name in OWN:
        setattr(engine, name, watch.timed(name, getattr(engine, name)))
    try:
        yield watch
    finally:
        engine.forward = forward
        for name in OWN:
            delattr(engine, name)
