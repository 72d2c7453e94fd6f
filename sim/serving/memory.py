"""Paged KV memory, counted in units: one block of tokens in one layer's cache.

A plan decides how many caches a sequence needs and when each of them is dead (SkipDecode's middle layers, AcrossKV's
shared ones), so a block costs a sequence `units` of them, fewer as it ages. Blocks of a prompt that others may reuse
live in the prefix cache: an entry per hash, reference-counted, evicted least recently used first, always complete
in every cache. Addresses of pages are the engine's business; these counts decide what fits.

Law (INV-10): free units + private blocks x units + resident entries x entry size = all units, at every instant.
"""

from sim.serving.columns import (
    EVICTABLE,
    FREE,
    LRU_FIRST,
    LRU_LAST,
    N_RESIDENT,
    NOBODY,
    Asked,
    Ints,
    State,
)
from sim.serving.config import Knobs


def blocks_for(tokens: int, block_tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return (tokens + block_tokens - 1) // block_tokens


def most_units(prompt_tokens: int, output_tokens: int, knobs: Knobs) -> int:
    """Units a request may need at most; the last output token is never stored."""
    return blocks_for(prompt_tokens + output_tokens - 1, knobs.block_tokens) * knobs.full_units


def units_now(fed: int, live_units: Ints) -> int:
    """Units a block costs a sequence: all caches while its prompt is read, then those that later tokens still need.

    `fed` counts generated tokens that were fed back (negative while the prompt is incomplete); live_units is
    `SkipPlan.live_caches`, [T + 1].
    """
    if fed < 0:
        return live_units[0]
    return live_units[min(1 + fed, live_units.size - 1)]


def private_need(state: State, knobs: Knobs, request: int, tokens: int) -> int:
    """Blocks that must be added so that the request can hold so many tokens."""
    have = state.blocks[request]
    if knobs.hash_tokens > 0:
        have += state.shared[request] * (knobs.hash_tokens // knobs.block_tokens)
    return max(0, blocks_for(tokens, knobs.block_tokens) - have)


def reserve(state: State, knobs: Knobs, request: int, tokens: int) -> bool:
    """Whether the request now holds blocks for so many tokens; takes them if there is room, evicting old prefixes."""
    need = private_need(state, knobs, request, tokens)
    if need == 0:
        return True
    units = need * state.units[request]
    if units > state.counts[FREE] + state.counts[EVICTABLE] * knobs.hash_units:
        return False
    while state.counts[FREE] < units:
        evict_oldest(state, knobs)
    state.counts[FREE] -= units
    state.blocks[request] += need
    return True


def release(asked: Asked, state: State, knobs: Knobs, request: int) -> None:
    """Give back all that a request holds; its prefix entries stay resident until somebody needs the room."""
    state.counts[FREE] += state.blocks[request] * state.units[request]
    state.blocks[request] = 0
    state.units[request] = knobs.full_units
    if knobs.hash_tokens == 0:
        return
    first = asked.hash_offsets[request]
    for i in range(first + state.hashed[request] - 1, first - 1, -1):  # deepest first: it is evicted first
        if state.held[i]:
            state.held[i] = 0
            entry = asked.hash_ids[i]
            state.refs[entry] -= 1
            if state.refs[entry] == 0:
                lru_append(state, entry)
    state.hashed[request] = 0
    state.shared[request] = 0


def shrink(state: State, request: int, units: int) -> None:
    """Free the caches that the request's later tokens will never read."""
    freed = state.units[request] - units
    if freed > 0:
        state.counts[FREE] += state.blocks[request] * freed
        state.units[request] = units


def prefix_hits(asked: Asked, state: State, knobs: Knobs, request: int) -> int:
    """Leading prefix blocks of the request that are in memory; at least one prompt token is always left to compute."""
    if knobs.hash_tokens == 0:
        return 0
    first = asked.hash_offsets[request]
    most = min(asked.hash_offsets[request + 1] - first, (asked.prompt_tokens[request] - 1) // knobs.hash_tokens)
    hits = 0
    while hits < most and state.resident[asked.hash_ids[first + hits]]:
        hits += 1
    return hits


def unheld_hits(asked: Asked, state: State, request: int, hits: int) -> int:
    """How many of those entries nobody holds: taking them makes them unavailable for eviction."""
    first = asked.hash_offsets[request]
    unheld = 0
    for i in range(first, first + hits):
        if state.refs[asked.hash_ids[i]] == 0:
            unheld += 1
    return unheld


def take_hits(asked: Asked, state: State, request: int, hits: int) -> None:
    """Hold the request's first `hits` prefix entries."""
    first = asked.hash_offsets[request]
    for i in range(first, first + hits):
        entry = asked.hash_ids[i]
        if state.refs[entry] == 0:
            lru_remove(state, entry)
        state.refs[entry] += 1
        state.held[i] = 1
    state.hashed[request] = hits
    state.shared[request] = hits


def register(asked: Asked, state: State, knobs: Knobs, request: int) -> None:
    """Publish the prefix blocks that are now complete; one that somebody else published first stays private."""
    first = asked.hash_offsets[request]
    complete = min(
        asked.hash_offsets[request + 1] - first,
        min(state.computed[request], asked.prompt_tokens[request]) // knobs.hash_tokens,
    )
    for i in range(first + state.hashed[request], first + complete):
        entry = asked.hash_ids[i]
        if not state.resident[entry]:
            state.resident[entry] = 1
            state.refs[entry] = 1
            state.held[i] = 1
            state.shared[request] += 1
            state.blocks[request] -= knobs.hash_tokens // knobs.block_tokens
            state.counts[N_RESIDENT] += 1
    state.hashed[request] = max(state.hashed[request], complete)


def lru_append(state: State, entry: int) -> None:
    """The entry becomes the most recently used of those nobody holds."""
    last = state.counts[LRU_LAST]
    state.lru_prev[entry] = last
    state.lru_next[entry] = NOBODY
    if last == NOBODY:
        state.counts[LRU_FIRST] = entry
    else:
        state.lru_next[last] = entry
    state.counts[LRU_LAST] = entry
    state.counts[EVICTABLE] += 1


def lru_remove(state: State, entry: int) -> None:
    """The entry is held again, or leaves memory."""
    before, after = state.lru_prev[entry], state.lru_next[entry]
    if before == NOBODY:
        state.counts[LRU_FIRST] = after
    else:
        state.lru_next[before] = after
    if after == NOBODY:
        state.counts[LRU_LAST] = before
    else:
        state.lru_prev[after] = before
    state.counts[EVICTABLE] -= 1


def evict_oldest(state: State, knobs: Knobs) -> None:
    """Drop the prefix entry that nobody has used for longest."""
    entry = state.counts[LRU_FIRST]
    lru_remove(state, entry)
    state.resident[entry] = 0
    state.counts[N_RESIDENT] -= 1
    state.counts[FREE] += knobs.hash_units
