"""A KV cache as a dictionary: which token lies at which position of which cache, held by whom.

The scheduler only counts; this model holds what is counted. It follows the scheduler's own columns (which prefix
entries are held and resident, which caches a sequence of that age keeps) and stores tokens by name, so that reading a
hole, somebody else's token, a rejected draft or a freed cache is an error.
"""

from collections.abc import Iterator

import numpy as np

from sim.plans.plan import ATTN, KV, SkipPlan
from sim.serving.columns import N_ROWS, RUNNING, Asked, State
from sim.serving.config import Knobs

Token = tuple[object, ...]
Pages = dict[tuple[int, int], Token]  # (cache, position) -> token


class PagedKv:
    """Keys and values of every request and prefix entry, by cache and position."""

    def __init__(self, asked: Asked, state: State, knobs: Knobs, plan: SkipPlan) -> None:
        self.asked, self.state, self.knobs, self.plan = asked, state, knobs, plan
        self.private: dict[int, Pages] = {}
        self.entries: dict[int, Pages] = {}

    def token(self, request: int, position: int) -> Token:
        """The name of a token: by prefix entry where others may share it."""
        size = self.knobs.hash_tokens
        if size and position < self.asked.prompt_tokens[request] // size * size:
            entry = self.asked.hash_ids[self.asked.hash_offsets[request] + position // size]
            return ("prefix", int(entry), position % size)
        return ("own", request, position)

    def held(self, request: int) -> Iterator[int]:
        """Prefix entries that the request holds."""
        first, last = self.asked.hash_offsets[request : request + 2]
        yield from (int(self.asked.hash_ids[i]) for i in range(first, last) if self.state.held[i])

    def run(self) -> None:
        """Execute the rows of the iteration that was just scheduled: each token writes its keys, then reads."""
        self.follow_evictions()
        for row in range(self.state.counts[N_ROWS]):
            request = int(self.state.row_request[row])
            first, tokens = int(self.state.row_start[row]), int(self.state.row_tokens[row])
            pages = self.private.setdefault(request, {})
            for position in range(first, first + tokens):
                flags = self.plan.flags_at(position, int(self.asked.prompt_tokens[request]))
                for cache in np.flatnonzero(flags & KV):
                    pages[int(cache), position] = self.token(request, position)
            visible: Pages = dict(pages)
            for entry in self.held(request):
                assert entry in self.entries, f"request {request} holds entry {entry}, which is not in memory"
                visible |= self.entries[entry]
            for position in {first, first + tokens - 1}:
                self.read(request, position, visible)

    def read(self, request: int, position: int, visible: Pages) -> None:
        """Check that the token at `position` finds every key that it attends to, and the right one."""
        flags = self.plan.flags_at(position, int(self.asked.prompt_tokens[request]))
        for cache in {int(self.plan.kv_owner[layer]) for layer in np.flatnonzero(flags & ATTN)}:
            for p in range(position + 1):
                found = visible.get((cache, p))
                assert found == self.token(request, p), f"request {request}, cache {cache}, position {p}: {found}"

    def settle(self) -> None:
        """Follow what `complete` (or `abort`) decided: prefixes published, drafts refused, caches and memory freed."""
        for request in self.private:
            self.publish(request)
        for request in list(self.private):
            if self.state.status[request] != RUNNING:
                del self.private[request]
                continue
            kept, computed = self.alive(request), self.state.computed[request]
            assert len(kept) == self.state.units[request]
            pages = self.private[request]
            self.private[request] = {(c, p): t for (c, p), t in pages.items() if c in kept and p < computed}
        self.follow_evictions()
        missing = set(np.flatnonzero(self.state.resident).tolist()) - set(self.entries)
        assert not missing, f"prefix entries {missing} are resident, but nobody has computed them"

    def alive(self, request: int) -> set[int]:
        """Caches that a sequence of this age may still read."""
        fed = self.state.computed[request] - self.asked.prompt_tokens[request]
        if fed < 0:
            return set(self.plan.caches.tolist())
        return set(self.plan.caches[self.plan.live[min(fed, len(self.plan.live) - 1)]].tolist())

    def publish(self, request: int) -> None:
        """Move the request's pages to entries that became resident, as far as it has computed all their tokens."""
        size, pages = self.knobs.hash_tokens, self.private[request]
        if not size:
            return
        first = self.asked.hash_offsets[request]
        for k in range(self.asked.prompt_tokens[request] // size):
            entry = int(self.asked.hash_ids[first + k])
            if self.state.resident[entry] and entry not in self.entries:
                span = range(k * size, (k + 1) * size)
                cached = {key for key in pages if key[1] in span}
                if all((cache, p) in cached for cache in self.plan.caches.tolist() for p in span):
                    self.entries[entry] = {key: pages.pop(key) for key in cached}

    def follow_evictions(self) -> None:
        """Forget entries that are no longer resident, and whatever preempted requests held."""
        self.entries = {e: pages for e, pages in self.entries.items() if self.state.resident[e]}
        self.private = {r: pages for r, pages in self.private.items() if self.state.status[r] == RUNNING or pages}
        for request in [r for r in self.private if self.state.computed[r] == 0]:
            self.private[request] = {}
