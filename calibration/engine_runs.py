"""Measured runs of the engine as runs of the simulator: the same model, plan, scheduler, memory and requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from calibration.grid import Burst
from sim.cost.deployment import Deployment, Host
from sim.cost.hardware import GPUS, Gpu, gpu_named
from sim.cost.times import KernelTimes
from sim.errors import InputError, UnknownName
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.run.simulate import Simulation
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload

CPU = "cpu"
MODEL = "model_"  # of a row's fields that describe the model


@dataclass(frozen=True)
class Setting:
    """How the engine ran: everything that decides which tokens go into which step."""

    plan: str
    policy: str
    slots: int
    budget: int
    block_tokens: int
    max_context: int
    gate_skip: Sequence[float] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Setting":
        """The setting of a measured row. Raises InputError for one that lacks something."""
        try:
            return cls(**{one.name: row[one.name] for one in fields(cls) if one.name in row})
        except TypeError as cause:
            raise InputError(f"row {row.get('key')!r} does not say how the engine ran: {cause}") from cause

    @property
    def scheduler(self) -> SchedulerConfig:
        """The scheduler's configuration."""
        return SchedulerConfig(
            policy=self.policy,  # type: ignore[arg-type]
            max_num_seqs=self.slots,
            max_num_batched_tokens=max(self.budget, self.slots),
            block_tokens=self.block_tokens,
        )

    @property
    def kv_blocks(self) -> int:
        """Blocks that hold the longest request in every slot: nobody is preempted."""
        return self.slots * (-(-self.max_context // self.block_tokens) + 1)

    def plan_for(self, shape: ModelShape) -> SkipPlan:
        """The plan, its gate with the rates that were measured on the model itself."""
        plan = strategy_named(self.plan, shape)
        if plan.gate is None or self.gate_skip is None:
            return plan
        return replace(plan, gate=replace(plan.gate, skip=np.array(self.gate_skip), source="measured"))


def shape_of(row: Mapping[str, Any]) -> ModelShape:
    """The model that a row was measured on. Raises InputError for a row that does not describe it."""
    names = [one.name for one in fields(ModelShape) if one.name not in ("name", "source")]
    missing = [name for name in names if MODEL + name not in row]
    if missing:
        raise InputError(f"row {row.get('key')!r} does not describe its model: {MODEL}{missing[0]} is missing")
    return ModelShape(name=str(row["model"]), **{name: row[MODEL + name] for name in names})


def gpu_of(device: str, copy_bytes_per_s: float, flops: float) -> Gpu:
    """The catalogue's GPU of that name; for a CPU, and a GPU that the catalogue lacks, one of the measured ceilings."""
    try:
        return gpu_named(device)
    except UnknownName:
        name = CPU if device.startswith(CPU) else device.lower().replace(" ", "-")
        sources = dict.fromkeys(("bandwidth_bytes_per_s", "flops_bf16"), "measured")
        return Gpu(name, GPUS["h200"].memory_bytes, copy_bytes_per_s, flops, 0.0, 1e9, 100.0, sources)


def simulation_of(
    setting: Setting, shape: ModelShape, gpu: Gpu, workload: Workload, times: KernelTimes, host: Host
) -> Simulation:
    """The same run, simulated."""
    on = Deployment(shape, gpu, kv_blocks=setting.kv_blocks, host=host)
    plan = setting.plan_for(shape)
    return Simulation(workload, on, plan, setting.scheduler, times=times, max_context=setting.max_context)


def together(burst: Burst) -> Workload:
    """A burst as a workload: all arrive at once."""
    n = burst.requests
    return Workload(np.zeros(n, np.int64), np.full(n, burst.prompt), np.array(burst.outputs), name="burst")
