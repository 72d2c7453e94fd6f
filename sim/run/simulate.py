"""One replica under a workload, on SimPy's clock in integer nanoseconds."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from time import perf_counter
from typing import Generic, Literal, TypeVar

import numpy as np
import simpy

from sim.cost.deployment import Deployment
from sim.cost.lower import lower
from sim.cost.tables import Tables, scratch_for
from sim.cost.times import KernelTimes, times_for
from sim.cost.work import work_done
from sim.errors import CapacityError, InputError
from sim.plans.plan import SkipPlan
from sim.run import drive
from sim.run.drive import Log, Progress
from sim.run.replica import (
    CLOCKS,
    CONCURRENCY,
    FAR,
    LOG_COLUMNS,
    LOG_ROWS,
    RELEASED,
    STEP_END,
    TRACE_COLUMNS,
    TRACE_ROWS,
    Replica,
)
from sim.run.result import Result
from sim.serving.columns import DONE, NOBODY, REFUSED, Asked, asked_of, state_of
from sim.serving.config import Knobs, SchedulerConfig, knobs_of
from sim.serving.memory import most_units
from sim.workload.workload import Workload

LUCK = 1 << 16
T = TypeVar("T")
Oversized = Literal["error", "refuse"]

_times_for = lru_cache(times_for)


@dataclass(frozen=True)
class Simulation:
    """One run: what is asked, what it runs on, what is skipped, how it is scheduled."""

    workload: Workload
    deployment: Deployment
    plan: SkipPlan
    config: SchedulerConfig = field(default_factory=SchedulerConfig)
    times: KernelTimes | None = None  # default: measured kernel times where there are any, else a roofline
    max_context: int | None = None  # default: the model's
    oversized: Oversized = "error"  # or refuse: count requests that can never run as failed
    seed: int = 0

    def run(self, *, stepwise: bool = False, progress: Progress | None = None, tables: Tables | None = None) -> Result:
        """What happened. `stepwise` runs the slow, interpreted twin: the same result, bit for bit.

        `progress` is told (requests done, requests) now and then. `tables` is what `price_list` gives, where runs
        share it. Raises InputError where a request can never run and `oversized` is "error", CapacityError where the
        weights do not fit.
        """
        started = perf_counter()
        times = self.times or _times_for(self.deployment.gpu.name)
        replica = self._replica(times, tables)
        self._refuse_oversized(replica.asked, replica.knobs)
        log = Log(replica, progress)
        env = simpy.Environment(initial_time=0)
        env.process(drive.stepwise(env, replica, log) if stepwise else drive.compiled(env, replica, log))
        env.run()
        if not np.isin(replica.state.status, (DONE, REFUSED)).all():
            raise CapacityError("the scheduler made no progress: a waiting request fits nowhere")
        return Result(
            workload=self.workload,
            deployment=self.deployment,
            plan=self.plan,
            config=self.config,
            times_label=times.label,
            asked=replica.asked,
            state=replica.state,
            knobs=replica.knobs,
            work=work_done(replica.tables, replica.scratch),
            logged=log.all(),
            wall_s=perf_counter() - started,
        )

    def price_list(self) -> Tables:
        """What steps are priced from: the same for every workload, and longer in the making than many a run."""
        return self._lowered(self.times or _times_for(self.deployment.gpu.name))

    def _lowered(self, times: KernelTimes) -> Tables:
        context = self.max_context or self.deployment.model.max_context
        plan, known = _Known(self.plan.digest, self.plan), _Known(id(times), times)
        return _lowered(plan, self.deployment, known, self.config, context)

    def _replica(self, times: KernelTimes, tables: Tables | None = None) -> Replica:
        work, config = self.workload, self.config
        context = self.max_context or self.deployment.model.max_context
        caching = config.prefix_caching and work.hash_ids is not None
        asked = _asked(work, caching=caching)
        blocks = self.deployment.kv_capacity_blocks(
            self.plan,
            block_tokens=config.block_tokens,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_num_seqs=config.max_num_seqs,
        )
        hash_tokens = work.hash_block_tokens if caching else 0
        knobs = knobs_of(config, self.plan, kv_blocks=blocks, max_context=context, hash_tokens=hash_tokens)
        tables = tables or self._lowered(times)
        clock = np.zeros(CLOCKS, dtype=np.int64)
        clock[STEP_END] = NOBODY
        clock[CONCURRENCY] = clock[RELEASED] = work.concurrency
        return Replica(
            asked=asked,
            state=state_of(
                asked,
                max_num_seqs=config.max_num_seqs,
                total_units=knobs.total_units,
                full_units=knobs.full_units,
            ),
            tables=tables,
            knobs=knobs,
            live_units=np.array(self.plan.live_caches),
            luck=np.random.default_rng(self.seed).random(LUCK if knobs.draft_tokens else 1),
            scratch=scratch_for(tables),
            emitted=np.zeros(config.max_num_seqs, dtype=np.int64),
            clock=clock,
            # enough for most runs: pages that are never written to take no memory
            log=np.empty((LOG_ROWS + 2 * len(work), LOG_COLUMNS), dtype=np.int64),
            trace=np.empty((TRACE_ROWS, TRACE_COLUMNS), dtype=np.int32),
            gaps=np.empty(8 * config.max_num_seqs + LOG_ROWS, dtype=np.int64),
        )

    def _refuse_oversized(self, asked: Asked, knobs: Knobs) -> None:
        if self.oversized == "refuse" or not asked.prompt_tokens.size:
            return
        total = asked.prompt_tokens + asked.output_tokens
        i = int(np.argmax(total))
        if total[i] > knobs.max_context:
            others = int((total > knobs.max_context).sum())
            limit = f"the context of {knobs.max_context} tokens ({others} such requests)"
            raise InputError(_too_long(asked, int(np.argmax(total > knobs.max_context)), limit))
        if most_units(int(asked.prompt_tokens[i]), int(asked.output_tokens[i]), knobs) > knobs.total_units:
            tokens = knobs.total_units // knobs.full_units * knobs.block_tokens
            first = int(np.argmax(total - 1 > tokens))
            raise InputError(_too_long(asked, first, f"KV memory, which holds {tokens} tokens in all"))


def simulate(
    workload: Workload,
    deployment: Deployment,
    plan: SkipPlan,
    config: SchedulerConfig | None = None,
    *,
    times: KernelTimes | None = None,
    seed: int = 0,
) -> Result:
    """The result of one run with everything else at its default: the notebook's one-liner."""
    return Simulation(workload, deployment, plan, config or SchedulerConfig(), times=times, seed=seed).run()


@dataclass(frozen=True)
class _Known(Generic[T]):
    """A value by its key: two are equal where their keys are."""

    key: Hashable
    value: T = field(compare=False)


@lru_cache(maxsize=8)
def _lowered(
    plan: _Known[SkipPlan], on: Deployment, times: _Known[KernelTimes], config: SchedulerConfig, max_context: int
) -> Tables:
    """The price list; a study runs the same one many times."""
    return lower(plan.value, on, times.value, config, max_context=max_context)


def _asked(work: Workload, *, caching: bool) -> Asked:
    arrival_ns = work.arrival_ns
    if work.concurrency:
        arrival_ns = arrival_ns.copy()
        arrival_ns[work.concurrency :] = FAR
    if caching and work.hash_ids is not None:
        dense = work.hash_ids
        if not dense.size or dense.min() < 0 or dense.max() >= 2 * dense.size:
            dense = np.unique(dense, return_inverse=True)[1]  # the state has a place for every id up to the largest
        return asked_of(arrival_ns, work.prompt_tokens, work.output_tokens, dense, work.hash_offsets)
    return asked_of(arrival_ns, work.prompt_tokens, work.output_tokens)


def _too_long(asked: Asked, i: int, limit: str) -> str:
    return (
        f"request {i} ({asked.prompt_tokens[i]} prompt + {asked.output_tokens[i]} output tokens) exceeds {limit};"
        " choose a model or GPU that holds it, or refuse such requests (--oversized refuse) and have them counted"
    )


def with_strategy(simulation: Simulation, plan: SkipPlan) -> Simulation:
    """The same run under another plan."""
    return replace(simulation, plan=plan)
