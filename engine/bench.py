"""Latency and throughput of strategies against the dense plan and against transformers, in one run on one machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from rich.table import Table

from engine.bench_peers import peers_of
from engine.config import read_config
from engine.llm import LLM
from engine.loading import device_named, dtype_named, free_memory
from engine.recorder import Recorder
from engine.roofline import shares
from engine.sampler import SamplingParams
from sim.errors import InputError, PlanError
from sim.plans.model import ModelShape
from sim.serving.config import SchedulerConfig
from sim.serving.trace import Run

Row = dict[str, Any]
SHARES = (
    "decode_skip_nominal",
    "skip_requested",
    "weight_bytes_skip_realised",
    "kv_read_skip_realised",
    "agreement_top1",
)


@dataclass(frozen=True)
class Bench:
    """What is run: `prompts` random prompts of equal length at once, each continued greedily by `max_tokens`."""

    model: Path | ModelShape  # a checkpoint's folder, or a shape for random weights
    strategies: tuple[str, ...]
    prompts: int
    prompt_tokens: int
    max_tokens: int
    repeats: int
    device: str
    dtype: str
    scheduler: SchedulerConfig
    kv_blocks: int | None
    transformers: bool
    agreement: float = 0.0

    def __post_init__(self) -> None:
        for name in ("prompts", "prompt_tokens", "max_tokens", "repeats"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def shape(self) -> ModelShape:
        """The model's shape."""
        return self.model if isinstance(self.model, ModelShape) else read_config(self.model).shape


def rows_of(bench: Bench, *, note: Callable[[str], None], traced: list[Run] | None = None) -> list[Row]:
    """One row per system: medians over repeats of wall time, TTFT and TPOT, with ratios to the dense plan.

    A strategy that does not fit the model is told to `note` and left out. `traced` gets one more run of each, recorded
    and not timed.
    """
    rows = [_engine_row(bench, "dense", traced)]
    for strategy in bench.strategies:
        if strategy == "dense":
            continue
        try:
            rows.append(_engine_row(bench, strategy, traced))
        except PlanError as error:
            note(f"{strategy} is left out: {error}")
    if bench.transformers:
        rows += _peer_rows(bench)
    dense = rows[0]
    for row in rows:
        row["speedup"] = row["output_tokens_per_s"] / dense["output_tokens_per_s"]
        for metric in ("ttft_ms", "tpot_ms"):
            row[f"{metric.removesuffix('_ms')}_ratio"] = row[metric] / dense[metric] if row[metric] else None
    return rows


def _prompts(bench: Bench, vocab: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(2, vocab, (bench.prompts, bench.prompt_tokens)).tolist()


def _engine_row(bench: Bench, strategy: str, traced: list[Run] | None) -> Row:
    llm = LLM(
        bench.model,
        plan=strategy,
        device=bench.device,
        dtype=bench.dtype,
        scheduler=bench.scheduler,
        kv_blocks=bench.kv_blocks,
        agreement=bench.agreement,
    )
    params = SamplingParams(max_tokens=bench.max_tokens, ignore_eos=True)
    vocab = llm.config.shape.vocab
    llm.generate(_prompts(bench, vocab, 0), params)  # warms up allocators, kernels and graphs
    walls, ttft, tpot = [], [], []
    for repeat in range(bench.repeats):
        started = perf_counter()
        done = llm.generate(_prompts(bench, vocab, 1 + repeat), params)
        walls.append(perf_counter() - started)
        failed = [c.error for c in done if c.error]
        if failed:
            raise InputError(str(failed[0]))
        events = llm.events()
        last = slice(-bench.prompts, None)
        ttft.append(float(np.mean(events["first_token_ns"][last] - events["arrival_ns"][last])) / 1e6)
        span = events["last_token_ns"][last] - events["first_token_ns"][last]
        tpot.append(float(np.mean(span / max(1, bench.max_tokens - 1))) / 1e6)
    summary = llm.metrics.summary()
    if traced is not None:
        recorder = Recorder(llm)
        llm.generate(_prompts(bench, vocab, 1 + bench.repeats), params)  # none of which the prefix cache knows
        traced.append(recorder.run())
    return {
        "system": strategy,
        **_speed(bench, walls),
        "ttft_ms": median(ttft),
        "tpot_ms": median(tpot) if bench.max_tokens > 1 else None,
        "decode_skip_nominal": llm.plan.nominal_skip,
        "prompt_skip_nominal": llm.plan.prompt_skip,
        "agreement_top1": summary["agreement_top1"] if bench.agreement else None,
        "skip_requested": summary["skip_requested"],
        "weight_bytes_skip_realised": summary["weight_bytes_skip_realised"],
        "kv_read_skip_realised": summary["kv_read_skip_realised"],
    }


def _peer_rows(bench: Bench) -> list[Row]:
    """The same prompts through transformers; its time per token is end to end."""
    device = device_named(bench.device)
    rows: list[Row] = []
    free_memory(device)
    peers = peers_of(bench.model, device=device, dtype=dtype_named(bench.dtype, device))
    for system, run in peers.items():
        rates = [run(_prompts(bench, bench.shape.vocab, 1 + r), bench.max_tokens) for r in range(-1, bench.repeats)][1:]
        walls = [bench.prompts * bench.max_tokens / rate for rate in rates]
        rows.append({"system": system, **_speed(bench, walls), "ttft_ms": None, "tpot_ms": None})
    return rows


def roofline_of(bench: Bench) -> list[dict[str, float | str]]:
    """Each kernel's share of the roofline at this batch and context. Raises InputError without a GPU."""
    context = bench.prompt_tokens + bench.max_tokens
    device = device_named(bench.device)
    free_memory(device)
    return shares(bench.shape, rows=bench.prompts, context=context, device=device)


def _speed(bench: Bench, walls: Sequence[float]) -> Row:
    wall = median(walls)
    return {
        "wall_s": wall,
        "wall_spread": (max(walls) - min(walls)) / wall,
        "output_tokens_per_s": bench.prompts * bench.max_tokens / wall,
    }


def table_of(bench: Bench, rows: Sequence[Row]) -> Table:
    """The rows as a table of ratios to the dense plan: what was nominally skipped beside what was saved."""
    title = f"{bench.prompts} prompts of {bench.prompt_tokens} tokens, {bench.max_tokens} generated each, greedy"
    table = Table(title=title, caption=f"medians of {bench.repeats}; ratios to dense; spread is (max - min) / median")
    for column in ("system", "tokens/s", "spread", "speed-up", "TTFT", "TPOT"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for column in ("nominal skip", "blocks skipped", "weight bytes saved", "KV reads saved", "top-1 agreement"):
        table.add_column(column, justify="right")
    for row in rows:
        told = [row.get(name) for name in SHARES]
        table.add_row(
            row["system"],
            f"{row['output_tokens_per_s']:,.0f}",
            f"{row['wall_spread']:.0%}",
            f"{row['speedup']:.2f}x",
            *(f"{r:.2f}x" if (r := row[name]) else "–" for name in ("ttft_ratio", "tpot_ratio")),
            *("–" if share is None else f"{share:.1%}" for share in told),
        )
    return table


def roofline_table(rows: Sequence[dict[str, float | str]]) -> Table:
    """The kernels' shares as a table."""
    table = Table(title="kernels against copy bandwidth and matmul rate, both measured in this run")
    for column in ("kernel", "µs", "share of roofline"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for row in rows:
        table.add_row(str(row["kernel"]), f"{float(row['us']):,.1f}", f"{float(row['roofline_share']):.0%}")
    return table
