"""What a study rests on, so that its report can be questioned: inputs, versions, sources, assumptions."""

import platform
from collections.abc import Mapping
from importlib.metadata import version

import numpy as np

from sim.cost.deployment import Deployment
from sim.cost.profiles import EngineProfile
from sim.cost.times import KernelTimes
from sim.serving.config import SchedulerConfig
from sim.study.service import Service

ENGINE_FACTS = ("like", "gpus", "models", "settings", "sources", "command")
DEFINITIONS = {
    "capacity": "largest rate at which the SLO holds and the number in the system does not grow (2 % of arrivals)",
    "interval": "90 %, for one server measured once: kernel times, the engine's parameters and the scatter of servers"
    " around them, and traffic of this kind drawn again (Student's t over the seeds); wider where nothing was measured,"
    " downwards by what short traffic overlooks",
    "gain": "capacity over the dense model's, paired by seed and by draw: what both share cancels",
    "GPUs": "demand / capacity, rounded up to whole replicas; requests spread evenly over them",
    "energy": "board power for the busy share of the time; host and cooling left out",
    "dollars": "assumed price per GPU-hour; give your own with --gpu-price",
    "quality": "share of the dense model's score, measured here, imported or published as it says; nothing is guessed."
    " A strategy that needs trained weights is priced as if it had them",
}


def provenance_of(
    service: Service, *, question: Mapping[str, object], search: Mapping[str, object]
) -> dict[str, object]:
    """The provenance as nested mappings: what was asked of a service, what answers it, and what that rests on."""
    on = service.deployment
    return {
        "question": dict(question),
        "deployment": deployment_facts(on),
        "scheduler": scheduler_facts(service.config),
        "search": dict(search),
        "definitions": DEFINITIONS,
        "engine": engine_facts(service.engine),
        "kernel_times": kernel_facts(service.times, on),
        "model_source": on.model.source,
        "gpu_datasheet": dict(on.gpu.sources),
        "software": {"elide": version("elide"), "python": platform.python_version(), "numpy": version("numpy")},
    }


def kernel_facts(times: KernelTimes, on: Deployment) -> dict[str, object]:
    """Where the kernel times come from; of fitted ones, the residuals of the fits that price this deployment."""
    facts: dict[str, object] = {"label": times.label, **times.provenance}
    fits = facts.get("fits")
    if isinstance(fits, Mapping):
        facts["fits"] = {name: fit for name, fit in fits.items() if _prices(name, on)}
    return facts


def _prices(fit: str, on: Deployment) -> bool:
    """Whether a fit named kernel/dtype/head width/… or all_reduce/GPUs has to do with the deployment."""
    kernel, *rest = fit.split("/")
    if kernel == "all_reduce":
        return rest[:1] == [str(on.tp)]
    if kernel == "gemm":
        return rest[:1] == [on.weights] or rest[:1] == ["bf16"]
    return kernel == "elementwise" or rest[:2] == [on.kv, str(on.model.head_dim)]


def engine_facts(engine: EngineProfile | None) -> dict[str, object]:
    """The profile by name: its parameters, which of them were fitted, how far off it is, and what it was fitted to."""
    if engine is None:
        return {"name": None}
    sd = np.sqrt(np.diag(np.array(engine.covariance))) if engine.fitted else ()
    return {
        "name": engine.name,
        "versions": engine.versions,
        "parameters": engine.parameters,
        "fitted_to_a_standard_error_of": dict(zip(engine.fitted, map(float, sd))),
        "servers_scatter_by": engine.residual_sd,
        **{name: engine.provenance[name] for name in ENGINE_FACTS if name in engine.provenance},
    }


def deployment_facts(on: Deployment) -> dict[str, object]:
    """Precisions, memory and host of a deployment."""
    return {
        "weights": on.weights,
        "kv": on.kv,
        "memory_utilization": on.memory_utilization,
        "num_gpu_blocks": on.kv_blocks,
        "host": vars(on.host),
        "frontend": vars(on.frontend),
    }


def scheduler_facts(config: SchedulerConfig) -> dict[str, object]:
    """The scheduler's settings."""
    return dict(vars(config))
