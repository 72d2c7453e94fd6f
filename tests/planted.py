"""Kernel times with small planted coefficients: linear in the work, so that prices can be computed by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times, columns


def _answer(ns: np.ndarray) -> Times:
    return ns, np.ones(ns.shape, dtype=bool)


@dataclass(frozen=True)
class Planted:
    """Integer nanoseconds: a floor per kernel, plus so much per unit of work. Everything counts as measured.

    A prompt chunk is never cheaper than the same tokens one by one in a decode kernel that runs anyway.
    """

    floor: int = 3
    per_row: int = 2
    per_pair: int = 1
    label: str = "planted"

    @property
    def provenance(self) -> Mapping[str, object]:
        """Made up."""
        return {"source": "planted"}

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """Weights once, and every row."""
        (rows,) = columns(m)
        weights = n * k // (32 if dtype == "bf16" else 64)
        return _answer(self.floor + weights + self.per_row * (n + k) * rows)

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """Nothing."""
        return np.zeros(columns(m)[0].shape)

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Every query against every key before it, counted as a rectangle."""
        queries, cached = columns(new, context)
        return _answer(self.floor + self.per_row * queries + self.per_pair * queries * (cached + queries))

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Every row, and all that it reads."""
        queries, cached = columns(rows, context)
        return _answer(self.floor + self.per_row * queries + self.per_pair * queries * cached)

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """A quarter of a nanosecond per byte."""
        (moved,) = columns(bytes_moved)
        return _answer(self.floor + np.floor(moved / 4))

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """A floor and the message, twice for every other GPU; nothing for one."""
        (message,) = columns(message_bytes)
        return _answer(np.zeros(message.shape) if tp == 1 else self.floor + 2.0 * (tp - 1) * np.floor(message / 8))


@dataclass(frozen=True)
class Uneven(Planted):
    """Attention of decoding rows that follows no line, measured here and there: every token of context matters."""

    label: str = "uneven"

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Any function of rows and context will do."""
        queries, cached = columns(rows, context)
        return self.floor + 7.3 * queries + (37 * cached + 11 * queries) % 101, cached % 3 != 0
