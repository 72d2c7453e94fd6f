"""Replicas that fail, drain, start and change their plan: nobody is lost, and nothing is served where nobody is."""

from dataclasses import replace
from unittest import mock

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.plans.strategies import dense
from sim.run import crew
from sim.run.autoscale import Autoscaler
from sim.run.cluster import Fleet, RequestClass, Tier
from sim.run.degrade import Ladder
from sim.run.failures import Outage, Outages
from sim.run.fleet_result import FleetResult
from sim.run.simulate import Simulation
from sim.run.watch import Watch
from sim.workload.workload import Workload
from tests.sim.run.cases import simulations
from tests.sim.run.fleets import fleet_of, group_of, idle_day, routers
from tests.sim.run.test_cluster import assert_same_fleet

crowds = simulations(loops=False, max_requests=24)
outages = st.builds(
    Outage,
    at_ns=st.integers(0, 3_000_000),
    slot=st.integers(0, 1),
    down_ns=st.none() | st.integers(0, 500_000),
    drain=st.booleans(),
)


@pytest.fixture(autouse=True, scope="module")
def _short_polls():
    """Toy runs last for milliseconds: so does the patience of whoever waits for a replica to be empty."""
    with mock.patch.object(crew, "POLL_NS", 50_000):
        yield


def check_nobody_is_lost(result: FleetResult, work: Workload) -> None:
    """INV-64, INV-65."""
    frame, summary = result.requests, result.summary()
    assert frame is not None
    assert frame["request"].to_list() == list(range(len(work)))
    assert summary["requests"] == len(work)
    statuses = dict(frame["status"].cast(pl.String).value_counts().iter_rows())
    names = {"done": "completed", "refused": "refused", "shed": "shed", "unserved": "unserved"}
    assert {names[s]: n for s, n in statuses.items()} == {n: summary[n] for n in names.values() if summary[n]}
    assert frame["arrival_ns"].to_list() == work.arrival_ns.tolist()
    served = frame.filter(pl.col("status") == "done")
    assert (served["routed_ns"] >= served["arrival_ns"]).all()
    assert (served["scheduled_ns"] >= served["routed_ns"]).all()
    for row in served.iter_rows(named=True):
        mine = result.replicas.filter(
            (pl.col("replica") == row["replica"])
            & (pl.col("group") == str(row["group"]))
            & (pl.col("ready_ns") <= row["routed_ns"])
            & (pl.col("down_ns") >= row["last_token_ns"])
        )
        assert len(mine) >= 1
    assert int(result.replicas["lost"].sum()) >= int((served["attempts"] - 1).sum())


@given(crowds, routers, st.lists(outages, max_size=4), st.integers(0, 200_000), st.none() | st.integers(1, 4))
def test_failures_and_drains_lose_nobody(
    simulation: Simulation, router: str, planned: list[Outage], notice_ns: int, limit: int | None
) -> None:
    """INV-62, INV-64, INV-65."""
    control = Outages(planned, notice_ns=notice_ns, startup_ns=100_000)
    classes = [RequestClass(tiers=[Tier(limit=limit)])]
    fleet = fleet_of(simulation, 2, router, controls=[control], classes=classes)
    result = fleet.run(simulation.workload)
    check_nobody_is_lost(result, simulation.workload)
    assert_same_fleet(result, fleet.run(simulation.workload, stepwise=True))


@settings(max_examples=30)
@given(crowds, routers, st.integers(50_000, 1_000_000))
def test_looking_changes_nothing(simulation: Simulation, router: str, every_ns: int) -> None:
    """INV-63."""
    alone = fleet_of(simulation, 2, router)
    watched = replace(alone, controls=[Watch(every_ns, ("all",))])
    assert_same_fleet(alone.run(simulation.workload), watched.run(simulation.workload))


@settings(max_examples=30)
@given(crowds, routers, st.floats(0.5, 4), st.floats(0.1, 1))
def test_a_ladder_loses_nobody_and_keeps_plans_apart(
    simulation: Simulation, router: str, up: float, moving: float
) -> None:
    """INV-64: replicas change their plan under load, and each life has one."""
    first = group_of(simulation, 3, "mild")
    second = replace(first, name="hard", plan=dense(first.deployment.model), replicas=0)
    ladder = Ladder((0, 1), up=up, down=up / 4, every_ns=100_000, hold_ns=200_000, moving=moving)
    fleet = Fleet([first, second], router=router, controls=[ladder], oversized="refuse", seed=simulation.seed)
    result = fleet.run(simulation.workload)
    check_nobody_is_lost(result, simulation.workload)
    lives = result.replicas
    assert (
        lives.group_by("replica").agg(pl.col("down_ns").shift(1) <= pl.col("launched_ns"))["down_ns"].list.all().all()
    )
    assert lives.filter(pl.col("launched_ns") == 0)["group"].to_list() == ["mild"] * 3


@settings(max_examples=30)
@given(crowds, st.sampled_from(("load", "queue", "kv")), st.floats(0.05, 3))
def test_an_autoscaler_loses_nobody_and_stays_within_its_bounds(
    simulation: Simulation, signal: str, target: float
) -> None:
    """INV-64."""
    scaler = Autoscaler(
        target,
        signal,
        most=4,
        every_ns=100_000,
        startup_ns=150_000,
        down_after_ns=300_000,  # type: ignore[arg-type]
    )
    watch = Watch(70_000, ("all",))
    result = fleet_of(simulation, 2, "least", controls=[scaler, watch]).run(simulation.workload)
    check_nobody_is_lost(result, simulation.workload)
    assert watch.frame()["serving"].max() <= 4
    assert watch.frame()["serving"].min() >= 1


def test_nobody_is_sent_home_before_the_window_has_passed() -> None:
    """Kubernetes' stabilisation window begins with the replicas that are there, not empty."""
    window_ns = 10**9
    scaler = Autoscaler(1.0, most=5, every_ns=10**8, down_after_ns=window_ns)
    lives = idle_day(10**10, replicas=5, controls=[scaler]).replicas
    drained = lives.filter(pl.col("end") == "drained")["down_ns"]
    assert len(drained) == 4
    assert drained.min() >= window_ns


@given(st.integers(1, 50), st.floats(0, 1000), st.floats(0, 1000))
def test_the_wish_rises_with_the_signal(replicas: int, low: float, high: float) -> None:
    scaler = Autoscaler(10.0, least=2, most=40)
    low, high = min(low, high), max(low, high)
    assert 2 <= scaler.wanted(replicas, low) <= scaler.wanted(replicas, high) <= 40
    assert scaler.wanted(replicas, 10.0) == min(40, max(2, replicas))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Autoscaler(0.0), "positive"),
        (lambda: Autoscaler(1.0, least=3, most=2), "least"),
        (lambda: Autoscaler(1.0, "speed"), "unknown autoscaling signal"),  # type: ignore[arg-type]
        (lambda: Ladder((0,), up=2, down=1), "two rungs"),
        (lambda: Ladder((0, 1), up=1, down=2), "down < up"),
        (lambda: Outage(-1, 0), "negative"),
        (lambda: Outages(mtbf_ns=0.0), "positive"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_random_failures_come_at_their_rate() -> None:
    """The number of failures over a long day is Poisson with rate replicas / MTBF."""
    day_ns = 10**12
    result = idle_day(day_ns, replicas=5, controls=[Outages(mtbf_ns=day_ns / 20, down_ns=0, startup_ns=0, seed=3)])
    failed = (result.replicas["end"] == "failed").sum()
    assert abs(failed - 100) < 4 * np.sqrt(100)
