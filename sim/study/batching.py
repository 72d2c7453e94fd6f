"""What batching does to skipping, from runs at a fixed number of sequences in flight.

Weights are read if any row of the step needs them, so a saving that rows decide one by one fades as the batch grows,
while one that a whole phase shares stays. Every figure comes from the simulator; nothing is a formula.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from sim.cost.deployment import Deployment
from sim.cost.times import KernelTimes, times_for
from sim.errors import CapacityError
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.plans.strategies import dense, ffn_skip, skip_decode
from sim.run.metrics import Slo
from sim.run.result import Result
from sim.run.simulate import Simulation
from sim.serving.config import Policy, SchedulerConfig
from sim.study.assess import fewer, with_intervals
from sim.study.intervals import varied
from sim.study.profile import met_shares
from sim.study.service import Service
from sim.workload.generate import closed_loop
from sim.workload.lengths import Fixed, Lengths, RangeRatio

FFN_BATCHES = (1, 2, 4, 8, 16, 32, 64)
DEPTH_BATCHES = (1, 8, 32, 128)
ALONE = "one request at a time"
CONTINUOUS, EQUAL_AGE = "continuous batching", "static batch of equal age"
BATCH_SCHEMA = {
    "strategy": pl.String,
    "model": pl.String,
    "policy": pl.String,
    "batch": pl.Int64,
    "nominal": pl.Float64,
    "realised": pl.Float64,
    "kv_saved": pl.Float64,
    "speedup": pl.Float64,
    "decode_speedup": pl.Float64,
}
TURNS = 30  # requests per sequence in flight: the filling and emptying of the batch is then a small part of the run


def independent_ffn_skip(model: ModelShape, share: float = 0.25) -> SkipPlan:
    """A gate under which every row skips every FFN with one probability, independent of all others: p^B."""
    skip = np.full(model.layers, share)
    plan = ffn_skip(model, skip=skip, run_length=model.layers, cold_layers=0, warmup_tokens=0)
    return replace(plan, name=f"FFN skip {share:.0%}, each row on its own")


def ffn_saving(
    on: Deployment, times: KernelTimes | None = None, *, share: float = 0.25, batches: Sequence[int] = FFN_BATCHES
) -> pl.DataFrame:
    """Weight bytes that FFN skipping saves, by batch: strategy, batch, nominal, realised, speedup.

    Two gates: the published rule, whose runs of skips start alike for every row, and independent rows. Prompts are 64
    tokens, outputs 1 to 511. `nominal` is what a row alone would save, `speedup` the dense run's time over this one's.
    """
    plans = (strategy_named(f"ffn_skip:share={share}", on.model), independent_ffn_skip(on.model, share))
    lengths = (Fixed(64), RangeRatio(256, 0.999))
    held = [batch for batch in batches if fits(on, batch, 64 + 511)]
    rows = [_row(on, plan, times, CONTINUOUS, batch, lengths) for plan in plans for batch in held]
    return pl.DataFrame(rows, schema=BATCH_SCHEMA).drop("model", "policy", "decode_speedup", "kv_saved")


def depth_saving(
    on: Deployment, times: KernelTimes | None = None, *, batches: Sequence[int] = DEPTH_BATCHES
) -> pl.DataFrame:
    """What SkipDecode saves, by batch and policy: strategy, model, policy, batch, nominal, realised, kv_saved,
    speedup, decode_speedup.

    The budget falls from all layers to a quarter of them over 256 tokens. Continuous batching serves outputs of 1 to
    255 tokens, so that rows of all ages share a step; static batches serve 256 tokens each, all of one age, the
    setting of the SkipDecode paper. `decode_speedup` compares the rates of the steps that only decode.
    """
    layers = on.model.layers
    plan = skip_decode(on.model, max_budget=layers, min_budget=max(2, layers // 4))
    settings = ((CONTINUOUS, (Fixed(512), RangeRatio(128, 0.999))), (EQUAL_AGE, (Fixed(512), Fixed(256))))
    held = [batch for batch in batches if fits(on, batch, 512 + 256)]
    rows = [_row(on, plan, times, setting, batch, lengths) for setting, lengths in settings for batch in held]
    return pl.DataFrame(rows, schema=BATCH_SCHEMA)


def fits(on: Deployment, batch: int, tokens: int) -> bool:
    """Whether so many sequences of so many tokens are in memory at once; a model that does not fit holds none."""
    if tokens > on.model.max_context:
        return False
    config = SchedulerConfig(max_num_seqs=batch)
    try:
        blocks = on.kv_capacity_blocks(
            dense(on.model),
            block_tokens=config.block_tokens,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_num_seqs=batch,
        )
    except CapacityError:
        return False
    return batch * (tokens // config.block_tokens + 1) <= blocks


def _row(
    on: Deployment,
    plan: SkipPlan,
    times: KernelTimes | None,
    setting: str,
    batch: int,
    lengths: tuple[Lengths, Lengths],
) -> dict[str, object]:
    """One batch size under one policy, against the dense model on the same requests."""
    equal_age = setting == EQUAL_AGE
    prompts, outputs = lengths
    requests = 2 * batch if equal_age else TURNS * batch
    work = closed_loop(requests=requests, concurrency=batch, prompts=prompts, outputs=outputs)
    policy: Policy = "static" if equal_age else "chunked"
    config = SchedulerConfig(policy=policy, max_num_seqs=batch)
    times = times or times_for(on.gpu.name)
    base, run = (Simulation(work, on, p, config, times=times).run() for p in (dense(on.model), plan))
    m = on.model
    layers = m.layers * m.p_layer
    met = met_shares(plan, m, work.prompt_tokens, work.output_tokens)["decode"]
    return {
        "strategy": plan.name,
        "model": m.name,
        "policy": setting,
        "batch": batch,
        "nominal": met * layers / (layers + m.p_head),
        "realised": run.realised["weight_bytes_saved"],
        "kv_saved": run.realised["kv_read_bytes_saved"],
        "speedup": base.makespan_s / run.makespan_s,
        "decode_speedup": decode_rate(run) / decode_rate(base),
    }


def decode_rate(result: Result) -> float:
    """Tokens per second of the steps that only decode."""
    steps = result.iterations.filter(pl.col("kind") == "decode")
    return float(steps["decode_rows"].sum()) / (float(steps["duration_ns"].sum()) / 1e9)


def streams_and_load(
    services: Sequence[Service], qps: float, slo: Slo, draws: int = 0, *, requests: int = 200
) -> pl.DataFrame:
    """Median TTFT and TPOT of one request at a time, and under a mixed load, with their intervals.

    Columns: strategy, load, ttft_ms, ttft_ms_low, ttft_ms_high, tpot_ms, tpot_ms_low, tpot_ms_high.
    """
    rows = []
    for service in services:
        drawn = varied(service, draws=fewer(draws))
        for name, work in (
            (ALONE, service.load.alone(requests)),
            (f"{qps:.3g} requests per second", service.load.at(qps)),
        ):
            found = with_intervals(service, service.run(work), slo, drawn, ("ttft_p50_ms", "tpot_p50_ms"))
            medians = {k.replace("_p50", ""): v for k, v in found.items() if not k.endswith("_shares")}
            rows.append({"strategy": service.plan.name, "load": name, **medians})
    return pl.DataFrame(sorted(rows, key=lambda row: row["load"] != ALONE), infer_schema_length=None)
