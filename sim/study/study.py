"""A study: every strategy's capacity under one SLO, what it costs, and why it is not more."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property

import plotly.graph_objects as go
import polars as pl

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.profiles import EngineProfile
from sim.cost.times import Source
from sim.errors import CapacityError
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.run.simulate import Oversized
from sim.serving.config import SchedulerConfig
from sim.study.assess import Assessment, assess, latencies
from sim.study.batching import depth_saving, ffn_saving, streams_and_load
from sim.study.capacity import SEEDS, replicas_for
from sim.study.engines import DEFAULT_ENGINE, caveat, on_engine, profile_of
from sim.study.evidence import quality_frame
from sim.study.floor import check_floor
from sim.study.intervals import DRAWS
from sim.study.loads import Load, NamedLoad
from sim.study.operations import operations
from sim.study.options import REQUESTS
from sim.study.outcome import Outcome
from sim.study.pool import Job, Ticker, executor, run_all
from sim.study.prices import price_of
from sim.study.provenance import provenance_of
from sim.study.rows import study_rows
from sim.study.service import Service
from sim.study.waterfall import waterfall
from sim.study.whatif import anchored, what_if_frames, what_if_jobs, what_if_plans

STRATEGIES = (
    "dense",
    "skip_decode:speedup=2",
    "ffn_skip:share=0.25",
    "swift_kv",
    "swift_kv:group=4",
    "swift_kv+skip_decode:speedup=2",
)
COMMON = 0.8  # share of the dense capacity at which latencies are compared
LOADS = (0.2, 0.4, 0.6, COMMON, 0.9, 1.0, 1.1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)  # of the dense capacity
BEYOND = 1.15  # a strategy's latency curve ends so far beyond its capacity
Tick = Callable[[str, int, int], None]


def default_deployment() -> Deployment:
    """Llama-3.1-8B on one H200."""
    return Deployment(model_named("llama-3.1-8b"), gpu_named("h200"))


@dataclass(frozen=True)
class Study:
    """Strategies × loads on one deployment; everything has a default, so `Study().run()` answers.

    `run()` gives the table, `figure()` its picture, `html()` the report, `outcome` everything there is. The dense
    model always takes part: gains are against it.
    """

    deployment: Deployment = field(default_factory=default_deployment)
    load: Load = field(default_factory=lambda: NamedLoad("azure-conv", REQUESTS))
    strategies: Sequence[str] = STRATEGIES
    demand_qps: float = 100.0
    slo: Slo = field(default_factory=Slo)
    engine: EngineProfile | str | None = DEFAULT_ENGINE  # None: deployment as it is, kernels as they were measured
    config: SchedulerConfig | None = None  # default: the engine's
    seeds: Sequence[int] = SEEDS
    tolerance: float = 0.02
    draws: int = DRAWS  # of each source of doubt; 0: intervals of the traffic alone
    source: Source = "auto"
    max_context: int | None = None
    oversized: Oversized = "error"
    gpu_price: float | None = None
    quality_floor: float | None = None  # share of the dense model's score; what keeps less is not recommended
    batching: bool = True  # also simulate what batching does to skipping: two sections of the report
    what_if: bool = True  # also simulate a grid of strengths and SLOs, for the sliders of the report
    workers: int | None = None  # processes; default: one per core, 2 at most. Results do not depend on it
    tick: Tick | None = field(default=None, compare=False)  # told (what is done, jobs done, jobs in all)

    def run(self) -> pl.DataFrame:
        """One row per strategy; the columns are documented in docs/json.md.

        Raises InputError for what cannot run, CapacityError where no strategy at all can meet the SLO.
        """
        return self.outcome.rows

    def figure(self) -> go.Figure:
        """Requests per second per GPU of each strategy, with its interval."""
        return self.outcome.figure()

    def html(self) -> str:
        """The report: one document that opens offline."""
        return self.outcome.html()

    @cached_property
    def services(self) -> list[Service]:
        """One service per strategy, the dense one first; a plan that is asked for twice counts once."""
        plans = [strategy_named(spec, self.deployment.model) for spec in ("dense", *self.strategies)]
        unique = {plan.digest: plan for plan in reversed(plans)}
        engine = profile_of(self.engine)
        config = self.config or (engine.config(self.deployment.gpu) if engine else SchedulerConfig())
        on = on_engine(self.deployment, engine)
        first = Service(self.load, on, plans[0], config, self.source, self.max_context, self.oversized, engine)
        return [replace(first, plan=unique[digest]) for digest in dict.fromkeys(plan.digest for plan in plans)]

    @cached_property
    def outcome(self) -> Outcome:
        """Every frame of the study, computed once."""
        replicas_for(self.demand_qps, 1.0)
        check_floor(self.quality_floor)
        price = price_of(self.deployment.gpu.name, self.gpu_price)
        services = self.services
        services[0].run(self.load.alone(1))  # compiles the loop once, before several processes would at once
        with executor(min(2, os.cpu_count() or 1) if self.workers is None else self.workers) as pool:
            grid = what_if_plans(services) if self.what_if else []
            tick = self._ticker(2 * len(services) + 1 + (1 + len(self._batching_on)) * self.batching + len(grid))
            found = self._assessments(pool, services, tick)
            base = found[0].capacity or min((a.capacity for a in found if a.capacity), key=lambda c: c.qps)
            frames = self._curves(pool, services, found, base.qps, tick)
            jobs = what_if_jobs(grid, self.slo, base.qps, self.seeds[0])
            capacities = {a.plan.name: a.capacity.qps if a.capacity else None for a in found}
            frames |= anchored(what_if_frames(run_all(pool, jobs, tick)), capacities, self.slo)
        common = COMMON * base.qps
        at_common = frames["points"].filter(pl.col("qps") == common)
        frames["rows"] = study_rows(
            self.deployment,
            found,
            at_common,
            demand_qps=self.demand_qps,
            dollars_per_gpu_hour=price,
            quality_floor=self.quality_floor,
        )
        frames["operations"] = operations(services[0].deployment, services[0].times)
        frames["quality"] = quality_frame((a.plan for a in found), self.deployment.model.name)
        frames["steps"] = pl.concat([_steps(found[0], a) for a in found[1:]] or [_steps(found[0], found[0])])
        search = {"seeds": list(self.seeds), "tolerance": self.tolerance, "draws": self.draws}
        return Outcome(frames, provenance_of(services[0], question=self._question(price, common), search=search))

    def _question(self, price: float, common_qps: float) -> dict[str, object]:
        on, work = self.services[0].deployment, self.load.at(1.0, self.seeds[0])
        return {
            "model": on.model.name,
            "gpu": on.gpu.name,
            "gpus_per_replica": on.tp,
            "workload": self.load.name,
            "workload_source": work.source,
            "output_tokens_mean": float(work.output_tokens.mean()),
            "demand_qps": self.demand_qps,
            "slo": {"ttft_ms": self.slo.ttft_ms, "tpot_ms": self.slo.tpot_ms, "percentile": self.slo.percentile},
            "quality_floor": self.quality_floor,
            "latencies_at_qps": common_qps,
            "engine_caveat": caveat(self.services[0].engine, on.gpu.name),
            "dollars_per_gpu_hour": price,
            "grid_seed": self.seeds[0],
        }

    def _assessments(self, pool: Executor | None, services: Sequence[Service], tick: Ticker) -> list[Assessment]:
        jobs: list[tuple[str, Job]] = [
            (s.plan.name, (assess, (s, self.slo, tuple(self.seeds), self.tolerance, self.draws))) for s in services
        ]
        found: list[Assessment] = run_all(pool, jobs, tick)
        if not any(a.capacity for a in found):
            raise CapacityError(found[0].why_not)
        return found

    def _curves(
        self, pool: Executor | None, services: Sequence[Service], found: Sequence[Assessment], qps: float, tick: Ticker
    ) -> dict[str, pl.DataFrame]:
        """Latencies by load, and what batching does to skipping: frames points, streams, ffn, depth."""
        jobs: list[tuple[str, Job]] = [
            (f"{s.plan.name}: latencies", (latencies, (s, self.slo, rates_of(a, qps), self.seeds[0], self.draws)))
            for s, a in zip(services, found)
        ]
        on, times = services[0].deployment, services[0].times
        several = [s for s in services if not s.plan.gate][:4]
        jobs.append(("one stream and many", (streams_and_load, (several, COMMON * qps, self.slo, self.draws))))
        if self.batching:
            jobs.append(("FFN skipping by batch", (ffn_saving, (on, times))))
            jobs += [(f"SkipDecode by batch, {d.model.name}", (depth_saving, (d, times))) for d in self._batching_on]
        answers = run_all(pool, jobs, tick)
        points = [row for rows in answers[: len(services)] for row in rows]
        streams, *batched = answers[len(services) :]
        ffn, *depth = batched or [ffn_saving(on, batches=()), depth_saving(on, batches=())]
        return {
            "points": pl.DataFrame(points, infer_schema_length=None),
            "streams": streams,
            "ffn": ffn,
            "depth": pl.concat(depth),
        }

    @property
    def _batching_on(self) -> list[Deployment]:
        """Where SkipDecode's batches run: here, and on a model whose heads share no keys."""
        on = self.services[0].deployment
        other = replace(on, model=model_named("llama-2-7b"), tp=1, kv_blocks=None)
        return [on] if on.model == other.model else [on, other]

    def _ticker(self, of: int) -> Ticker:
        count = [0]

        def tick(name: str) -> None:
            count[0] += 1
            if self.tick:
                self.tick(name, count[0], of)

        return tick


def rates_of(assessment: Assessment, base_qps: float) -> list[float]:
    """The rates of a strategy's latency curve: the common ones, as far as a little beyond its capacity."""
    most = BEYOND * assessment.capacity.qps if assessment.capacity else COMMON * base_qps
    return [share * base_qps for share in LOADS if share == COMMON or share * base_qps <= most]


def _steps(dense: Assessment, other: Assessment) -> pl.DataFrame:
    both = dense.capacity and other.capacity
    gain = other.capacity.ratio_to(dense.capacity).value if both and other.capacity and dense.capacity else None
    return waterfall(dense.full, other.full, gain)
