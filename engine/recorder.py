"""Writes down an engine's iterations as they land, for a trace of the same form as a simulated run's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from engine.config import ModelConfig
from engine.llm import LLM
from sim.errors import InputError
from sim.serving.columns import EVICTABLE, FREE
from sim.serving.trace import REQUESTS, Run, trace_text

ITERATIONS = ("start_ns", "duration_ns", "prompt_tokens", "decode_rows", "running", "waiting", "kv_share")


class Recorder:
    """The iterations and requests of an engine from now on.

    Where the host prepares an iteration while the device runs the one before, it starts when that one has ended.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._first = len(llm.engine.streams)
        self._rows: list[tuple[float, ...]] = []
        self._end_ns = 0
        llm.engine.on_iteration = self._note

    def run(self) -> Run:
        """What was recorded, under the plan's name; requests without a token are left out."""
        events = {name: column[self._first :] for name, column in self._llm.events().items()}
        served = events["last_token_ns"] > 0
        columns = zip(*self._rows) if self._rows else [()] * len(ITERATIONS)
        iterations = dict(zip(ITERATIONS, map(np.array, columns)))
        return Run(self._llm.plan.name, iterations, {name: events[name][served] for name in REQUESTS})

    def _note(self, start_ns: int, end_ns: int, rows: list[tuple[int, int, int]]) -> None:
        engine = self._llm.engine
        lengths = [len(engine.streams[request].prompt) for request, _, _ in rows]
        decoding = [start >= length for (_, start, _), length in zip(rows, lengths)]
        prompt = sum(tokens for (_, _, tokens), decodes in zip(rows, decoding) if not decodes)
        start_ns = max(start_ns, self._end_ns)
        self._end_ns = max(start_ns, end_ns)
        told = (start_ns, self._end_ns - start_ns, prompt, sum(decoding), len(rows), engine.waiting, self._kv_share())
        self._rows.append(told)

    def _kv_share(self) -> float:
        engine = self._llm.engine
        counts, knobs = engine.state.counts, engine.knobs
        return 1 - float(counts[FREE] + counts[EVICTABLE] * knobs.hash_units) / knobs.total_units


def write_trace(path: Path, runs: Sequence[Run], config: ModelConfig, device: str) -> None:
    """Write what was recorded as one Chrome trace; raises InputError where that cannot be done."""
    about = {"measured": config.shape.name, "device": device, "torch": torch.__version__}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trace_text(runs, about), encoding="utf-8")
    except OSError as cause:
        raise InputError(f"cannot write {path}: {cause.strerror or cause}") from cause
