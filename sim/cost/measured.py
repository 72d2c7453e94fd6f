"""Kernel times of one GPU from coefficients fitted to measured kernels (`coefficients/<gpu>.json`).

The files hold fits, not rows: source and licence, engine version, domain, residuals in sample and held out, and the
command that made them. What no fit covers (fp8 on silicon without it) falls back to the roofline, marked outside.
Attention does not contain the bytes of writing K and V to the cache; fp8 GEMMs contain the quantisation of their
input.

Checked against others. Four GEMMs of a Llama-3.1-8B layer, bf16, as a share of the datasheet's roof at 1, 64, 256 and
2,048 rows: H200 0.73, 0.70, 0.67, 0.80; H100 0.80, 0.78, 0.65, 0.81; A100 0.69, 0.65, 0.64, 0.85. Vidur's H100
GEMMs of Llama-2-7B (TP 1 to 8, libraries of 2024) take longer than these fits: by a median of 4 % at 1-64 rows, 20 %
at 65-256, 27 % at 257-1,024, 13 % at 1,025-4,096; the tables themselves differ as much (25 % at 512 rows). Its A800
grid (FlashInfer) against the A100 fit: decode 7-12 % shorter from 2 rows on, chunks of 512 and more after context
12-15 % longer. Short bursts on a cool GPU flatter large GEMMs: expect a loaded server to be slower.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times, columns
from sim.cost.attention_times import DecodeTimes, PrefillTimes
from sim.cost.gemm_times import GemmTimes, climb, within
from sim.cost.hardware import Gpu
from sim.cost.roofline import Roofline
from sim.errors import InputError

FOLDER = Path(__file__).with_name("coefficients")
FORMAT = 1


def coefficients_path(gpu: str) -> Path | None:
    """The coefficients file of a GPU of the catalogue, None where nothing was measured."""
    path = FOLDER / f"{gpu.removesuffix('-80')}.json"
    return path if path.is_file() else None


@dataclass(frozen=True)
class Measured:
    """Fitted kernel times of one GPU."""

    gpu: Gpu
    provenance: Mapping[str, object]
    gemms: Mapping[str, GemmTimes]
    prefill: Mapping[str, tuple[PrefillTimes, ...]]
    decode: Mapping[str, tuple[DecodeTimes, ...]]
    pointwise: Mapping[str, Any]
    reduce: Mapping[int, Mapping[str, Any]]

    @classmethod
    def read(cls, path: Path, *, gpu: Gpu) -> "Measured":
        """The fits of a coefficients file. Raises InputError naming the file where it is not one."""
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise InputError(f"{path}: format {facts['format']!r}, this version reads {FORMAT}")
            return cls.of(facts, gpu=gpu)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as cause:
            if isinstance(cause, InputError):
                raise
            raise InputError(f"{path}: not a file of kernel coefficients ({cause!r})") from cause

    @classmethod
    def of(cls, facts: Mapping[str, Any], *, gpu: Gpu) -> "Measured":
        """The fits of a parsed coefficients file."""
        ops = facts["ops"]
        return cls(
            gpu=gpu,
            provenance={k: v for k, v in facts.items() if k != "ops"} | _summary(ops),
            gemms={dtype: GemmTimes.read(table) for dtype, table in ops["gemm"].items()},
            prefill={d: tuple(PrefillTimes.read(t) for t in ts) for d, ts in ops["prefill_attention"].items()},
            decode={d: tuple(DecodeTimes.read(t) for t in ts) for d, ts in ops["decode_attention"].items()},
            pointwise=ops["elementwise"],
            reduce={int(tp): table for tp, table in ops["all_reduce"].items()},
        )

    @property
    def label(self) -> str:
        """How results name this source."""
        return f"measured on {self.gpu.name} ({self.provenance['engine']})"

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n]; fp8 includes the quantisation of the input."""
        (rows,) = columns(m)
        if dtype not in self.gemms:
            return Roofline(self.gpu).gemm(m, n, k, dtype)
        return _launched(rows > 0, *self.gemms[dtype](rows, n, k))

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """What `gemm` in fp8 contains of quantising its input [m, k]."""
        (rows,) = columns(m)
        if "fp8" not in self.gemms:
            return Roofline(self.gpu).quantisation(m, k)
        return np.where(rows > 0, self.gemms["fp8"].quantisation(rows, k), 0.0)

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal attention of one sequence: `new` query tokens after `context` cached ones."""
        queries, cached = columns(new, context)
        if kv_dtype not in self.prefill:
            return Roofline(self.gpu).prefill_attention(new, context, heads, kv_heads, head_dim, kv_dtype)
        fit = min(self.prefill[kv_dtype], key=lambda f: abs(f.head_dim - head_dim))
        return _launched(queries > 0, *fit(queries, cached, heads, kv_heads, head_dim))

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """One query token for each of `rows` sequences over `context` cached tokens each."""
        queries, cached = columns(rows, context)
        if kv_dtype not in self.decode:
            return Roofline(self.gpu).decode_attention(rows, context, heads, kv_heads, head_dim, kv_dtype)
        grouped = heads > kv_heads
        fit = min(self.decode[kv_dtype], key=lambda f: (f.grouped != grouped, abs(f.head_dim - head_dim)))
        return _launched(queries > 0, *fit(queries, cached, heads, kv_heads, head_dim))

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory: a floor plus bytes at the fitted rate."""
        (moved,) = columns(bytes_moved)
        ns = self.pointwise["floor_ns"] + moved * self.pointwise["ns_per_byte"]
        return _launched(moved > 0, ns, within(self.pointwise["domain"], bytes_moved=moved))

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Sum of one message over `tp` GPUs; an unmeasured tp takes the next larger one measured."""
        (message,) = columns(message_bytes)
        if tp < 1:
            raise InputError(f"tp = {tp}: tensor parallelism is at least 1")
        if tp == 1:
            return np.zeros(message.shape), np.ones(message.shape, dtype=bool)
        measured = [size for size in sorted(self.reduce) if size >= tp]
        if not measured:
            return Roofline(self.gpu).all_reduce(message_bytes, tp)
        table = self.reduce[measured[0]]
        ns = climb(message, np.asarray(table["knots"]), np.asarray(table["ns"]))
        inside = within(table["domain"], message_bytes=message) & (measured[0] == tp)
        return _launched(message > 0, ns, inside)


def _launched(some: Any, ns: Floats, inside: Any) -> Times:
    """Work of size zero is not launched and costs nothing."""
    return np.where(some, ns, 0.0), np.broadcast_to(np.asarray(inside) | ~some, ns.shape).copy()


def _summary(ops: Mapping[str, Any]) -> dict[str, object]:
    """Domain and residuals of every fit, without its coefficients."""
    found: dict[str, object] = {}
    for op, fits in ops.items():
        tables = fits.items() if op != "elementwise" else (("all", fits),)
        for key, table in tables:
            for one in table if isinstance(table, list) else [table]:
                parts = (op, key, one.get("head_dim"), "mha" if one.get("grouped") is False else None)
                name = "/".join(str(x) for x in parts if x is not None)
                found[name] = {"domain": one["domain"], "residuals": one["residuals"]}
    return {"fits": found}
