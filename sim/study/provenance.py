"""What a study rests on, so that its report can be questioned: inputs, versions, sources, assumptions."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from sim.cost.deployment import Deployment
from sim.serving.config import SchedulerConfig
from sim.study.service import kernel_times

if TYPE_CHECKING:
    from sim.study.study import Study

DEFINITIONS = {
    "capacity": "largest rate at which the SLO holds and the number in the system does not grow (2 % of arrivals)",
    "interval": "90 %: Student's t over the seeds, widened by the search's bracket; of this traffic, not of the model",
    "GPUs": "demand / capacity, rounded up to whole replicas; requests spread evenly over them",
    "energy": "board power for the busy share of the time; host and cooling left out",
    "dollars": "assumed price per GPU-hour; give your own with --gpu-price",
    "quality": "only what a measurement file gives; a strategy that needs trained weights is priced as if it had them",
}


def provenance_of(study: Study, *, price: float, common_qps: float) -> dict[str, object]:
    """The provenance as nested mappings."""
    on = study.deployment
    times = kernel_times(on.gpu.name, study.source)
    return {
        "question": {
            "model": on.model.name,
            "gpu": on.gpu.name,
            "gpus per replica": on.tp,
            "workload": study.load.name,
            "workload source": study.load.at(1.0, study.seeds[0]).source,
            "demand_qps": study.demand_qps,
            "slo": {
                "ttft_ms": study.slo.ttft_ms,
                "tpot_ms": study.slo.tpot_ms,
                "percentile": study.slo.percentile,
            },
            "latencies compared at_qps": common_qps,
            "dollars per GPU-hour": price,
        },
        "deployment": deployment_facts(on),
        "scheduler": scheduler_facts(study.config),
        "search": {"seeds": list(study.seeds), "tolerance": study.tolerance},
        "definitions": DEFINITIONS,
        "kernel times": {"label": times.label, **dict(times.provenance)},
        "model source": on.model.source,
        "GPU datasheet": dict(on.gpu.sources),
        "software": {"elide": version("elide"), "python": platform.python_version(), "numpy": version("numpy")},
    }


def deployment_facts(on: Deployment) -> dict[str, object]:
    """Precisions, memory and host of a deployment."""
    return {
        "weights": on.weights,
        "kv": on.kv,
        "memory_utilization": on.memory_utilization,
        "num_gpu_blocks": on.kv_blocks,
        "host": vars(on.host),
    }


def scheduler_facts(config: SchedulerConfig) -> dict[str, object]:
    """The scheduler's settings."""
    return dict(vars(config))
