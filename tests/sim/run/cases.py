"""Small runs: a toy model on a toy GPU whose memory is a few blocks, under any plan, policy and workload."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from sim.cost.deployment import Frontend
from sim.plans.model import ModelShape
from sim.plans.plan import KV, SkipPlan
from sim.run.replica import (
    DELIVERED,
    GAPS,
    LOGGED,
    NEXT,
    NOW,
    STEP_END,
    STEP_START,
    Replica,
    admit_arrivals,
    begin_step,
    book_step,
    finish_step,
    seen_ns,
)
from sim.run.simulate import Simulation
from sim.serving.columns import N_ROWS
from tests.gen import models, plans, scheduler_configs, workloads
from tests.planted import Planted
from tests.sim.cost.steps import deployments, sources

CONTEXT = 44
frontends = st.just(Frontend()) | st.builds(
    Frontend,
    request_ns=st.integers(0, 50_000),
    request_gap_ns=st.integers(0, 50_000),
    stream_token_ns=st.just(0) | st.integers(0, 5_000),
)


@st.composite
def simulations(
    draw: st.DrawFn,
    *,
    of: Callable[[ModelShape], st.SearchStrategy[SkipPlan]] = plans,
    policies: tuple[str, ...] = ("chunked", "prefill_first", "static"),
    loops: bool = True,
    frontend: bool = True,
    max_requests: int = 10,
) -> Simulation:
    """A run that may refuse, preempt, share prefixes, draft, and stop and go."""
    model = draw(models(max_layers=4))
    chosen = draw(of(model))
    assume(chosen.caches.size > 0)
    config = draw(scheduler_configs(policies=policies))
    hash_tokens = config.block_tokens * draw(st.integers(1, 2)) if config.prefix_caching else 0
    assume(not hash_tokens or not (chosen.prompt & ~chosen.sampled & KV)[chosen.caches].any())
    gap_ns = draw(st.sampled_from((100, 100_000, 3_000_000)))
    work = draw(workloads(hash_tokens=hash_tokens, max_requests=max_requests, gap_ns=gap_ns, loops=loops))
    longest = int((work.prompt_tokens + work.output_tokens).max()) // config.block_tokens + 1
    blocks = max(1, longest + draw(st.integers(-1, longest)))
    on = replace(
        draw(deployments(model)),
        kv_blocks=-(-blocks * chosen.caches.size // model.layers),
        frontend=draw(frontends) if frontend else Frontend(),
    )
    return Simulation(
        work,
        on,
        chosen,
        config,
        times=draw(sources),
        max_context=CONTEXT,
        oversized="refuse",
        seed=draw(st.integers(0, 3)),
    )


@dataclass(frozen=True)
class Step:
    """One iteration as an observer at its side saw it."""

    start_ns: int
    end_ns: int
    delivered_ns: int
    rows: list[tuple[int, int, int]]  # request, first position, tokens
    emitted: dict[int, int]  # tokens by request


def replay(simulation: Simulation, watch: Callable[[Replica, str], None] = lambda replica, when: None) -> list[Step]:
    """The run's iterations, stepped through by hand without a simulator; `watch` sees each when "scheduled" and "done".

    It knows the replica only by what the engine's loop would call.
    """
    replica = simulation._replica(simulation.times or Planted())
    clock, state = replica.clock, replica.state
    steps = []
    while True:
        admit_arrivals(replica)
        watch(replica, "arrived")
        if not begin_step(replica):
            if clock[NEXT] == replica.asked.arrival_ns.size:
                return steps
            clock[NOW] = seen_ns(replica, clock[NEXT])
            continue
        watch(replica, "scheduled")
        columns = (state.row_request, state.row_start, state.row_tokens)
        rows = list(zip(*(column[: state.counts[N_ROWS]].tolist() for column in columns)))
        before, start, end = state.generated.copy(), int(clock[STEP_START]), int(clock[STEP_END])
        book_step(replica, 0)
        finish_step(replica)
        clock[LOGGED] = clock[GAPS] = 0
        gained = state.generated - before
        emitted = {int(r): int(gained[r]) for r in np.flatnonzero(gained)}
        steps.append(Step(start, end, int(clock[DELIVERED]), rows, emitted))
        watch(replica, "done")
