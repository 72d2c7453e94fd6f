"""The products of a model: those that the simulator asks the price of, and those that the engine runs."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times, columns
from sim.cost.deployment import Deployment
from sim.cost.hardware import GPUS
from sim.cost.lower import lower
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.serving.config import SchedulerConfig

SMALL = SchedulerConfig(max_num_seqs=1, max_num_batched_tokens=1)


def matrices(shape: ModelShape, plans: Sequence[str]) -> dict[tuple[int, int], str]:
    """The products (n, k) that these plans are priced by or run, with a name each."""
    asked = Asked()
    for spec in plans:
        plan = strategy_named(spec, shape)
        lower(plan, Deployment(shape, GPUS["h200"]), asked, SMALL, max_context=2)
        asked.products |= dict.fromkeys(wide_keys(plan, shape))
    d, q, kv = shape.hidden, shape.d_q, shape.d_kv
    up = shape.ffn * (2 if shape.gated_ffn else 1)
    names = {(q + 2 * kv, d): "qkv", (q, d): "q", (d, q): "out", (up, d): "up", (d, shape.ffn): "down"}
    names = {(2 * kv, d): "kv", (shape.vocab, d): "head"} | names
    return {nk: names.get(nk, f"kv_{nk[0] // (2 * kv)}") for nk in asked.products}


def wide_keys(plan: SkipPlan, shape: ModelShape) -> Iterator[tuple[int, int]]:
    """The wide products of keys and values that the engine runs, one per stream that serves other layers."""
    for source in np.unique(plan.kv_input):
        served = [j for j in plan.caches if plan.kv_input[j] == source]
        if len(served) > 1 or served not in ([], [source]):
            yield 2 * shape.d_kv * len(served), shape.hidden


class Asked:
    """A source of kernel times that notes what it is asked about; everything costs nothing."""

    label = "asked"

    def __init__(self) -> None:
        self.products: dict[tuple[int, int], None] = {}
        self.bytes_moved: set[float] = set()
        self.provenance: dict[str, object] = {}

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """Notes the product."""
        self.products[n, k] = None
        return _nothing(m)

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """Nothing."""
        return _nothing(m)[0]

    def prefill_attention(self, new: ArrayLike, context: ArrayLike, *_: object) -> Times:
        """Nothing."""
        return _nothing(new, context)

    def decode_attention(self, rows: ArrayLike, context: ArrayLike, *_: object) -> Times:
        """Nothing."""
        return _nothing(rows, context)

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """Notes the bytes."""
        self.bytes_moved |= set(columns(bytes_moved)[0].tolist())
        return _nothing(bytes_moved)

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Nothing."""
        return _nothing(message_bytes)


def _nothing(*sizes: ArrayLike) -> Times:
    shape = columns(*sizes)[0].shape
    return np.zeros(shape), np.ones(shape, dtype=bool)
