"""What must hold of every fleet: it is its replicas, nobody is lost, and how it is computed does not matter."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sim.run.cluster import RequestClass, Tier
from sim.run.fleet_result import FleetResult
from sim.run.simulate import Simulation
from sim.run.traffic import batch_of, cut
from tests.sim.run.cases import simulations
from tests.sim.run.fleets import assert_same_run, fleet_of, routers, share_of, tiny

fleets_of = simulations(loops=False, max_requests=16)
crowded = simulations(loops=False, max_requests=40)


def assert_same_fleet(one: FleetResult, other: FleetResult) -> None:
    assert one.requests is not None
    assert one.requests.equals(other.requests)
    assert one.replicas.equals(other.replicas)
    left, right = (dict(r.summary(), wall_s=0) for r in (one, other))
    assert repr(left) == repr(right)


@given(simulations(loops=False), routers, st.sampled_from((None, 1000)))
def test_a_fleet_of_one_is_the_simulation(simulation: Simulation, router: str, limit: int | None) -> None:
    """INV-60: bit for bit, whatever the router; with a limit the dispatcher looks at the replica each time."""
    classes = [RequestClass(tiers=[Tier(limit=limit)])]
    alone = fleet_of(simulation, 1, router, classes=classes).run(simulation.workload, keep=True)
    assert_same_run(alone.results[0], simulation.run())


@given(fleets_of, st.integers(2, 4))
def test_round_robin_is_separate_simulations(simulation: Simulation, replicas: int) -> None:
    """INV-61: request k of the traffic is in the run of replica k mod N, bit for bit."""
    together = fleet_of(simulation, replicas).run(simulation.workload, keep=True)
    shares = [share_of(simulation.workload, i, replicas) for i in range(replicas)]
    works = [work for work in shares if work is not None]
    assert len(together.results) == len(works)
    for run, work in zip(together.results, works):
        assert_same_run(run, replace(simulation, workload=work).run())


@given(fleets_of, st.integers(1, 3), routers)
def test_the_compiled_dispatcher_is_the_interpreted_one(simulation: Simulation, replicas: int, router: str) -> None:
    """INV-62."""
    fleet = fleet_of(simulation, replicas, router)
    assert_same_fleet(fleet.run(simulation.workload), fleet.run(simulation.workload, stepwise=True))


@given(crowded | crowded.filter(lambda s: s.workload.hash_ids is not None), st.integers(1, 2), routers)
def test_short_logs_and_cleared_slots_change_nothing(simulation: Simulation, replicas: int, router: str) -> None:
    """INV-63: a fleet that keeps the columns of a few requests at a time is the one that keeps them all."""
    fleet = fleet_of(simulation, replicas, router)
    roomy = fleet.run(simulation.workload)
    with tiny():
        assert_same_fleet(fleet.run(simulation.workload), roomy)


@given(fleets_of, st.integers(1, 3), routers, st.data())
def test_traffic_may_come_in_parts(simulation: Simulation, replicas: int, router: str, data: st.DataObject) -> None:
    """INV-63: batches are cut anywhere."""
    fleet, work = fleet_of(simulation, replicas, router), simulation.workload
    batch = batch_of(work, [1.0], fleet.seed)
    edges = sorted({0, len(work), *data.draw(st.lists(st.integers(0, len(work)), max_size=4))})
    parts = [cut(batch, a, b) for a, b in pairwise(edges)]
    assert_same_fleet(fleet.serve(parts, like=work, exact=True), fleet.run(work))
