"""Small fleets for the laws: the toy runs of `cases`, several of them behind a router."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.plans.model import ModelShape
from sim.plans.strategies import dense
from sim.run import member, seat
from sim.run.cluster import Control, Fleet, Group
from sim.run.dispatch import ROUTERS
from sim.run.fleet_result import FleetResult
from sim.run.result import Result
from sim.run.simulate import Simulation
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload
from tests.planted import Planted
from tests.sim.cost.steps import GPU

routers = st.sampled_from(ROUTERS)


def group_of(simulation: Simulation, replicas: int, name: str = "all") -> Group:
    """Replicas that are what the simulation runs on."""
    return Group(
        name,
        simulation.deployment,
        simulation.plan,
        replicas,
        simulation.config,
        simulation.times,
        simulation.max_context,
    )


def fleet_of(simulation: Simulation, replicas: int, router: str = "round_robin", **settings: object) -> Fleet:
    """So many replicas of a simulation's kind."""
    groups = [group_of(simulation, replicas)]
    return Fleet(groups, router=router, oversized="refuse", seed=simulation.seed, **settings)  # type: ignore[arg-type]


def share_of(work: Workload, first: int, step: int) -> Workload | None:
    """Every `step`-th request from the `first` on, arriving when they did; None where there are none."""
    rows = np.arange(first, len(work), step)
    if not rows.size:
        return None
    columns = {name: getattr(work, name)[rows] for name in ("arrival_ns", "prompt_tokens", "output_tokens")}
    if work.hash_ids is None:
        return replace(work, **columns)
    own = list(work.hashes())
    offsets = np.concatenate([[0], np.cumsum([own[i].size for i in rows])])
    return replace(work, **columns, hash_ids=np.concatenate([own[i] for i in rows]), hash_offsets=offsets)


@contextmanager
def tiny() -> Iterator[None]:
    """Seats with few slots and a log of one iteration: they fill up, and are cleared whenever anything is finished."""
    with mock.patch.multiple(seat, SLOTS=1, SHORT_LOG=2), mock.patch.multiple(member, CLEARED=10**6, FILLED=1):
        yield


def assert_same_run(one: Result, other: Result) -> None:
    """The same in every request and every iteration (prefix entries may be numbered otherwise)."""
    for name in ("status", "generated", "cached", "preempted", "scheduled_ns", "first_token_ns", "last_token_ns"):
        assert np.array_equal(getattr(one.state, name), getattr(other.state, name)), name
    assert np.array_equal(one.log, other.log)
    assert one.work == other.work
    assert sorted(one.logged.gaps_ns.tolist()) == sorted(other.logged.gaps_ns.tolist())
    assert one.requests.equals(other.requests)
    left, right = (dict(r.summary(), wall_s=0, kernel_times=0, workload=0) for r in (one, other))
    assert repr(left) == repr(right)


def toy(work: Workload, config: SchedulerConfig | None = None) -> Simulation:
    """A run on a toy GPU with planted kernel times and plenty of memory."""
    model = ModelShape("toy", "llama", 2, 16, 2, 2, 8, 32, 64, 4096, gated_ffn=True, tied_embeddings=True)
    on = Deployment(model, GPU, kv_blocks=10_000)
    return Simulation(work, on, dense(model), config or SchedulerConfig(), times=Planted(), max_context=4096)


def idle_day(day_ns: int, replicas: int, controls: Sequence[Control]) -> FleetResult:
    """A fleet that has two requests to serve, one at each end of a long time."""
    work = Workload(np.array([0, day_ns]), np.array([4, 4]), np.array([2, 2]))
    return fleet_of(toy(work), replicas, controls=controls).run(work)
