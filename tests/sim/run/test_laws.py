"""Laws of every run: KV-safety, causality, conservation, Little's law, the closed loop's promise."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sim.run.replica import Replica
from sim.run.simulate import Simulation
from sim.serving.columns import DONE, REFUSED
from tests.gen import draft_plans
from tests.sim.run.cases import replay, simulations
from tests.sim.serving.laws import check_prefixes, check_queues, check_rows, check_units
from tests.sim.serving.paged import PagedKv


@given(simulations())
def test_no_token_reads_a_key_that_is_not_there(simulation: Simulation) -> None:
    """INV-10, 11, 12, 16 over whole runs: here the loop itself decides which drafts are accepted."""
    kv: list[PagedKv] = []

    def watch(replica: Replica, when: str) -> None:
        if not kv:
            kv.append(PagedKv(replica.asked, replica.state, replica.knobs, simulation.plan))
        if when == "scheduled":
            check_rows(replica.asked, replica.state, replica.knobs)
            kv[0].run()
        if when == "done":
            kv[0].settle()
        check_units(replica.state, replica.knobs)
        check_prefixes(replica.asked, replica.state)
        check_queues(replica.state)

    replay(simulation, watch)


@given(simulations(frontend=False))
def test_the_clock_never_runs_back_and_never_idles(simulation: Simulation) -> None:
    """INV-30, INV-15: iterations follow each other; between two of them time passes only where nobody is there."""
    result = simulation.run()
    log, served = result.iterations, result.requests.filter(result.requests["status"] == "done")
    start, end = log["start_ns"].to_numpy(), (log["start_ns"] + log["duration_ns"]).to_numpy()
    assert (end >= start).all()
    assert (start[1:] >= end[:-1]).all()
    for i in np.flatnonzero(start[1:] > end[:-1]):
        there = (served["arrival_ns"] < start[i + 1]) & (served["last_token_ns"] > end[i])
        assert not there.any()


@given(simulations())
def test_nothing_happens_before_its_cause(simulation: Simulation) -> None:
    """INV-31: no request runs before it arrives, no token leaves before the iterations that made it."""
    steps, result = replay(simulation), simulation.run()
    front = simulation.deployment.frontend
    for row in result.requests.filter(result.requests["status"] == "done").iter_rows(named=True):
        request = row["request"]
        mine = [step for step in steps if request in {r for r, *_ in step.rows}]
        first = next(step for step in mine if request in step.emitted)
        prefill = sum(step.end_ns - step.start_ns for step in mine[: mine.index(first) + 1])
        assert row["scheduled_ns"] == mine[0].start_ns
        assert row["scheduled_ns"] >= row["arrival_ns"] + front.request_ns
        assert row["first_token_ns"] == first.delivered_ns
        assert row["first_token_ns"] >= row["arrival_ns"] + front.request_ns + prefill
        assert row["last_token_ns"] == mine[-1].delivered_ns
        assert all(step.delivered_ns >= step.end_ns for step in steps)


@given(simulations())
def test_requests_and_tokens_are_conserved(simulation: Simulation) -> None:
    """INV-32: everybody is served in full or refused; every position is computed once per life of its keys."""
    steps, result = replay(simulation), simulation.run()
    work, state = simulation.workload, result.state
    assert np.isin(state.status, (DONE, REFUSED)).all()
    done = state.status == DONE
    assert (state.generated == np.where(done, work.output_tokens, 0)).all()
    emitted = np.zeros(len(work), dtype=np.int64)
    for step in steps:
        for request, tokens in step.emitted.items():
            emitted[request] += tokens
    assert (emitted == state.generated).all()
    summary = result.summary()
    assert (summary["completed"], summary["failed"]) == (done.sum(), len(work) - done.sum())
    computed = sum(tokens for step in steps for _, _, tokens in step.rows)
    least = int((work.prompt_tokens + work.output_tokens - 1 - result.state.cached)[done].sum())
    if not (summary["preemptions"] and simulation.config.prefix_caching):  # who comes back may find more than at first
        assert computed >= least
    if not summary["preemptions"] and not simulation.plan.draft and not simulation.config.prefix_caching:
        assert computed == least
        log = result.iterations
        assert log["prompt_tokens"].sum() + log["decode_rows"].sum() == computed


@given(simulations(frontend=False))
def test_littles_law_is_an_identity(simulation: Simulation) -> None:
    """INV-33: the integral of the number in the system (from the log) is the sum of sojourn times (from requests)."""
    result = simulation.run()
    served = result.requests.filter(result.requests["status"] == "done")
    sojourn = int((served["last_token_ns"] - served["arrival_ns"]).sum())
    log = result.iterations
    start, end = log["start_ns"].to_numpy(), (log["start_ns"] + log["duration_ns"]).to_numpy()
    present = (log["running"] + log["waiting"]).to_numpy()
    area = int((present * (end - start)).sum())
    arrival = served["arrival_ns"].to_numpy()
    during = np.searchsorted(start, arrival, side="left") - 1  # the iteration in which each of them arrived, if any
    late = (during >= 0) & (arrival < end[during])
    area += int((end[during] - arrival)[late].sum())
    assert area == sojourn


@given(simulations())
def test_a_closed_loop_never_holds_more_than_its_clients(simulation: Simulation) -> None:
    """INV-35: a client sends its next request when its last one is answered, at that very nanosecond."""
    result = simulation.run()
    clients = simulation.workload.concurrency or len(simulation.workload)
    served = result.requests.filter(result.requests["status"] == "done")
    arrival, last = served["arrival_ns"].to_numpy(), served["last_token_ns"].to_numpy()
    assert max((((arrival <= t) & (last > t)).sum() for t in arrival), default=0) <= clients
    if len(served) == len(simulation.workload) > clients:
        later = result.requests["arrival_ns"].to_numpy()[clients:]
        assert later.tolist() == np.sort(last)[: len(later)].tolist()


def accepted(simulation: Simulation) -> dict[tuple[int, int, int], int]:
    """Tokens emitted, by request, tokens generated before, and drafts."""
    found: dict[tuple[int, int, int], int] = {}
    generated = np.zeros(len(simulation.workload), dtype=np.int64)
    for step in replay(simulation):
        for request, first, tokens in step.rows:
            known = int(simulation.workload.prompt_tokens[request] + generated[request])
            if request in step.emitted:
                found[request, int(generated[request]), first + tokens - known] = step.emitted[request]
                generated[request] += step.emitted[request]
    return found


@given(simulations(of=draft_plans), st.data())
def test_the_luck_of_a_draft_is_its_requests_own(simulation: Simulation, data: st.DataObject) -> None:
    """INV-36: which drafts are accepted depends on seed, request and token, never on who else is in the batch."""
    work = simulation.workload
    others = {
        "output_tokens": np.array(data.draw(st.permutations(work.output_tokens.tolist()))),
        "arrival_ns": np.zeros_like(work.arrival_ns),
    }
    here = accepted(simulation)
    there = accepted(replace(simulation, workload=replace(work, **others)))
    assert all(there[key] == tokens for key, tokens in here.items() if key in there)
    rule = simulation.plan.draft
    assert rule is not None
    assert all(tokens <= 1 + drafts for (*_, drafts), tokens in here.items())
    if rule.acceptance in (0.0, 1.0):
        assert all(tokens == 1 + drafts * rule.acceptance for (*_, drafts), tokens in here.items())
