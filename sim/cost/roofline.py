"""Kernel times from the datasheet and a table of efficiencies: the source for a GPU nobody measured.

Williams, Waterman, Patterson: "Roofline" (CACM 2009) takes max(bytes/bandwidth, FLOPs/peak). Real kernels lose
most where the two meet (0.50-0.60 of the roof at 128-256 rows on A100 and H100, 0.75 on either side), so we take
their 2-norm: exact far from the ridge, sqrt(2) above the max on it, and monotone in both. A floor per kernel is
added.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import DTYPE_BYTES, Bools, Dtype, Floats, Times, columns
from sim.cost.hardware import Gpu
from sim.errors import InputError


@dataclass(frozen=True)
class Efficiencies:
    """Fractions of the datasheet that kernels reach, and floors in ns. The defaults and their reasons:

    gemm_bandwidth 0.85   weights streamed once; 0.80-0.88 for matrices above 100 MB on A100 and H100
    gemm_flops 0.75       0.66-0.76 on A100, 0.71-0.86 on H100 from 1,024 rows on, power-limited above
    kv_bandwidth 0.85     paged decode attention at hundreds of MB: 0.80-0.89 on A100
    attention_flops 0.60  causal prefill: 0.55 on A100 at 16k tokens, 0.60-0.65 with FlashAttention-3 on H100
    elementwise 0.80      fused residual + norm and activation kernels at 1,024 rows and more
    fp8 0.75              of both rates, in GEMMs that quantise their input: 0.63-0.8 on B200, H100, H200, L40S
    link 0.75             ring all-reduce bus bandwidth over NVLink at tens of MB
    *_floor_ns            shortest kernel of that kind in a CUDA graph, H100
    link_step_ns          one hop of a ring step or one barrier of a one-shot all-reduce
    """

    gemm_bandwidth: float = 0.85
    gemm_flops: float = 0.75
    kv_bandwidth: float = 0.85
    attention_flops: float = 0.60
    elementwise: float = 0.80
    fp8: float = 0.75
    link: float = 0.75
    gemm_floor_ns: float = 2_500.0
    attention_floor_ns: float = 6_000.0
    elementwise_floor_ns: float = 2_000.0
    link_step_ns: float = 2_000.0


# Tensor cores of GeForce cards run at half rate with FP32 accumulation: neither power nor clocks bind.
OTHERS: Mapping[str, Efficiencies] = MappingProxyType(
    {"rtx-4090": Efficiencies(gemm_bandwidth=0.92, gemm_flops=0.95, kv_bandwidth=0.90)}
)


@dataclass(frozen=True)
class Roofline:
    """Kernel times of one GPU from its datasheet. Never `inside` (but for no work): nothing was measured."""

    gpu: Gpu
    efficiencies: Efficiencies = field(default_factory=Efficiencies)

    @classmethod
    def of(cls, gpu: Gpu) -> "Roofline":
        """The roofline of a GPU under the efficiencies of its kind."""
        return cls(gpu, OTHERS.get(gpu.name, Efficiencies()))

    @property
    def label(self) -> str:
        """How results name this source."""
        return f"from a roofline of {self.gpu.name}"

    @property
    def provenance(self) -> Mapping[str, object]:
        """Datasheet sources and efficiencies behind every figure."""
        facts = {"gpu": self.gpu.name, "source": "roofline", "datasheet": dict(self.gpu.sources)}
        return MappingProxyType({**facts, "efficiencies": vars(self.efficiencies).copy()})

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n]: weights and fp8 activations in `dtype`, output in bf16."""
        (rows,) = columns(m)
        size = DTYPE_BYTES[dtype]
        moved = size * (n * k + rows * k) + 2 * rows * n
        e = self.efficiencies
        share = e.fp8 if dtype == "fp8" and self.gpu.flops_fp8 else 1.0
        memory = moved / (share * e.gemm_bandwidth * self.gpu.bandwidth_bytes_per_s)
        compute = 2.0 * rows * n * k / (share * e.gemm_flops * self.gpu.flops(dtype))
        return _outside(rows > 0, e.gemm_floor_ns + 1e9 * np.hypot(memory, compute))

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """Nothing of its own: `gemm` in fp8 is slower throughout."""
        return np.zeros(columns(m)[0].shape)

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal FLOPs 4·heads·d·(new·context + new(new+1)/2) in bf16, against K, V, Q and O bytes."""
        queries, cached = columns(new, context)
        pairs = queries * cached + queries * (queries + 1) / 2
        kv_token = 2 * DTYPE_BYTES[kv_dtype] * kv_heads * head_dim
        moved = kv_token * (cached + queries) + 4 * heads * head_dim * queries
        e = self.efficiencies
        memory = moved / (e.kv_bandwidth * self.gpu.bandwidth_bytes_per_s)
        compute = 4.0 * heads * head_dim * pairs / (e.attention_flops * self.gpu.flops_bf16)
        return _outside(queries > 0, e.attention_floor_ns + 1e9 * np.hypot(memory, compute))

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """KV bytes of all rows at the bandwidth; FLOPs do not bind below 64 query heads per KV head."""
        queries, cached = columns(rows, context)
        kv_token = 2 * DTYPE_BYTES[kv_dtype] * kv_heads * head_dim
        moved = kv_token * cached * queries + 4 * heads * head_dim * queries
        e = self.efficiencies
        rate = e.kv_bandwidth * self.gpu.bandwidth_bytes_per_s
        return _outside(queries > 0, e.attention_floor_ns + 1e9 * moved / rate)

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory: a floor plus bytes at the bandwidth."""
        (moved,) = columns(bytes_moved)
        e = self.efficiencies
        rate = e.elementwise * self.gpu.bandwidth_bytes_per_s
        return _outside(moved > 0, e.elementwise_floor_ns + 1e9 * moved / rate)

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Ring all-reduce: 2(tp-1)/tp of the message over each link (Patarasuk and Yuan, 2009), log2(tp) hops."""
        (message,) = columns(message_bytes)
        if tp < 1:
            raise InputError(f"tp = {tp}: tensor parallelism is at least 1")
        if tp == 1:
            return _outside(message < 0, message)
        e = self.efficiencies
        wire = 2.0 * (tp - 1) / tp * message / (e.link * self.gpu.nvlink_bytes_per_s)
        return _outside(message > 0, e.link_step_ns * (1.0 + np.log2(tp)) + 1e9 * wire)


def _outside(some: Bools, ns: Floats) -> Times:
    """Work of size zero is not launched and costs nothing; the rest was never measured."""
    return np.where(some, ns, 0.0), ~some
