"""INV-67: prefill and decode on replicas of their own."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.plans.strategies import swift_kv
from sim.run.cluster import Fleet, Group
from sim.run.disaggregate import Disaggregated, Link, kv_bytes_per_token
from sim.run.failures import Outages
from sim.run.simulate import Simulation
from sim.workload.generate import named_workload
from tests.sim.run.cases import simulations
from tests.sim.run.fleets import fleet_of, routers, toy
from tests.sim.run.test_cluster import assert_same_fleet
from tests.sim.run.test_cluster_changes import check_nobody_is_lost

crowds = simulations(loops=False, policies=("chunked",), frontend=False, max_requests=16)


def apart(simulation: Simulation, router: str, link: Link) -> Disaggregated:
    prefill, decode = (fleet_of(simulation, n, router) for n in (2, 1))
    names = ("prefill", "decode")
    fleets = [replace(f, groups=[replace(f.groups[0], name=n)]) for f, n in zip((prefill, decode), names)]
    return Disaggregated(*fleets, link)


links = st.builds(Link, bytes_per_s=st.sampled_from((1e6, 1e9, 1e12)), latency_ns=st.integers(0, 50_000))


@settings(max_examples=40)
@given(crowds, routers, links)
def test_requests_pass_through_both_fleets_and_are_counted_once(
    simulation: Simulation, router: str, link: Link
) -> None:
    """INV-62, INV-64 over two fleets."""
    two = apart(simulation, router, link)
    result = two.run(simulation.workload)
    check_nobody_is_lost(result, simulation.workload)
    assert_same_fleet(result, two.run(simulation.workload, stepwise=True))
    frame = result.requests
    assert frame is not None
    moved = frame.filter((pl.col("group") == "decode") & (pl.col("status") == "done"))
    assert (moved["output_tokens"] > 1).all()
    assert (moved["routed_ns"] >= moved["first_token_ns"] + link.latency_ns).all()


@settings(max_examples=40)
@given(crowds, links)
def test_a_decode_replica_computes_output_tokens_only(simulation: Simulation, link: Link) -> None:
    """INV-67: where nobody is preempted, one position per output token but the first, and no prompt token at all."""
    assume(simulation.plan.draft is None)
    two = apart(simulation, "least", link)
    handed = []
    serve = Fleet.serve

    def watching(fleet: Fleet, chunks: list, **settings: object):  # type: ignore[no-untyped-def]
        handed.append(chunks)
        return serve(fleet, chunks, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fleet, "serve", watching)
        two.run(simulation.workload)
    batch = handed[1]
    assume(batch)
    alone = two.decode.serve(batch, like=simulation.workload, exact=True, keep=True)
    assume(not any(run.state.preempted.any() for run in alone.results))
    for run in alone.results:
        done = run.state.status == 3
        log = run.iterations
        assert log["prompt_tokens"].sum() == 0
        assert log["decode_rows"].sum() == (run.asked.output_tokens[done] - 1).sum()


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2)), min_size=1, max_size=12))
def test_a_link_sends_one_thing_after_the_other(sent: list[tuple[int, int, int]]) -> None:
    ready, size, sender = (np.array(column, dtype=np.int64) for column in zip(*sent))
    link = Link(bytes_per_s=1e9, latency_ns=7)
    arrived = link.arrivals(ready, size, sender)
    for one in set(sender.tolist()):
        free = 0
        for i in sorted(np.flatnonzero(sender == one), key=lambda i: (ready[i], i)):
            free = max(free, int(ready[i])) + int(size[i])  # a byte takes a nanosecond
            assert arrived[i] == free + 7


def test_what_travels_are_the_live_caches() -> None:
    """A plan that shares caches sends fewer bytes."""
    on = Deployment(model_named("llama-3.1-8b"), gpu_named("h200"))
    dense = kv_bytes_per_token(Group("a", on, strategy_named("dense", on.model), 1))
    assert dense == 2 * 8 * 128 * 2 * 32
    shared = swift_kv(on.model, keep=16, group=4)
    assert kv_bytes_per_token(Group("a", on, shared, 1)) == dense * shared.caches.size / 32 == dense * 20 / 32


def test_swift_kv_gains_decode_time_only_beside_prompts() -> None:
    """SwiftKV skips prompt work; where decodes share no step with prompts, their TPOT is the dense model's."""
    on = Deployment(model_named("llama-3.1-8b"), gpu_named("h200"))
    work = named_workload("azure-conv", requests=800, qps=40)
    tpot = {}
    for spec in ("dense", "swift_kv"):
        plan = strategy_named(spec, on.model)
        together = Fleet([Group("all", on, plan, 3)], router="least").run(work)
        two = Disaggregated(
            Fleet([Group("prefill", on, plan, 2)], router="least"), Fleet([Group("decode", on, plan, 1)])
        )
        for how, result in (("together", together), ("apart", two.run(work))):
            tpot[spec, how] = result.summary()["tpot_ms"]["p50"]  # type: ignore[index]
    assert tpot["swift_kv", "together"] < 0.9 * tpot["dense", "together"]
    assert tpot["swift_kv", "apart"] == pytest.approx(tpot["dense", "apart"], rel=0.02)


def test_what_cannot_be_taken_apart_is_refused() -> None:
    work = named_workload("azure-conv", requests=2, qps=1)
    fleet = fleet_of(toy(work), 1)
    other = replace(fleet.groups[0], plan=strategy_named("swift_kv:keep=1", fleet.groups[0].deployment.model))
    with pytest.raises(InputError, match="one plan"):
        Disaggregated(fleet, replace(fleet, groups=[other]))
    with pytest.raises(InputError, match="failures"):
        Disaggregated(fleet, replace(fleet, controls=[Outages()]))
    with pytest.raises(InputError, match="link"):
        Link(bytes_per_s=0)
