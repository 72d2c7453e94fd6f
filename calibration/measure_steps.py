"""Whole iterations of the engine under a plan: bursts of requests, each step timed from the end of the one before.

A burst's iterations follow from its lengths alone, never from how long they take, so the same step of every repeat is
one observation, and the simulator can be made to walk through the same steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.items import Burst, Item
from calibration.setting import Setting, blocks_for
from calibration.timing import Clock, spread_of
from calibration.watch import Watch, watched
from engine.llm import LLM
from engine.loading import free_memory
from engine.metrics import Metrics
from engine.sampler import SamplingParams
from sim.plans.model import ModelShape

METRICS = (
    "skip_requested", "weight_bytes_skip_realised", "kv_read_skip_realised", "ffn_blocks_gated", "graph_hits",
    "graph_misses",
)  # fmt: skip
Rows = list[tuple[int, int, int]]


@dataclass
class Steps:
    """Runs bursts on one model; the engine of the last plan is kept for the next burst."""

    model: str | ModelShape  # folder, or a shape for random weights
    device: str
    budget: int  # most tokens of a step
    bursts: Sequence[Burst]  # all that will come: an engine has room for each of them
    repeats: int = 3
    _made_for: Setting | None = None
    _llm: LLM | None = field(default=None, repr=False)

    def rows(self, item: Item) -> list[dict[str, Any]]:
        """A row per iteration of the burst with the spread over repeats, and one of the burst as a client sees it."""
        burst, setting = Burst.of(item), self._setting(item)
        llm = self._engine(setting)
        sizes = dict(item.sizes) | vars(setting) | engine_facts(llm)
        run_burst(llm, burst, seed=0)
        known = llm.metrics
        llm.engine.metrics = Metrics(known.shape, known.weight_size, known.kv_size)
        with watched(llm) as watch:
            runs = [run_burst(llm, burst, seed=1 + repeat, watch=watch) for repeat in range(self.repeats)]
        found = [
            {"op": "step", **sizes, "iteration": i, **same[0].load(burst.prompt), **_times(same)}
            for i, same in enumerate(zip(*(run.iterations for run in runs), strict=True))
        ]
        summary = {name: llm.metrics.summary()[name] for name in METRICS} | watch.facts()
        latency = {name: float(np.median([getattr(run, name) for run in runs])) for name in ("ttft_ns", "tpot_ns")}
        whole = vars(spread_of([run.ns for run in runs], "engine"))
        return [*found, {"op": "burst", **sizes, **latency, **whole, **summary}]

    def _setting(self, item: Item) -> Setting:
        slots, longest = int(item["slots"]), max(burst.longest for burst in self.bursts)
        blocks = max(blocks_for(burst.tokens, slots) for burst in self.bursts)
        return Setting(str(item["plan"]), str(item["policy"]), slots, self.budget, longest, blocks)

    def _engine(self, setting: Setting) -> LLM:
        if self._llm is None or setting != self._made_for:
            self.drop()
            self._llm, self._made_for = engine_for(self.model, setting, self.device), setting
        return self._llm

    def drop(self) -> None:
        """Give the engine's memory back, if there is one."""
        if self._llm is not None:
            device, self._llm = self._llm.engine.device, None
            free_memory(device)


def engine_for(model: str | ModelShape, setting: Setting, device: str) -> LLM:
    """The engine of a setting, with memory for every slot's longest request, on the clock of its device."""
    llm = LLM(
        model,
        plan=setting.plan,
        device=device,
        scheduler=setting.scheduler,
        kv_blocks=setting.kv_blocks,
        max_context=setting.max_context,
    )
    llm.engine.clock = Clock(llm.device)
    return llm


def engine_facts(llm: LLM) -> dict[str, Any]:
    """What else decides how long a step takes."""
    captured = llm.device.type == "cuda"
    return {"digest": llm.plan.digest, "pipelined": int(llm.engine.pipelined), "graphs": int(captured)}


@dataclass(frozen=True)
class Iteration:
    """One step: how long, what it held, and the processor's time in it: all of it, and in the forward pass alone."""

    ns: float
    rows: Rows
    host_ns: float
    forward_ns: float

    def load(self, prompt: int) -> dict[str, int]:
        """What it held, where all prompts have so many tokens."""
        decoding = [start + 1 for _, start, tokens in self.rows if tokens == 1 and start >= prompt]
        tokens = sum(tokens for _, _, tokens in self.rows)
        return {
            "sequences": len(self.rows), "tokens": tokens, "prompt_tokens": tokens - len(decoding),
            "decodes": len(decoding), "decode_context": sum(decoding),
        }  # fmt: skip


def _times(same: Sequence[Iteration]) -> dict[str, Any]:
    host, forward = (float(np.median([getattr(one, name) for one in same])) for name in ("host_ns", "forward_ns"))
    return vars(spread_of([one.ns for one in same], "engine")) | {"host_ns": host, "forward_ns": forward}


@dataclass(frozen=True)
class Run:
    """One burst: its iterations, and what a client saw."""

    iterations: list[Iteration]
    ttft_ns: float
    tpot_ns: float

    @property
    def ns(self) -> float:
        """From the arrival of all to the last token."""
        return float(sum(one.ns for one in self.iterations))


def run_burst(llm: LLM, burst: Burst, seed: int, watch: Watch | None = None) -> Run:
    """The burst, served once, with random prompts."""
    engine, rng = llm.engine, np.random.default_rng(seed)
    prompts = rng.integers(2, llm.config.shape.vocab, (burst.requests, burst.prompt)).tolist()
    ended: list[tuple[int, Rows]] = []
    engine.on_iteration = lambda _, end_ns, rows: ended.append((end_ns, rows))
    mine = [llm.add(p, SamplingParams(max_tokens=n, ignore_eos=True)) for p, n in zip(prompts, burst.outputs)]
    started, first = engine.clock(), len(watch.launched) if watch else 0
    while engine.busy:
        llm.step()
    engine.on_iteration = None
    spans = np.diff([started, *(end for end, _ in ended)]).astype(float).tolist()
    spent = watch.launched[first:] if watch else [(0.0, 0.0)] * len(spans)
    events = llm.events()
    told = events["first_token_ns"][mine]
    each = (events["last_token_ns"][mine] - told) / np.maximum(1, events["output_tokens"][mine] - 1)
    steps = [Iteration(ns, rows, *both) for ns, (_, rows), both in zip(spans, ended, spent, strict=True)]
    return Run(steps, float(told.mean() - started), float(each.mean()))
