"""Kernel times of one source, scaled by an engine's own factors: its kernels are not the ones that were measured.

Fitted to whole servers, a factor also holds what kernels measured one at a time cannot show: clocks under sustained
power, fusions, overlapping. A GEMM has two: `weights` scales the time of a single row (streaming the matrix),
`compute` what further rows add.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times, columns
from sim.cost.times import KernelTimes
from sim.errors import InputError

SMALL = 2.0**20
MOST = 0.6  # of an fp8 GEMM's time that may be quantisation


@dataclass(frozen=True)
class Factors:
    """How many times longer an engine's kernels take than the source says, by kind; 1 is neutral.

    `fp8` is of the quantisation of an fp8 GEMM's input, which tables measure as a kernel of its own: up to half of the
    time where TP makes matrices narrow. Whether an engine runs it, fuses it into the kernel before, or needs none of it
    (static scales) is the engine's choice. `all_reduce` is of messages up to `SMALL` bytes, those of a decode step,
    which wait for the slowest rank; `link` of what larger ones add, those of prompts, which engines overlap or leave to
    the switch.
    """

    weights: float = 1.0
    compute: float = 1.0
    fp8: float = 1.0
    prefill_attention: float = 1.0
    decode_attention: float = 1.0
    pointwise: float = 1.0
    all_reduce: float = 1.0
    link: float = 1.0

    def __post_init__(self) -> None:
        for one in fields(self):
            if not 0.1 <= getattr(self, one.name) <= 10:
                raise InputError(f"factor {one.name}={getattr(self, one.name)}: must lie in 0.1..10")


@dataclass(frozen=True)
class Scaled:
    """A source of kernel times under an engine's factors."""

    source: KernelTimes
    factors: Factors
    name: str = "scaled"

    @property
    def label(self) -> str:
        """How results name this source."""
        return f"{self.source.label}, scaled as in {self.name}"

    @property
    def provenance(self) -> Mapping[str, object]:
        """The source's, and the factors."""
        return MappingProxyType({**self.source.provenance, "factors": vars(self.factors).copy()})

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n]: the first row under `weights`, what the others add under `compute`."""
        (rows,) = columns(m)
        ns, inside = self.source.gemm(rows, n, k, dtype)
        one, _ = self.source.gemm(np.minimum(rows, 1), n, k, dtype)
        if dtype != "fp8":
            return self.factors.weights * one + self.factors.compute * (ns - one), inside
        quantised = np.minimum(self.source.quantisation(rows, k), MOST * ns)
        first = np.minimum(self.source.quantisation(np.minimum(rows, 1), k), MOST * one)
        multiplied = self.factors.weights * (one - first) + self.factors.compute * (ns - quantised - one + first)
        return multiplied + self.factors.fp8 * quantised, inside

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """What `gemm` in fp8 contains of quantising its input [m, k]."""
        return self.factors.fp8 * self.source.quantisation(m, k)

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal attention of one sequence: `new` query tokens after `context` cached ones."""
        return _times(
            self.factors.prefill_attention,
            self.source.prefill_attention(new, context, heads, kv_heads, head_dim, kv_dtype),
        )

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """One query token for each of `rows` sequences over `context` cached tokens each."""
        return _times(
            self.factors.decode_attention,
            self.source.decode_attention(rows, context, heads, kv_heads, head_dim, kv_dtype),
        )

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory."""
        return _times(self.factors.pointwise, self.source.elementwise(bytes_moved))

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Sum of one message over `tp` GPUs: its first `SMALL` bytes under `all_reduce`, the others under `link`."""
        (message,) = columns(message_bytes)
        ns, inside = self.source.all_reduce(message, tp)
        first, _ = self.source.all_reduce(np.minimum(message, SMALL), tp)
        return self.factors.all_reduce * first + self.factors.link * (ns - first), inside


def _times(factor: float, found: Times) -> Times:
    return factor * found[0], found[1]
