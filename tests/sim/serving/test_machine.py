"""Scheduler and memory against a dictionary of keys: any order of arrivals, iterations and aborts."""

from collections.abc import Callable

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sim.plans.plan import KV
from sim.serving.columns import (
    ABORTED,
    DONE,
    FUTURE,
    N_DONE,
    N_PREEMPTED,
    N_ROWS,
    N_RUNNING,
    REFUSED,
    RUNNING,
    WAITING,
    asked_of,
    state_of,
)
from sim.serving.completion import abort, complete
from sim.serving.config import CHUNKED, knobs_of
from sim.serving.scheduler import arrive, schedule
from tests.gen import models, plans, scheduler_configs, workloads
from tests.sim.serving.laws import check_prefixes, check_queues, check_rows, check_units
from tests.sim.serving.paged import PagedKv


class Serving(RuleBasedStateMachine):
    """One replica; the rules are what a server can be asked to do."""

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        config = data.draw(scheduler_configs())
        hash_tokens = config.block_tokens * data.draw(st.integers(1, 2)) if config.prefix_caching else 0
        self.plan = data.draw(models(max_layers=4).flatmap(plans))
        assume(self.plan.caches.size > 0)
        assume(not hash_tokens or not (self.plan.prompt & ~self.plan.sampled & KV)[self.plan.caches].any())
        work = data.draw(workloads(hash_tokens=hash_tokens, min_requests=4, loops=False))
        longest = int((work.prompt_tokens + work.output_tokens).max()) // config.block_tokens + 1
        blocks = max(1, longest + data.draw(st.integers(-1, longest // 2)))
        self.asked = asked_of(
            work.arrival_ns, work.prompt_tokens, work.output_tokens, work.hash_ids, work.hash_offsets
        )
        self.knobs = knobs_of(config, self.plan, kv_blocks=blocks, max_context=44, hash_tokens=hash_tokens)
        self.state = state_of(
            self.asked,
            max_num_seqs=config.max_num_seqs,
            total_units=self.knobs.total_units,
            full_units=self.knobs.full_units,
        )
        self.kv = PagedKv(self.asked, self.state, self.knobs, self.plan)
        self.live = np.array(self.plan.live_caches)
        self.next, self.now, self.steps = 0, 0, 0
        self.first_admitted: list[int] = []

    def is_among(self, *statuses: int) -> bool:
        return bool(np.isin(self.state.status, statuses).any())

    @precondition(lambda self: self.next < self.asked.prompt_tokens.size)
    @rule(count=st.integers(1, 5))
    def requests_arrive(self, count: int) -> None:
        for request in range(self.next, min(self.next + count, self.asked.prompt_tokens.size)):
            self.arrive(request)

    def arrive(self, request: int) -> None:
        """Queued or refused, as memory and context allow."""
        self.next = request + 1
        held = self.asked.prompt_tokens[request] + self.asked.output_tokens[request]
        blocks = -(-(held - 1) // self.knobs.block_tokens)
        fits = blocks * self.knobs.full_units <= self.knobs.total_units and held <= self.knobs.max_context
        assert arrive(self.asked, self.state, self.knobs, request) == fits
        assert self.state.status[request] == (WAITING if fits else REFUSED)

    @rule(count=st.integers(1, 6), lucky=st.booleans())
    def iterations_run(self, count: int, lucky: bool) -> None:
        for _ in range(count):
            self.step(lambda drafts: drafts if lucky else drafts // 2)

    @precondition(lambda self: self.now % 3 == 1)
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        request = data.draw(st.integers(0, self.asked.prompt_tokens.size - 1))
        gone = self.state.status[request] in (WAITING, RUNNING)
        assert abort(self.asked, self.state, self.knobs, request) == gone
        assert (self.state.status[request] == ABORTED) or not gone
        self.kv.settle()

    def step(self, accept: Callable[[int], int]) -> None:
        """Schedule, execute on the dictionary, complete."""
        busy = self.is_among(WAITING, RUNNING)
        ran = self.state.counts[N_RUNNING] + self.state.counts[N_PREEMPTED]
        preempted = self.state.counts[N_PREEMPTED]
        rows = schedule(self.asked, self.state, self.knobs)
        assert rows == self.state.counts[N_ROWS]
        assert (rows > 0) == busy, "INV-15: somebody could run and nobody did"
        if not rows:
            return
        check_rows(self.asked, self.state, self.knobs)
        if self.knobs.policy == CHUNKED and self.state.counts[N_PREEMPTED] > preempted:
            stay = self.state.counts[N_RUNNING] + self.state.counts[N_PREEMPTED]
            assert stay == ran, "a step that ran out of memory admitted somebody"
        check_units(self.state, self.knobs)
        self.note_admissions()
        self.kv.run()
        request = self.state.row_request[:rows]
        known = self.asked.prompt_tokens[request] + self.state.generated[request]
        drafts = self.state.row_start[:rows] + self.state.row_tokens[:rows] - known
        emitted = np.array([1 + accept(max(0, int(d))) for d in drafts])
        before, done = self.state.generated.copy(), self.state.counts[N_DONE]
        ends = self.state.row_start[:rows] + self.state.row_tokens[:rows] >= known
        finished = complete(self.asked, self.state, self.knobs, self.live, emitted, self.now, self.now + 1)
        self.now += 1
        gained = (self.state.generated - before)[request]
        assert (gained == np.where(ends, emitted, 0)).all()
        assert finished == self.state.counts[N_DONE] - done
        self.kv.settle()

    def note_admissions(self) -> None:
        """INV-14: who runs for the first time came before everybody who still waits for that."""
        running = self.state.running[: self.state.counts[N_RUNNING]].tolist()
        self.first_admitted += [r for r in running if r not in self.first_admitted]
        assert self.first_admitted == sorted(self.first_admitted)

    @invariant()
    def memory_adds_up(self) -> None:
        if hasattr(self, "state"):
            check_units(self.state, self.knobs)
            check_prefixes(self.asked, self.state)
            check_queues(self.state)

    @invariant()
    def nobody_is_lost(self) -> None:
        """INV-13: a finished request has exactly its tokens, an unfinished one fewer, and everyone has one status."""
        if hasattr(self, "state"):
            done = self.state.status == DONE
            assert (self.state.generated[done] == self.asked.output_tokens[done]).all()
            assert (self.state.generated[~done] < self.asked.output_tokens[~done]).all()
            assert done.sum() == self.state.counts[N_DONE]
            assert (self.state.status[self.next :] == FUTURE).all()
            assert not (self.state.status[: self.next] == FUTURE).any()

    def teardown(self) -> None:
        """Whoever is still there is served to the end, in finite time."""
        if not hasattr(self, "state"):
            return
        bound = 50 + 4 * int((self.asked.prompt_tokens + self.asked.output_tokens).sum()) ** 2
        while self.is_among(WAITING, RUNNING):
            self.step(lambda drafts: 0)
            self.memory_adds_up()
            self.nobody_is_lost()
            self.steps += 1
            assert self.steps < min(bound, 3000), "no end in sight"


TestServing = Serving.TestCase
