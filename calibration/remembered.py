"""A source of kernel times that remembers its answers: fits ask for the same shapes under hundreds of profiles."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times
from sim.cost.times import KernelTimes


@dataclass(frozen=True)
class Remembered:
    """The source's own answers; those for GEMMs and prompts, which take most of the time, are kept."""

    source: KernelTimes
    kept: dict[tuple[object, ...], Times] = field(default_factory=dict, repr=False, compare=False)

    @property
    def label(self) -> str:
        """The source's."""
        return self.source.label

    @property
    def provenance(self) -> Mapping[str, object]:
        """The source's."""
        return self.source.provenance

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n]."""
        key = ("gemm", np.asarray(m).tobytes(), n, k, dtype)
        if key not in self.kept:
            self.kept[key] = self.source.gemm(m, n, k, dtype)
        return self.kept[key]

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """What `gemm` in fp8 contains of quantising its input."""
        return self.source.quantisation(m, k)

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal attention of one sequence."""
        shape = (heads, kv_heads, head_dim, kv_dtype)
        key = ("prefill", np.asarray(new).tobytes(), np.asarray(context).tobytes(), *shape)
        if key not in self.kept:
            self.kept[key] = self.source.prefill_attention(new, context, *shape)
        return self.kept[key]

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """One query token for each of `rows` sequences."""
        return self.source.decode_attention(rows, context, heads, kv_heads, head_dim, kv_dtype)

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory."""
        return self.source.elementwise(bytes_moved)

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Sum of one message over `tp` GPUs."""
        return self.source.all_reduce(message_bytes, tp)
