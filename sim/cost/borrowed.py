"""Kernel times borrowed from siblings of the same silicon with other memory. Never measured, so never inside.

A100-40 has the chip of A100-80 and 1,555 instead of 2,039 GB/s. What computes takes as long; what streams cannot be
faster than its own memory: the larger of the sibling's measured time and this GPU's roofline.

GH200 has the chip of H100 and H200 and memory between theirs. Where the two take equally long the memory does not
matter; where they differ as their bandwidths do, it is all that matters: the mean of their logarithms, weighted by
where the bandwidth lies between theirs, is right for both.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times
from sim.cost.hardware import Gpu
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
        return f"borrowed for {self.own.gpu.name} from those {self.sibling.label}"

    @property
    def provenance(self) -> Mapping[str, object]:
        """Where the sibling's fit and the bound come from."""
        return MappingProxyType({**self.sibling.provenance, "bound": dict(self.own.provenance)})

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n], the larger of both sources."""
        return _larger(self.sibling.gemm(m, n, k, dtype), self.own.gemm(m, n, k, dtype))

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """What `gemm` in fp8 contains of quantising its input: the sibling's."""
        return self.sibling.quantisation(m, k)

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


@dataclass(frozen=True)
class Between:
    """Times of a GPU whose memory is faster than one sibling's by the power `share` of their ratio, 0..1."""

    name: str
    slower: Measured
    faster: Measured
    share: float

    @classmethod
    def of(cls, gpu: Gpu, slower: Measured, faster: Measured) -> "Between":
        """The source for a GPU whose bandwidth lies between its siblings'."""
        low, high = slower.gpu.bandwidth_bytes_per_s, faster.gpu.bandwidth_bytes_per_s
        return cls(gpu.name, slower, faster, math.log(gpu.bandwidth_bytes_per_s / low) / math.log(high / low))

    @property
    def label(self) -> str:
        """How results name this source."""
        return f"borrowed for {self.name} from those {self.slower.label} and {self.faster.label}"

    @property
    def provenance(self) -> Mapping[str, object]:
        """Where the slower sibling's fit comes from, and the other's."""
        return MappingProxyType({**self.slower.provenance, "other": dict(self.faster.provenance), "share": self.share})

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n]."""
        return self._mean(self.slower.gemm(m, n, k, dtype), self.faster.gemm(m, n, k, dtype))

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """What `gemm` in fp8 contains of quantising its input."""
        slow, fast = self.slower.quantisation(m, k), self.faster.quantisation(m, k)
        mean: Floats = slow ** (1.0 - self.share) * fast**self.share
        return mean

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal attention of one sequence."""
        shape = (heads, kv_heads, head_dim, kv_dtype)
        return self._mean(*(one.prefill_attention(new, context, *shape) for one in (self.slower, self.faster)))

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """One query token per sequence."""
        shape = (heads, kv_heads, head_dim, kv_dtype)
        return self._mean(*(one.decode_attention(rows, context, *shape) for one in (self.slower, self.faster)))

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory."""
        return self._mean(self.slower.elementwise(bytes_moved), self.faster.elementwise(bytes_moved))

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Sum over `tp` GPUs; the links are the same."""
        return self.slower.all_reduce(message_bytes, tp)

    def _mean(self, one: Times, other: Times) -> Times:
        ns = one[0] ** (1.0 - self.share) * other[0] ** self.share
        return ns, ns == 0.0  # nothing is inside but no work


def _larger(one: Times, other: Times) -> Times:
    return np.maximum(one[0], other[0]), one[1] & other[1]
