"""Addresses for the scheduler's counts: which page of the pool holds which block of which request in which cache.

The scheduler decides how many units (blocks of one layer's cache) everybody holds; after each of its calls the cache
repeats the decision on real pages. One pool of equal pages serves every cache, so a page that SkipDecode's middle
layers give up holds somebody's top layer next. Law: pages in use = total units - free units, at every instant.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from sim.plans.plan import SkipPlan
from sim.serving.columns import FREE, N_RESIDENT, N_ROWS, N_RUNNING, RUNNING, Asked, State
from sim.serving.config import Knobs

NO_PAGE = -1
Pages = NDArray[np.int32]  # [blocks, caches]


class Cache:
    """The pool, and every request's page table."""

    def __init__(
        self, plan: SkipPlan, knobs: Knobs, *, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.plan = plan
        self.knobs = knobs
        shape = (knobs.total_units, knobs.block_tokens, kv_heads, head_dim)
        self.k_pages = torch.zeros(shape, dtype=dtype, device=device)
        self.v_pages = torch.zeros(shape, dtype=dtype, device=device)
        self._free = np.arange(knobs.total_units, dtype=np.int32)[::-1].copy()
        self._n_free = knobs.total_units
        self._tables: dict[int, Pages] = {}  # by request that holds memory
        self._shared: dict[int, set[int]] = {}  # its blocks that belong to the prefix cache
        self._hashed: dict[int, int] = {}  # prefix blocks of it that were looked at
        self._preempted: dict[int, int] = {}
        self._alive: dict[int, NDArray[np.bool_]] = {}  # caches its private blocks still have, [caches]
        self._entries: dict[int, Pages] = {}  # pages of resident prefix entries

    @property
    def pages_in_use(self) -> int:
        """Pages that somebody holds."""
        return self.knobs.total_units - self._n_free

    def after_schedule(self, asked: Asked, state: State) -> None:
        """Give and take pages as `schedule` did: evictions and preemptions first, then admissions and growth."""
        for request in [r for r in self._tables if self._lost(state, r)]:
            self._drop(request)
        self._evict(state)
        for request in state.running[: state.counts[N_RUNNING]].tolist():
            if request not in self._tables:
                self._begin(asked, state, request)
            self._grow(state, request)
        assert self.pages_in_use == self.knobs.total_units - state.counts[FREE], "pages and units disagree"

    def after_complete(self, asked: Asked, state: State) -> None:
        """Publish finished prefix blocks, free dead caches and finished requests, in the scheduler's order."""
        for request in state.row_request[: state.counts[N_ROWS]].tolist():
            self._register(asked, state, request)
            if state.status[request] != RUNNING:
                self._drop(request)
            else:
                self._shrink(asked, state, request)
        assert self.pages_in_use == self.knobs.total_units - state.counts[FREE], "pages and units disagree"

    def after_abort(self, state: State, request: int) -> None:
        """Take back what an aborted request held."""
        if request in self._tables:
            self._drop(request)
        assert self.pages_in_use == self.knobs.total_units - state.counts[FREE], "pages and units disagree"

    def tables(self, requests: Sequence[int], tokens: Sequence[int]) -> Pages:
        """Page tables [caches, rows, blocks] of requests, wide enough for so many tokens each; NO_PAGE where dead."""
        size = self.knobs.block_tokens
        width = max(-(-n // size) for n in tokens)
        out = np.full((self.plan.caches.size, len(requests), width), NO_PAGE, dtype=np.int32)
        for row, request in enumerate(requests):
            pages = self._tables[request][:width]
            out[:, row, : len(pages)] = pages.T
        return out

    def _take(self, count: int) -> Pages:
        assert count <= self._n_free, "the scheduler counts more free units than there are pages"
        self._n_free -= count
        return self._free[self._n_free : self._n_free + count].copy()

    def _give(self, pages: Pages) -> None:
        back = pages[pages != NO_PAGE]
        self._free[self._n_free : self._n_free + back.size] = back
        self._n_free += back.size

    def _lost(self, state: State, request: int) -> bool:
        return state.status[request] != RUNNING or state.preempted[request] != self._preempted[request]

    def _drop(self, request: int) -> None:
        table, shared = self._tables.pop(request), self._shared.pop(request)
        self._give(table[[block for block in range(len(table)) if block not in shared]])
        for record in (self._hashed, self._preempted, self._alive):
            del record[request]

    def _evict(self, state: State) -> None:
        gone = len(self._entries) - int(state.counts[N_RESIDENT])  # mostly none; the old go first, so the scan is short
        for entry in list(islice((e for e in self._entries if not state.resident[e]), gone)):
            self._give(self._entries.pop(entry))

    def _begin(self, asked: Asked, state: State, request: int) -> None:
        first, hits = int(asked.hash_offsets[request]), int(state.hashed[request])
        found = [self._entries[int(e)] for e in asked.hash_ids[first : first + hits]]
        empty = np.empty((0, self.plan.caches.size), dtype=np.int32)
        self._tables[request] = np.concatenate([empty, *found])
        self._shared[request] = set(range(len(self._tables[request])))
        self._hashed[request] = hits
        self._preempted[request] = int(state.preempted[request])
        self._alive[request] = np.ones(self.plan.caches.size, dtype=bool)

    def _grow(self, state: State, request: int) -> None:
        table = self._tables[request]
        missing = int(state.blocks[request]) + len(self._shared[request]) - len(table)
        if missing > 0:
            alive = self._alive[request]
            grown = np.full((missing, self.plan.caches.size), NO_PAGE, dtype=np.int32)
            grown[:, alive] = self._take(missing * int(alive.sum())).reshape(missing, -1)
            self._tables[request] = np.concatenate([table, grown])

    def _register(self, asked: Asked, state: State, request: int) -> None:
        if not self.knobs.hash_tokens:
            return
        first, per_entry = int(asked.hash_offsets[request]), self.knobs.hash_tokens // self.knobs.block_tokens
        known = min(int(state.computed[request]), int(asked.prompt_tokens[request])) // self.knobs.hash_tokens
        complete = min(int(asked.hash_offsets[request + 1]) - first, known)
        for i in range(self._hashed[request], complete):
            entry = int(asked.hash_ids[first + i])
            if entry not in self._entries:
                blocks = range(i * per_entry, (i + 1) * per_entry)
                self._entries[entry] = self._tables[request][blocks.start : blocks.stop].copy()
                self._shared[request].update(blocks)
        self._hashed[request] = max(self._hashed[request], complete)

    def _shrink(self, asked: Asked, state: State, request: int) -> None:
        """Free the pages of caches that the request's later tokens never read; prefix entries stay whole."""
        fed = int(state.computed[request] - asked.prompt_tokens[request])
        if fed < 0 or self._alive[request].sum() == state.units[request]:
            return
        self._alive[request] = self.plan.live[min(fed, self.plan.live.shape[0] - 1)]
        table, shared = self._tables[request], self._shared[request]
        private = np.array([block not in shared for block in range(len(table))], dtype=bool)
        dead = np.ix_(private, ~self._alive[request])
        self._give(table[dead])
        table[dead] = NO_PAGE
