"""Kernel times as they may really be: each shape of each kind off by a share drawn from the fit's own residuals.

Where nothing was measured the share is wider, and kernels are off together: the mean of many is no better known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times
from sim.cost.times import KernelTimes

P90_OF_NORMAL = 1.645
UNMEASURED_SD = 0.25  # of a roofline's price, and of what lies outside the measured domain
SHARED = 0.5  # of that variance: a GPU's clocks and its libraries' age move all its unmeasured kernels together
KINDS = ("gemm", "prefill_attention", "decode_attention", "elementwise", "all_reduce")


@dataclass(frozen=True)
class Perturbed:
    """A source with log-normal errors: one draw per kind and shape where it was measured, a wider one outside."""

    source: KernelTimes
    seed: int

    @property
    def label(self) -> str:
        """How results name this source."""
        return f"{self.source.label}, draw {self.seed}"

    @property
    def provenance(self) -> Mapping[str, object]:
        """The source's, and the errors drawn from."""
        return MappingProxyType({**self.source.provenance, "errors": self.spreads})

    @cached_property
    def spreads(self) -> dict[str, float]:
        """Standard deviation of the log error, by kind."""
        return kernel_spreads(self.source.provenance)

    @cached_property
    def shared(self) -> float:
        """The deviation that all unmeasured kernels have in common."""
        return float(np.random.default_rng([self.seed, len(KINDS)]).standard_normal())

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n]."""
        return self._drawn("gemm", (n, k, dtype), self.source.gemm(m, n, k, dtype))

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """What `gemm` in fp8 contains of quantising its input, undrawn: a part of what is drawn."""
        return self.source.quantisation(m, k)

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal attention of one sequence."""
        shape = (heads, kv_heads, head_dim, kv_dtype)
        return self._drawn("prefill_attention", shape, self.source.prefill_attention(new, context, *shape))

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """One query token for each of `rows` sequences."""
        shape = (heads, kv_heads, head_dim, kv_dtype)
        return self._drawn("decode_attention", shape, self.source.decode_attention(rows, context, *shape))

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory."""
        return self._drawn("elementwise", (), self.source.elementwise(bytes_moved))

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Sum of one message over `tp` GPUs."""
        return self._drawn("all_reduce", (tp,), self.source.all_reduce(message_bytes, tp))

    def _drawn(self, kind: str, shape: tuple[object, ...], found: Times) -> Times:
        ns, inside = found
        key = [sum(map(ord, x)) if isinstance(x, str) else int(str(x)) for x in shape]
        near, own = np.random.default_rng([self.seed, KINDS.index(kind), *key]).standard_normal(2)
        far = np.sqrt(SHARED) * self.shared + np.sqrt(1 - SHARED) * own
        wide = max(UNMEASURED_SD, self.spreads[kind])
        return ns * np.where(inside, np.exp(self.spreads[kind] * near), np.exp(wide * far)), inside


def kernel_spreads(provenance: Mapping[str, Any]) -> dict[str, float]:
    """Standard deviation of the log error of each kind, from the held-out residuals that a source reports.

    A kind without residuals (a roofline's) takes `UNMEASURED_SD`.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for name, fit in dict(provenance.get("fits") or {}).items():
        residuals = fit["residuals"]
        best = residuals.get("held_out", residuals.get("in_sample"))
        found[name.split("/")[0]].append(best["p90"] / P90_OF_NORMAL)
    return {kind: float(np.mean(sds)) if sds else UNMEASURED_SD for kind, sds in found.items()}
