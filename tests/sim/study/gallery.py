"""One figure of every kind, and the runs behind them."""

from functools import cache

import plotly.graph_objects as go
import polars as pl

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.times import times_for
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.run.simulate import simulate
from sim.serving.config import SchedulerConfig
from sim.study import pictures
from sim.study.operations import operations
from sim.workload.generate import named_workload
from tests.sim.study import frames
from tests.sim.study.frames import MODEL


def figures() -> dict[str, go.Figure]:
    return {
        "plan_table": pictures.plan_table(strategy_named("skip_decode", MODEL)),
        "capacity_bars": pictures.capacity_bars(frames.capacities()),
        "latency_curves": pictures.latency_curves(frames.points(), Slo()),
        "plan_steps": pictures.plan_steps({"swift_kv": strategy_named("swift_kv", MODEL)}, range(0, 64, 8)),
        "waterfall": pictures.waterfall(frames.steps()),
        "ffn_by_batch": pictures.ffn_by_batch(frames.ffn()),
        "skip_decode_by_batch": pictures.skip_decode_by_batch(frames.depth()),
        "single_stream": pictures.single_stream(frames.streams()),
        "cost_quality": pictures.cost_quality(frames.capacities()),
        "attribution": pictures.attribution(frames.seconds()),
        "timeline": pictures.timeline(frames.run(300)),
        "gantt": pictures.gantt(served()),
        "roofline": pictures.roofline(counted(), bytes_per_s=4.8e12, flops_per_s=989e12),
    }


@cache
def served() -> Result:
    """A run in which some wait."""
    on = Deployment(MODEL, gpu_named("h200"))
    work = named_workload("azure-conv", requests=150, qps=40)
    return simulate(work, on, strategy_named("dense", MODEL), SchedulerConfig(max_num_seqs=32))


def counted() -> pl.DataFrame:
    return operations(Deployment(MODEL, gpu_named("h200")), times_for("h200"))


FIGURES = figures()


def values(column: object) -> list[float]:
    return [float(v) for v in column]  # type: ignore[attr-defined]


FIGURES = figures()
