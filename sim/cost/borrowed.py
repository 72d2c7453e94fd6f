"""Kernel times borrowed from a sibling of the same silicon whose memory is faster.

A100-40 has the chip of A100-80 and 1,555 instead of 2,039 GB/s. What computes takes as long; what streams cannot be
faster than its own memory: the larger of the sibling's measured time and this GPU's roofline. Never measured, so
never inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Times
from sim.cost.measured import Measured
from sim.cost.roofline import Roofline


@dataclass(frozen=True)
class Borrowed:
    """Times of a GPU from a sibling's fit, bounded from below by its own roofline."""

    sibling: Measured
    own: Roofline

    @property
    def label(self) -> str:
        """How results name this source."""
        return f"borrowed({self.own.gpu.name} from {self.sibling.label})"

    @property
    def provenance(self) -> Mapping[str, object]:
        """Where the sibling's fit and the bound come from."""
        return MappingProxyType({**self.sibling.provenance, "bound": dict(self.own.provenance)})

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n], the larger of both sources."""
        return _larger(self.sibling.gemm(m, n, k, dtype), self.own.gemm(m, n, k, dtype))

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal attention of one sequence, the larger of both sources."""
        shape = (heads, kv_heads, head_dim, kv_dtype)
        return _larger(*(source.prefill_attention(new, context, *shape) for source in (self.sibling, self.own)))

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """One query token per sequence, the larger of both sources."""
        shape = (heads, kv_heads, head_dim, kv_dtype)
        return _larger(*(source.decode_attention(rows, context, *shape) for source in (self.sibling, self.own)))

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory, the larger of both sources."""
        return _larger(self.sibling.elementwise(bytes_moved), self.own.elementwise(bytes_moved))

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Sum over `tp` GPUs; the links are the same."""
        return self.sibling.all_reduce(message_bytes, tp)


def _larger(one: Times, other: Times) -> Times:
    return np.maximum(one[0], other[0]), one[1] & other[1]
