"""One strategy on one deployment under one kind of load: everything about a run but the rate and the seed."""

from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from sim.cost.deployment import Deployment
from sim.cost.profiles import EngineProfile
from sim.cost.tables import Tables
from sim.cost.times import KernelTimes, Source, times_for
from sim.plans.plan import SkipPlan
from sim.run.drive import Progress
from sim.run.result import Result
from sim.run.simulate import Oversized, Simulation
from sim.serving.config import SchedulerConfig
from sim.study.loads import Load
from sim.workload.workload import Workload

_ONE = np.ones(1, dtype=np.int64)
ONE_TOKEN = Workload(0 * _ONE, _ONE, _ONE, name="one token")  # where requests do not matter


@cache
def kernel_times(gpu: str, source: Source) -> KernelTimes:
    """The kernel times of a GPU, read once per process."""
    return times_for(gpu, source=source)


@dataclass(frozen=True)
class Service:
    """What serves the requests, and which ones they are.

    Deployment and scheduler are as they run. `engine` is the profile they were taken from: it scales the kernel times,
    and says how well all of that is known; without one, kernels take as long as they were measured to take. `kernels`
    replaces both.
    """

    load: Load
    deployment: Deployment
    plan: SkipPlan
    config: SchedulerConfig = field(default_factory=SchedulerConfig)
    source: Source = "auto"
    max_context: int | None = None
    oversized: Oversized = "error"
    engine: EngineProfile | None = None
    kernels: KernelTimes | None = None

    @property
    def times(self) -> KernelTimes:
        """The kernel times that steps are priced with."""
        if self.kernels is not None:
            return self.kernels
        measured = kernel_times(self.deployment.gpu.name, self.source)
        return self.engine.scaled(measured) if self.engine else measured

    @cached_property
    def _tables(self) -> Tables:
        return self.simulation(ONE_TOKEN).price_list()

    def at(self, qps: float, seed: int = 0) -> Result:
        """The run at a rate. Raises what `Simulation.run` raises."""
        return self.run(self.load.at(qps, seed), seed=seed)

    def simulation(self, workload: Workload, *, seed: int = 0) -> Simulation:
        """The run of a workload, not yet run. `seed` decides which drafts are accepted."""
        return Simulation(
            workload,
            self.deployment,
            self.plan,
            self.config,
            times=self.times,
            max_context=self.max_context,
            oversized=self.oversized,
            seed=seed,
        )

    def run(self, workload: Workload, *, seed: int = 0, progress: Progress | None = None) -> Result:
        """What happened to a workload."""
        return self.simulation(workload, seed=seed).run(progress=progress, tables=self._tables)
