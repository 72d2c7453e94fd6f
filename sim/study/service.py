"""One strategy on one deployment under one kind of load: everything about a run but the rate and the seed."""

from dataclasses import dataclass, field
from functools import cache

from sim.cost.deployment import Deployment
from sim.cost.times import KernelTimes, Source, times_for
from sim.plans.plan import SkipPlan
from sim.run.result import Result
from sim.run.simulate import Oversized, Progress, Simulation
from sim.serving.config import SchedulerConfig
from sim.study.loads import Load
from sim.workload.workload import Workload


@cache
def kernel_times(gpu: str, source: Source) -> KernelTimes:
    """The kernel times of a GPU, read once per process."""
    return times_for(gpu, source=source)


@dataclass(frozen=True)
class Service:
    """What serves the requests, and which ones they are."""

    load: Load
    deployment: Deployment
    plan: SkipPlan
    config: SchedulerConfig = field(default_factory=SchedulerConfig)
    source: Source = "auto"
    max_context: int | None = None
    oversized: Oversized = "error"

    def at(self, qps: float, seed: int = 0) -> Result:
        """The run at a rate. Raises what `Simulation.run` raises."""
        return self.run(self.load.at(qps, seed), seed=seed)

    def run(self, workload: Workload, *, seed: int = 0, progress: Progress | None = None) -> Result:
        """The run of a workload. `seed` decides which drafts are accepted."""
        simulation = Simulation(
            workload,
            self.deployment,
            self.plan,
            self.config,
            times=kernel_times(self.deployment.gpu.name, self.source),
            max_context=self.max_context,
            oversized=self.oversized,
            seed=seed,
        )
        return simulation.run(progress=progress)
