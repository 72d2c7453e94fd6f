"""Rows as `measure` would write them on a machine that is known to the nanosecond: what fits must recover."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from calibration.engine_runs import simulation_of, together
from calibration.grid import Limits, items_of
from calibration.items import Burst
from calibration.setting import Setting, model_facts
from sim.cost.arrays import Dtype, Floats, Times, columns
from sim.cost.attention_times import PrefillTimes
from sim.cost.deployment import Host
from sim.cost.hardware import gpu_named
from sim.plans.model import ModelShape

SHAPE = ModelShape("toy", "llama", 8, 512, 8, 2, 64, 1024, 4096, 4096, True, False)
LIMITS = Limits(rows=2048, sequences=64, context=4096)
BURSTS = (Burst(1, 64, 256, 12), Burst(32, 64, 256, 12), Burst(12, 4, 300, 16, mixed=True))
PLANS = ("dense", "swift_kv", "skip_decode:speedup=2")
HOST = Host(
    step_ns=60_000, row_ns=1_000, overlap=True, graph_rows=128, graph_gap_ns=900, eager_launch_ns=14_000,
    graph_prompts=False,
)  # fmt: skip
PREFILL = {
    "sms": 132, "head_dim": 64, "splits": False, "step_ns": 700.0, "knots": [1.0, 4096.0],
    "coefficients": {"one": [5000.0, 5000.0], "heads": [100.0, 900.0], "roof": [650.0, 720.0]},
    "domain": {name: [0.0, 1e9] for name in ("new", "context", "heads", "kv_heads")},
}  # fmt: skip


def _inside(ns: np.ndarray) -> Times:
    return np.asarray(ns, dtype=np.float64), np.ones(np.shape(ns), dtype=bool)


@dataclass(frozen=True)
class Truth:
    """Kernel times that are known to the nanosecond."""

    label: str = "truth"
    provenance: Mapping[str, object] = field(default_factory=dict)

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """Weights streamed, or rows multiplied, whichever takes longer, and a launch."""
        (rows,) = columns(m)
        return _inside(1500 + n * k * np.maximum(1.0 / 2000, rows / 350_000))

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """Nothing."""
        return np.zeros(columns(m)[0].shape)

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """The schedule of tiles."""
        return _inside(PrefillTimes.read(PREFILL)(*columns(new, context), heads, kv_heads, head_dim)[0])

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Keys and values streamed."""
        queries, cached = columns(rows, context)
        return _inside(4000 + queries * kv_heads * (30 + cached * head_dim * 4 / 2500))

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """A floor, and bytes at a rate."""
        return _inside(2200 + columns(bytes_moved)[0] / 3000)

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Nothing: one device."""
        return _inside(np.zeros_like(columns(message_bytes)[0]))


def rows_of(*, noise: float = 0.0, seed: int = 0, device: str = "NVIDIA H200", **changes: Any) -> list[dict[str, Any]]:
    """Rows of every kind, each time off by log-normal noise."""
    rng = np.random.default_rng(seed)
    rows = [row for item in items_of(SHAPE, LIMITS, plans=PLANS, bursts=BURSTS, graphs=True) for row in _rows(item)]
    for row in rows:
        row["p50_ns"] = float(row["p50_ns"] * np.exp(noise * rng.standard_normal()))
        row.update(_head(device) | changes)
    return rows


def _head(device: str) -> dict[str, Any]:
    about = {"dtype": "bfloat16", "processors": 132, "date": "2026-11-25", "commit": "abc", "device": device}
    return about | model_facts(SHAPE)


def _rows(item: Any) -> Iterator[dict[str, Any]]:
    sizes, truth = dict(item.sizes), Truth()
    heads = SHAPE.heads, SHAPE.kv_heads, SHAPE.head_dim
    one = {"key": item.key, "op": item.op, **sizes, "bytes_moved": 0.0, "flops": 0.0}
    if item.op == "gemm":
        yield one | {"p50_ns": truth.gemm(item["m"], item["n"], item["k"], "bf16")[0][0]}
    elif item.op == "decode_attention":
        yield one | {"p50_ns": truth.decode_attention(item["rows"], item["context"], *heads, "bf16")[0][0]}
    elif item.op == "prefill_attention":
        yield one | {"p50_ns": truth.prefill_attention(item["new"], item["context"], *heads, "bf16")[0][0]}
    elif item.op in ("norm", "keys", "activation"):
        per_row = {"norm": 8 * SHAPE.hidden, "keys": 4 * SHAPE.d_q + 10 * SHAPE.d_kv, "activation": 6 * SHAPE.ffn}
        moved = float(item["rows"] * per_row[item.op])
        yield one | {"p50_ns": truth.elementwise(moved)[0][0], "bytes_moved": moved}
    elif item.op == "copy":
        yield one | {"p50_ns": 2 * item["bytes"] / 4.3, "bytes_moved": 2.0 * item["bytes"]}
    elif item.op == "product":
        yield one | {"p50_ns": 2 * item["side"] ** 3 / 8e5, "flops": 2.0 * item["side"] ** 3}
    elif item.op == "step":
        yield from _steps(item, one)


def _steps(item: Any, one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A burst, as the simulator runs it under the true times and the true host."""
    burst = Burst.of(item)
    ran = {"budget": LIMITS.rows, "block_tokens": 16, "max_context": 1024, "kv_blocks": 5000}
    ran |= {"pipelined": 1, "graphs": 1}
    setting = Setting.of(one | ran)
    result = simulation_of(setting, SHAPE, gpu_named("h200"), together(burst), Truth(), HOST).run(stepwise=True)
    for i, step in enumerate(result.iterations.iter_rows(named=True)):
        device = sum(step[f"{name}_ns"] for name in ("weights", "kv", "compute", "pointwise"))
        own = HOST.step_ns + HOST.row_ns * float(step["running"])
        # a replay's launch is in the host's constant; without one launching is all that the host is busy with
        host = float(step["launch_ns"] + device) if step["prompt_tokens"] else own
        yield one | ran | {
            "iteration": i, "prompt_tokens": step["prompt_tokens"], "decodes": step["decode_rows"],
            "tokens": step["prompt_tokens"] + step["decode_rows"], "p50_ns": float(step["duration_ns"]),
            "host_ns": host, "forward_ns": host - own,
        }  # fmt: skip
    frame = result.requests
    yield one | ran | {
        "op": "burst", "p50_ns": result.makespan_s * 1e9, "ttft_ns": float(frame["ttft_ms"].mean()) * 1e6,
        "tpot_ns": float(frame["tpot_ms"].mean()) * 1e6,
    }  # fmt: skip
