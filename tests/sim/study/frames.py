"""A study that nobody ran: frames of the shapes that the pictures and the report take."""

from types import SimpleNamespace

import numpy as np
import polars as pl

from sim.plans.catalogue import model_named
from sim.plans.strategies import STRATEGIES as BUILDERS
from sim.study.operations import SCHEMA as OPERATIONS
from sim.study.whatif import CAPACITIES, LADDER

MODEL = model_named("llama-3.1-8b")
SPECS = (
    *(name for name in BUILDERS if name != "static_depth"),
    "static_depth:drop=20/21/25",
    "swift_kv:group=4",
    "swift_kv:group=4+skip_decode:speedup=2",
    "swift_kv+ffn_skip",
)
STRATEGIES = (
    "dense",
    "skip_decode:speedup=2",
    "ffn_skip:share=0.25",
    "swift_kv:keep=16",
    "swift_kv:keep=16,group=4",
    "swift_kv:keep=16+skip_decode:speedup=2",
)
QPS = (6.21, 6.9, 6.25, 9.4, 9.95, 10.6)
QUALITY = (1.0, None, 0.97, 0.99, 0.96, None)
PARTS = ("weights", "kv", "compute", "pointwise", "communication", "launch", "host")


def capacities() -> pl.DataFrame:
    """One row per strategy; the composition has no interval."""
    return pl.DataFrame(
        {
            "strategy": STRATEGIES,
            "max_qps_per_gpu": QPS,
            "max_qps_low": [*(q * 0.96 for q in QPS[:-1]), None],
            "max_qps_high": [*(q * 1.03 for q in QPS[:-1]), None],
            "gpus": [-(-100 // int(q)) for q in QPS],
            "dollars_per_million_output_tokens": [5 / q for q in QPS],
            "quality": QUALITY,
            "quality_how": [q and "published" for q in QUALITY],
        }
    )


def points(*, bands: bool = True) -> pl.DataFrame:
    """Latencies that grow as a queue's do."""
    rows = []
    for strategy, most in zip(STRATEGIES, QPS):
        for load in np.linspace(0.2, 1.1, 7):
            wait = 1 / (1.15 - load)
            row = {"strategy": strategy, "qps": load * most, "within_slo": bool(load < 1)}
            for metric, base in (("ttft", 90.0), ("tpot", 6.0)):
                for quantile, factor in (("p50", 0.5), ("p90", 1.0)):
                    value = base * factor * wait
                    row[f"{metric}_{quantile}_ms"] = value
                    if bands:
                        row |= {f"{metric}_{quantile}_low_ms": 0.9 * value, f"{metric}_{quantile}_high_ms": 1.2 * value}
            rows.append(row)
    return pl.DataFrame(rows)


def whatif() -> pl.DataFrame:
    """Capacities of every strategy but the first at three strengths, under four SLOs; qualities of some."""
    rows = []
    for strategy, most, quality in zip(STRATEGIES, QPS, QUALITY):
        for strength in (0.5, 1.0, 1.5) if strategy != "dense" else (1.0,):
            plan = strategy if strength == 1 else f"{strength:g} times {strategy}"
            for ttft in (500.0, 1000.0):
                for tpot in (10.0, 50.0):
                    held = most * strength**0.5 * (ttft / 1000) ** 0.2
                    low = strategy.startswith("ffn") and tpot < 50
                    how = quality and "published"
                    rows.append((strategy, strength, plan, ttft, tpot, None if low else held, quality, how))
    return pl.DataFrame(rows, schema=CAPACITIES, orient="row")


def ladder() -> pl.DataFrame:
    """Latencies of the same plans at five rates."""
    plans = whatif().unique(["strategy", "strength"], keep="last", maintain_order=True)
    rows = [
        (r["strategy"], r["strength"], r["plan"], load * 12, 80 / (1.1 - load), 6 / (1.2 - load), 0.05)
        for r in plans.iter_rows(named=True)
        for load in (0.1, 0.3, 0.6, 0.8, 1.0)
    ]
    return pl.DataFrame(rows, schema=LADDER, orient="row")


def steps() -> pl.DataFrame:
    """A waterfall for all but the dense model; the steps add up."""
    rows = []
    for strategy, nominal in zip(STRATEGIES[1:], (0.5, 0.25, 0.5, 0.53, 0.6)):
        parts = {
            "the other phase runs in full": -0.3,
            "weights are read if any row of the step needs them": -0.35,
            "KV cache reads, of all layers that attend": 0.05,
            "host work per step": -0.1,
        }
        rows.append((strategy, "blocks skipped, in the phase it acts on", nominal, "total"))
        rows += [(strategy, text, nominal * share, "loss") for text, share in parts.items()]
        end = nominal * (1 + sum(parts.values()))
        rows.append((strategy, f"realised: {1 / (1 - end):.2f}x the requests per GPU", end, "result"))
    return pl.DataFrame(rows, schema=["strategy", "label", "value", "kind"], orient="row")


def ffn() -> pl.DataFrame:
    """Weight saving p^B for two gates."""
    gates = (("ffn_skip:share=0.25", 0.25), ("ffn_skip:share=0.5", 0.5))
    rows = [(name, b, 0.6 * p, 0.6 * p**b) for name, p in gates for b in (1, 2, 4, 8, 16)]
    return pl.DataFrame(rows, schema=["strategy", "batch", "nominal", "realised"], orient="row")


def depth() -> pl.DataFrame:
    """SkipDecode's saving under two policies on two models."""
    rows = [
        ("skip_decode:speedup=2", model, policy, b, 0.5, 0.45 / b**slope)
        for model in ("llama-3.1-8b", "llama-2-7b")
        for policy, slope in (("continuous batching", 0.4), ("static batch of equal age", 0.02))
        for b in (1, 8, 32, 128)
    ]
    names = ["strategy", "model", "policy", "batch", "nominal", "realised"]
    return pl.DataFrame(rows, schema=names, orient="row")


def streams() -> pl.DataFrame:
    """Three strategies alone and under load."""
    rows = [
        (strategy, load, ttft * busy, tpot * busy)
        for load, busy in (("one request at a time", 1.0), ("5 requests per second", 4.0))
        for strategy, ttft, tpot in (("dense", 95.0, 7.1), (STRATEGIES[3], 54.0, 7.1), (STRATEGIES[1], 95.0, 4.3))
    ]
    return pl.DataFrame(rows, schema=["strategy", "load", "ttft_ms", "tpot_ms"], orient="row")


def seconds() -> pl.DataFrame:
    """A run's seconds by kind and part."""
    kinds = {"kind": ["prefill", "decode", "mixed"], "iterations": [310, 20110, 8123]}
    return pl.DataFrame(kinds | {f"{part}_s": [1.0 + i, 10.0 * (i + 1), 7.0 - i] for i, part in enumerate(PARTS)})


def operations() -> pl.DataFrame:
    """Three operations of every kind, at half of what the datasheet allows."""
    rows = [
        (f"{kind} {i}", kind, n, n * size, size + n * 1e4, 2 * max(n * size / 1e6, (size + n * 1e4) / 4e3), i < 2)
        for kind in ("matrix product", "attention", "pass over memory")
        for i, size in enumerate((1e7, 1e8, 1e9))
        for n in (1, 16, 256, 4096)
    ]
    return pl.DataFrame(rows, schema=OPERATIONS, orient="row")


def run(iterations: int) -> SimpleNamespace:
    """A run of that many iterations, as far as a timeline looks."""
    rng = np.random.default_rng(1)
    start = np.cumsum(rng.integers(5, 60, iterations)) * 1_000_000
    wave = np.sin(np.arange(iterations) / 900)
    frame = {
        "start_ns": start,
        "prompt_tokens": rng.integers(0, 2048, iterations),
        "decode_rows": (60 + 40 * wave).astype(int),
        "kv_share": np.clip(0.5 + 0.45 * wave, 0, 1),
        "waiting": np.maximum(0, 30 * wave - 10).astype(int),
        "duration_ns": np.diff(start, append=start[-1] + 1_000_000),
        "kind": ["mixed"] * iterations,
    }
    came = np.linspace(0, start[-1], iterations // 4).astype(int)
    times = {"arrival_ns": 0, "scheduled_ns": 20, "first_token_ns": 150, "last_token_ns": 2000}
    requests = {name: came + ms * 1_000_000 for name, ms in times.items()}
    requests |= {"request": np.arange(came.size), "prompt_tokens": came % 1000 + 1, "output_tokens": came % 100 + 1}
    return SimpleNamespace(iterations=pl.DataFrame(frame), requests=pl.DataFrame(requests))
