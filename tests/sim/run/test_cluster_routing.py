"""INV-66: routers choose what they say they choose."""

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sim.errors import InputError, UnknownName
from sim.run.cluster import Fleet, RequestClass, Tier
from sim.run.fleet_result import FleetResult
from sim.run.metrics import Slo
from sim.run.simulate import Simulation
from sim.run.traffic import batch_of
from sim.serving.config import SchedulerConfig
from sim.workload.arrivals import Constant, Poisson
from sim.workload.generate import shared_prefix, synthetic
from sim.workload.lengths import Fixed
from sim.workload.workload import Workload
from tests.sim.run.cases import simulations
from tests.sim.run.fleets import fleet_of, group_of, tiny, toy

many = simulations(loops=False, frontend=False, max_requests=24)


def others_there(result: FleetResult, replicas: int) -> tuple[np.ndarray, np.ndarray]:
    """Outstanding requests of each replica as each request came, [n, replicas], and the replica it went to, [n]."""
    frame = result.requests
    assert frame is not None
    assume((frame["status"] == "done").all())
    at, end, where = (frame[c].to_numpy() for c in ("arrival_ns", "last_token_ns", "replica"))
    there = np.zeros((at.size, replicas), dtype=np.int64)
    for k in range(at.size):
        there[k] = np.bincount(where[:k][end[:k] >= at[k]], minlength=replicas)
    return there, where


@given(many, st.integers(2, 4))
def test_least_goes_where_fewest_are(simulation: Simulation, replicas: int) -> None:
    there, where = others_there(fleet_of(simulation, replicas, "least").run(simulation.workload), replicas)
    assert (there[np.arange(where.size), where] == there.min(axis=1)).all()


@given(many, st.integers(2, 4))
def test_the_power_of_two_choices_takes_the_better_of_the_two_it_draws(simulation: Simulation, replicas: int) -> None:
    there, where = others_there(fleet_of(simulation, replicas, "p2c").run(simulation.workload), replicas)
    luck = batch_of(simulation.workload, [1.0], simulation.seed).luck
    first, second = (luck[:, 0] * replicas).astype(int), (luck[:, 1] * (replicas - 1)).astype(int)
    second += second >= first
    rows = np.arange(where.size)
    better = np.where(there[rows, first] <= there[rows, second], first, second)
    assert (where == better).all()


@given(many, st.integers(1, 4), st.integers(1, 3))
def test_nobody_is_sent_where_the_limit_is_reached(simulation: Simulation, replicas: int, limit: int) -> None:
    fleet = fleet_of(simulation, replicas, "least", classes=[RequestClass(tiers=[Tier(limit=limit)])])
    frame = fleet.run(simulation.workload).requests
    assert frame is not None
    assume(not (frame["status"] == "refused").any())
    done = frame.filter(pl.col("status") == "done")
    for row in frame.iter_rows(named=True):
        before = done.filter((pl.col("request") < row["request"]) & (pl.col("last_token_ns") >= row["arrival_ns"]))
        there = [before.filter(pl.col("replica") == i).height for i in range(replicas)]
        assert (min(there) < limit) == (row["status"] == "done")


def test_prefixes_find_their_replica() -> None:
    """With time between requests a shared prefix is computed once per fleet, not once per replica."""
    work = shared_prefix(
        requests=300, arrivals=Constant(1.0), groups=6, prefix_tokens=64, suffixes=Fixed(9), outputs=Fixed(3)
    )
    simulation = toy(work, SchedulerConfig(prefix_caching=True))
    aware, blind = (fleet_of(simulation, 4, router).run(work) for router in ("kv", "round_robin"))
    assert aware.requests is not None
    cold = aware.requests.filter(pl.col("cached_tokens") == 0)
    assert len(cold) == 6
    assert aware.summary()["prefix_hit_share"] > blind.summary()["prefix_hit_share"]  # type: ignore[operator]


def test_load_weighs_against_prefixes() -> None:
    """Where everybody shares one prefix, the replica that holds it does not get everybody."""
    work = shared_prefix(
        requests=400, arrivals=Poisson(3e4), groups=1, prefix_tokens=64, suffixes=Fixed(9), outputs=Fixed(40)
    )
    frame = fleet_of(toy(work, SchedulerConfig(prefix_caching=True)), 4, "kv").run(work).requests
    assert frame is not None
    assert frame["replica"].value_counts()["count"].min() > 50


def test_cleared_slots_keep_their_prefixes() -> None:
    """INV-63 where requests hold shared prefixes while older ones are cleared away."""
    work = shared_prefix(
        requests=120, arrivals=Poisson(2e4), groups=3, prefix_tokens=48, suffixes=Fixed(20), outputs=Fixed(12)
    )
    fleet = fleet_of(toy(work, SchedulerConfig(prefix_caching=True, max_num_seqs=4)), 2, "kv")
    roomy = fleet.run(work).requests
    with tiny():
        tight = fleet.run(work).requests
    assert roomy is not None
    assert tight is not None
    assert roomy.equals(tight)
    assert roomy["cached_tokens"].sum() > 0


def test_classes_go_where_they_are_sent_and_spill_in_order() -> None:
    work = synthetic(requests=3000, arrivals=Poisson(2e4), prompts=Fixed(20), outputs=Fixed(10))
    one = toy(work)
    groups = [group_of(one, 1, "good"), group_of(one, 2, "fast")]
    classes = [
        RequestClass("paid", 0.25, Slo(), [Tier(("good",))]),
        RequestClass("free", 0.75, Slo(), [Tier(("fast",), limit=3), Tier(("good",), limit=5)]),
    ]
    result = Fleet(groups, classes, "least").run(work)
    frame = result.requests
    assert frame is not None
    share = (frame["class"] == "paid").mean()
    assert share == pytest.approx(0.25, abs=0.03)
    assert set(frame.filter(pl.col("class") == "paid")["group"].cast(pl.String)) == {"good"}
    rows = {row["class"]: row for row in result.classes.iter_rows(named=True)}
    assert rows["paid"]["completed"] == (frame["class"] == "paid").sum()
    assert rows["free"]["completed"] + rows["free"]["shed"] == (frame["class"] == "free").sum()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"router": "leest"}, "did you mean 'least'"),
        ({"kv_weight": -1.0}, "kv_weight"),
        ({"classes": [RequestClass(tiers=[Tier(("nobody",))])]}, "unknown group"),
        ({"classes": [RequestClass("a"), RequestClass("a")]}, "there twice"),
    ],
)
def test_what_no_fleet_can_be_is_refused(change: dict[str, object], says: str) -> None:
    work = Workload(np.zeros(1), np.ones(1), np.ones(1))
    with pytest.raises(InputError, match=says):
        fleet_of(toy(work), 1, **change)  # type: ignore[arg-type]
    assert issubclass(UnknownName, InputError)


def test_a_closed_loop_and_an_empty_fleet_are_refused() -> None:
    work = Workload(np.zeros(4), np.ones(4), np.ones(4), concurrency=2)
    with pytest.raises(InputError, match="closed loop"):
        fleet_of(toy(work), 1).run(work)
    with pytest.raises(InputError, match="at least one replica"):
        fleet_of(toy(work), 0)
