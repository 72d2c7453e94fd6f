"""Engine and simulator emit the same iterations for the same requests, when every iteration takes as long in both.

The price of an iteration is planted on both sides: a number made of its rows. The simulator runs its own loop on its
own clock; the engine is fed the same arrivals by that price. Compared is all that the scheduler decides: request, first
position and tokens of every row, in order; start and end of every iteration; and the times of every request.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim.run.replica as loop
from engine.columns import Prefixes
from engine.llm import LLM
from engine.loop import Engine
from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.times import times_for
from sim.plans.strategies import compose, dense, ffn_skip, skip_decode, swift_kv
from sim.run.simulate import Simulation
from sim.serving.columns import N_ROWS, State
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload
from tests.engine.tinies import folder_of, greedy, llm_of, prompts_of
from tests.gen import scheduler_configs

SHAPE = llm_of("llama-gqa").config.shape
PLANS = (
    dense(SHAPE),
    swift_kv(SHAPE, keep=3, group=3),
    skip_decode(SHAPE, max_budget=6, min_budget=2, schedule_tokens=5),
    compose(swift_kv(SHAPE, keep=2, group=2), skip_decode(SHAPE, max_budget=4, min_budget=2, schedule_tokens=4)),
    ffn_skip(SHAPE, run_length=2, threshold=0.7, cold_layers=1, warmup_tokens=1),
)
Rows = list[tuple[int, int, int]]
Iteration = tuple[int, int, Rows]


@dataclass(frozen=True)
class Cramped(Deployment):
    """A deployment with as much KV memory as the test says."""

    blocks: int = 0

    def kv_capacity_blocks(self, *_: Any, **__: Any) -> int:
        return self.blocks


class Planted:
    """The simulator's price of an iteration, and a record of what it was asked to price."""

    def __init__(self) -> None:
        self.rows: list[Rows] = []

    def tally(self, asked: Any, state: State, tables: Any, scratch: Any) -> None:
        self.rows.append(rows_of(state))

    def price_step(self, tables: Any, scratch: Any) -> int:
        return price(self.rows[-1])


class Priced:
    """An engine's forward pass that takes as long, on the engine's own clock, as its iteration is priced."""

    def __init__(self, engine: Engine) -> None:
        self.state = lambda: engine.state
        self.forward = engine.forward
        self.now = 0
        engine.forward, engine.clock = self, lambda: self.now

    def __call__(self, batch: Any) -> Any:
        outcome = self.forward(batch)
        self.now += price(rows_of(self.state()))
        return outcome


def rows_of(state: State) -> Rows:
    n = int(state.counts[N_ROWS])
    columns = (state.row_request, state.row_start, state.row_tokens)
    return list(zip(*(column[:n].tolist() for column in columns)))


def price(rows: Rows) -> int:
    """Nanoseconds of an iteration: any function of its rows will do."""
    return 500 + sum(37 * tokens + 3 * start + request for request, start, tokens in rows)


def simulated(simulation: Simulation) -> tuple[list[Iteration], np.ndarray]:
    planted = Planted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "tally", planted.tally)
        patch.setattr(loop, "price_step", planted.price_step)
        result = simulation.run(stepwise=True)
    starts = result.iterations["start_ns"].to_list()
    durations = result.iterations["duration_ns"].to_list()
    spans = [(start, start + ns, rows) for start, ns, rows in zip(starts, durations, planted.rows, strict=True)]
    state = result.state
    return spans, np.stack([state.scheduled_ns, state.first_token_ns, state.last_token_ns, state.preempted])


def executed(
    simulation: Simulation, prompts: list[list[int]], blocks: int, *, pipelined: bool = False
) -> tuple[list[Iteration], np.ndarray]:
    """The same on the engine, its clock moved by the price of each iteration."""
    work = simulation.workload
    llm = LLM(
        folder_of("llama-gqa"),
        plan=simulation.plan,
        device="cpu",
        scheduler=simulation.config,
        kv_blocks=blocks,
        pipelined=pipelined,
    )
    engine, spans = llm.engine, []
    replica = simulation._replica(times_for(simulation.deployment.gpu.name))
    seen = [int(loop.seen_ns(replica, i)) for i in range(len(prompts))]
    clock = Priced(engine)
    engine.on_iteration = lambda start, end, rows: spans.append((start, end, rows))
    arrived = 0
    while arrived < len(prompts) or engine.busy:
        if not engine.busy:
            clock.now = max(clock.now, seen[arrived])
        while arrived < len(prompts) and seen[arrived] <= clock.now:
            llm.add(prompts[arrived], greedy(int(work.output_tokens[arrived])))
            arrived += 1
        llm.step()
    events = llm.events()
    return spans, np.stack([events[k] for k in ("scheduled_ns", "first_token_ns", "last_token_ns", "preemptions")])


def case(plan: Any, config: SchedulerConfig, prompts: list[list[int]], gaps: list[int], outputs: list[int], spare: int):
    """A simulation of these prompts, their prefix blocks named as the engine names them, and its KV blocks."""
    needs = [-(-(len(p) + o) // config.block_tokens) for p, o in zip(prompts, outputs)]
    prefixes = Prefixes(plan, config.block_tokens)
    ids = [prefixes.ids(p) for p in prompts]
    partial = [[] if len(p) % config.block_tokens == 0 else [1000 + i] for i, p in enumerate(prompts)]
    ids = [np.append(full, tail).astype(np.int64) for full, tail in zip(ids, partial)]
    hashes = {
        "hash_ids": np.concatenate(ids),
        "hash_offsets": np.cumsum([0] + [i.size for i in ids]),
        "hash_block_tokens": config.block_tokens,
    }
    work = Workload(
        arrival_ns=np.cumsum(gaps),
        prompt_tokens=np.array([len(p) for p in prompts]),
        output_tokens=np.array(outputs),
        **(hashes if config.prefix_caching else {}),
    )
    blocks = max(needs) + spare
    deployment = Cramped(SHAPE, gpu_named("h200"), blocks=blocks)
    return Simulation(work, deployment, plan, config), blocks


def compare(
    plan: Any, config: SchedulerConfig, prompts: list[list[int]], gaps: list[int], outputs: list[int], spare: int
):
    simulation, blocks = case(plan, config, prompts, gaps, outputs, spare)
    iterations, times = simulated(simulation)
    for pipelined in (False, True):
        same_iterations, same_times = executed(simulation, prompts, blocks, pipelined=pipelined)
        assert same_iterations == iterations
        assert (same_times == times).all()
    return times


@pytest.mark.parametrize("policy", ["chunked", "prefill_first", "static"])
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_same_iterations(plan, policy, prefix_caching):
    prefix = prompts_of(12, seed=1)[0]
    prompts = [prefix + tail for tail in prompts_of(2, 9, 4, 1, 8, 3)]
    config = SchedulerConfig(
        policy=policy, max_num_seqs=4, max_num_batched_tokens=16, block_tokens=4, prefix_caching=prefix_caching
    )
    times = compare(plan, config, prompts, [0, 100, 0, 900, 2500, 10], [9, 7, 12, 1, 8, 10], spare=3)
    if plan is PLANS[0] and policy == "chunked" and not prefix_caching:
        assert times[3].sum() > 0, "memory was meant to be short enough for preemptions"


@settings(max_examples=20)
@given(st.data())
def test_same_iterations_whatever_the_limits(data):
    n = data.draw(st.integers(1, 6))
    lengths = data.draw(st.lists(st.integers(1, 20), min_size=n, max_size=n))
    shared = prompts_of(16, seed=2)[0]
    cut = data.draw(st.lists(st.integers(0, 16), min_size=n, max_size=n))
    prompts = [shared[:c] + p for c, p in zip(cut, prompts_of(*lengths, seed=3))]
    gaps = data.draw(st.lists(st.integers(0, 3000), min_size=n, max_size=n))
    outputs = data.draw(st.lists(st.integers(1, 8), min_size=n, max_size=n))
    plan, config = data.draw(st.sampled_from(PLANS)), data.draw(scheduler_configs())
    compare(plan, config, prompts, gaps, outputs, spare=data.draw(st.integers(0, 6)))
