"""Measured runs of the engine as runs of the simulator: the same model, plan, scheduler, memory and requests."""

import numpy as np

from calibration.items import Burst
from calibration.setting import Setting
from sim.cost.deployment import Deployment, Host
from sim.cost.hardware import GPUS, Gpu, gpu_named
from sim.cost.times import KernelTimes
from sim.errors import UnknownName
from sim.plans.model import ModelShape
from sim.run.simulate import Simulation
from sim.workload.workload import Workload

CPU = "cpu"


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
