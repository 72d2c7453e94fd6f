"""The engine under traffic on its own clock: requests come when they come, and every token's time is written down.

Rates are shares of what the engine itself sustains: a run in which everybody is there at once says how much that is.
Nothing here needs the simulator, so the record can be made on one machine and compared on another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.measure_steps import engine_facts, engine_for
from calibration.provenance import clocks_as_found, provenance
from calibration.setting import Setting, model_facts
from calibration.timing import Clock
from calibration.watch import watched
from engine.llm import LLM
from engine.loading import free_memory
from engine.sampler import SamplingParams
from sim.errors import InputError
from sim.plans.model import ModelShape
from sim.workload.arrivals import arrivals_named
from sim.workload.generate import streams
from sim.workload.lengths import quantiles_named

Ints = NDArray[np.int64]
UNIFORM = "uniform"
DRAWN = 20  # requests drawn for each one that is kept, at most


@dataclass(frozen=True)
class Traffic:
    """Who asks: so many requests, their lengths, how they arrive, at which shares of the engine's capacity."""

    requests: int = 200
    lengths: str = "azure-conv"  # or uniform: prompts to half of the longest, outputs to a quarter
    arrivals: str = "gamma:cv=1.5"
    shares: tuple[float, ...] = (0.3, 0.5, 0.8, 1.0)
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.requests < 2 or self.repeats < 1:
            raise InputError(f"{self.requests} requests, {self.repeats} repeats: need at least 2 and 1")
        if not self.shares or not all(0 < share <= 2 for share in self.shares):
            raise InputError(f"shares {list(self.shares)}: must lie in 0..2 of the engine's capacity")
        arrivals_named(self.arrivals, 1.0)

    def tokens(self, longest: int) -> tuple[Ints, Ints]:
        """Prompt and output tokens, [requests]; of measured lengths those that fit, the others are passed over."""
        rng = streams(self.seed)
        if self.lengths == UNIFORM:
            low, most = max(1, longest // 16), max(1, longest // 4)
            prompts = rng.prompts.integers(2 * low, 2 * most, self.requests, endpoint=True)
            return prompts, rng.outputs.integers(low, most, self.requests, endpoint=True)
        prompts, outputs = quantiles_named(self.lengths).draw(DRAWN * self.requests, rng.prompts, rng.outputs)
        fit = np.flatnonzero(prompts + outputs <= longest)[: self.requests]
        if fit.size < self.requests:
            raise InputError(f"lengths {self.lengths!r}: too few requests fit into {longest} tokens; use uniform")
        return prompts[fit], outputs[fit]

    def arrival_ns(self, rate_per_s: float) -> Ints:
        """When they come, [requests]."""
        return arrivals_named(self.arrivals, rate_per_s)(self.requests, streams(self.seed).arrivals)


@dataclass(frozen=True)
class Times:
    """When each request got its first and its last token, ns after the first arrival, [requests]."""

    first_ns: Ints
    last_ns: Ints


def record(
    model: str | ModelShape,
    settings: Sequence[Setting],
    traffic: Traffic,
    *,
    device: str,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Every plan at every share of its own capacity, as often as asked: settings, requests and times."""
    runs: list[dict[str, Any]] = []
    head: dict[str, Any] = {}
    for setting in settings:
        llm = engine_for(model, setting, device)
        head = head or provenance(("torch", "triton", "numpy")) | clocks_as_found() | model_facts(llm.config.shape)
        prompts, outputs = traffic.tokens(setting.max_context)
        all_at_once = np.zeros(traffic.requests, dtype=np.int64)
        play(llm, all_at_once, prompts, outputs, seed=0)  # warms up
        with watched(llm) as watch:
            busy = play(llm, all_at_once, prompts, outputs, seed=1)
        capacity = traffic.requests / (busy.last_ns.max() / 1e9)
        tell(f"{setting.plan}: {capacity:.3g} requests per second at most")
        about = {"setting": vars(setting) | watch.facts(), **engine_facts(llm), "capacity_per_s": capacity}
        for share in traffic.shares:
            arrivals = traffic.arrival_ns(share * capacity)
            times = [play(llm, arrivals, prompts, outputs, seed=2 + n) for n in range(traffic.repeats)]
            columns = {"arrival_ns": arrivals, "prompt_tokens": prompts, "output_tokens": outputs}
            runs.append(
                about | {"share": share} | {name: x.tolist() for name, x in columns.items()}
                | {"times": [{name: x.tolist() for name, x in vars(one).items()} for one in times]}
            )  # fmt: skip
        held_on = llm.engine.device
        del llm
        free_memory(held_on)
    return {"head": head, "traffic": vars(traffic), "runs": runs}


def play(llm: LLM, arrival_ns: Ints, prompts: Ints, outputs: Ints, *, seed: int) -> Times:
    """The requests, served as they come, with random tokens."""
    engine, rng = llm.engine, np.random.default_rng(seed)
    tokens = [rng.integers(2, llm.config.shape.vocab, n).tolist() for n in prompts]
    params = [SamplingParams(max_tokens=int(n), ignore_eos=True) for n in outputs]
    mine: list[int] = []
    clock = engine.clock
    assert isinstance(clock, Clock)
    started = clock()
    while len(mine) < len(tokens) or engine.busy:
        while len(mine) < len(tokens) and arrival_ns[len(mine)] <= clock() - started:
            request = llm.add(tokens[len(mine)], params[len(mine)])
            engine.asked.arrival_ns[request] = started + arrival_ns[len(mine)]  # not when the loop came round to it
            mine.append(request)
        if engine.busy:
            llm.step()
        else:
            clock.wait_until(started + int(arrival_ns[len(mine)]))
    events = llm.events()
    return Times(events["first_token_ns"][mine] - started, events["last_token_ns"][mine] - started)
