"""Buffers that kernels are timed on: what an engine reads from memory lies in more of them than a cache holds.

Weights, keys and values come from memory in an engine, so they are rotated; activations were written by the kernel
before, so they are not. Pages of keys and values are made once and shared by all items.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from calibration.timing import Op
from engine.config import ModelConfig
from sim.plans.model import ModelShape

PAGE = 16
CACHES = 2.5  # buffers in all, in sizes of the last cache
MOST_SETS = 256
MOST_POSITIONS = 65_536


@dataclass(frozen=True)
class Work:
    """An op, and the least bytes and operations that it takes, at two bytes per value as the simulator counts."""

    op: Op
    bytes_moved: float
    flops: float = 0.0


class Buffers:
    """Random tensors of one model's shapes on one device."""

    def __init__(self, config: ModelConfig, *, device: torch.device, dtype: torch.dtype, cache_bytes: float) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self.cache_bytes = cache_bytes
        self.positions = min(config.shape.max_context, MOST_POSITIONS)
        self._rope: tuple[Tensor, Tensor] | None = None
        self._pages: Tensor | None = None

    @property
    def shape(self) -> ModelShape:
        """The model's shape."""
        return self.config.shape

    @property
    def rope(self) -> tuple[Tensor, Tensor] | None:
        """cos and sin, where the model rotates."""
        if self._rope is None and self.config.rope is not None:
            cos, sin = self.config.rope.tables(self.positions, self.shape.head_dim)
            self._rope = cos.to(self.device), sin.to(self.device)
        return self._rope

    def noise(self, *shape: int) -> Tensor:
        """Standard normal values."""
        return self.empty(*shape).normal_()

    def empty(self, *shape: int) -> Tensor:
        """Room for a result."""
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def ints(self, values: list[int]) -> Tensor:
        """A small int32 tensor."""
        return torch.tensor(values, dtype=torch.int32, device=self.device)

    def sets(self, values: int) -> int:
        """Buffers of so many values, as many as a cache cannot hold; two at least."""
        return int(min(MOST_SETS, max(2, -(-CACHES * self.cache_bytes // (values * self.dtype.itemsize)))))

    def held(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Pages of keys and of values, [pages, PAGE, kv_heads, head_dim], with room for so many tokens at least."""
        s = self.shape
        page_bytes = 2 * PAGE * s.d_kv * self.dtype.itemsize
        need = max(-(-tokens // PAGE), int(CACHES * self.cache_bytes // page_bytes))
        if self._pages is None or self._pages.shape[1] < need:
            self._pages = None  # before the larger one is made
            self._pages = self.noise(2, need, PAGE, s.kv_heads, s.head_dim)
        return self._pages[0], self._pages[1]

    def drop(self) -> None:
        """Give the pages back; the next item that needs some makes them anew."""
        self._pages = None

    def tables(self, rows: int, context: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values, and page tables [sets, rows, blocks] that share no page, in no order."""
        blocks = -(-context // PAGE)
        k, v = self.held(rows * blocks * PAGE)
        sets = min(MOST_SETS, len(k) // (rows * blocks))
        order = torch.randperm(len(k), device=self.device)[: sets * rows * blocks].int()
        return k, v, order.view(sets, rows, blocks)
