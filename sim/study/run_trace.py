"""A simulated run as a Chrome trace."""

import polars as pl

from sim.run.result import Result
from sim.serving.trace import REQUESTS, Column, Run, trace_text


def run_trace(result: Result) -> str:
    """The run as the text of a trace, with the parts of each iteration's price; refused requests are left out."""
    served = result.requests.drop_nulls("last_token_ns").select(REQUESTS)
    run = Run(result.plan.name, _columns(result.iterations.drop("kind")), _columns(served.cast(pl.Int64)))
    about = {
        "simulated": result.deployment.model.name,
        "gpu": f"{result.deployment.tp} x {result.deployment.gpu.name}",
        "strategy": result.plan.name,
        "plan_digest": result.plan.digest,
        "workload": result.workload.name,
        "kernel_times": result.times_label,
    }
    return trace_text([run], about)


def _columns(frame: pl.DataFrame) -> dict[str, Column]:
    return {name: frame[name].to_numpy() for name in frame.columns}
