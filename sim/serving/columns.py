"""The state of one replica as columns: what was asked, how far each request is, what the next iteration holds.

Everything is an array, so that the same functions run interpreted (by the engine, and as the simulator's slow twin)
and compiled (by the simulator's loop). A request is an index; a queue is an array of indices and two counters.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# status of a request
FUTURE, WAITING, RUNNING, DONE, REFUSED, ABORTED = range(6)

# scalars that change, by position in State.counts
N_RUNNING = 0
N_FRONT = 1  # preempted requests that go before everyone who waits
HEAD = 2  # the queue's first entry
TAIL = 3  # one past the queue's last entry
FREE = 4  # free KV units
EVICTABLE = 5  # prefix entries nobody holds
LRU_FIRST = 6
LRU_LAST = 7
N_ROWS = 8  # rows of the iteration being built
N_PREEMPTED = 9  # preemptions so far
N_DONE = 10
N_RESIDENT = 11  # prefix entries in memory
N_SLOTS = 12  # positions of `running` in use; more than N_RUNNING only while the compiled loop leaves gaps
N_ADMITTED = 13  # admissions so far
N_COUNTS = 14

NOBODY = -1


class Asked(NamedTuple):
    """What the requests are: lengths in tokens, prefix entries in CSR form."""

    arrival_ns: Ints  # [n]; written by the loop for closed-loop clients
    prompt_tokens: Ints  # [n]
    output_tokens: Ints  # [n] tokens that will be generated; the engine lowers it when a stop condition is met
    hash_ids: Ints  # [m] dense ids of full prefix blocks
    hash_offsets: Ints  # [n + 1]


class State(NamedTuple):
    """How far everything is."""

    status: NDArray[np.int8]  # [n]
    computed: Ints  # [n] tokens whose keys and values are in memory
    generated: Ints  # [n] output tokens emitted
    blocks: Ints  # [n] KV blocks held privately
    units: Ints  # [n] units per private block: caches this request still needs
    hashed: Ints  # [n] prefix blocks looked at so far (held, or duplicates of somebody's)
    shared: Ints  # [n] prefix entries held
    held: NDArray[np.uint8]  # [m] whether the request holds that entry
    cached: Ints  # [n] prompt tokens found in the prefix cache when first admitted
    preempted: Ints  # [n] times
    scheduled_ns: Ints  # [n] start of the first iteration it took part in; NOBODY before
    first_token_ns: Ints  # [n]
    last_token_ns: Ints  # [n]
    queue: Ints  # [n] arrived requests, in order
    front: Ints  # [n] stack of preempted requests
    running: Ints  # [2 * max_num_seqs] in order of admission; the first N_SLOTS count
    admitted: Ints  # [n] number of the request's last admission: smaller is older
    refs: Ints  # [entries] requests that hold the prefix entry
    resident: NDArray[np.uint8]  # [entries]
    lru_next: Ints  # [entries]
    lru_prev: Ints  # [entries]
    row_request: Ints  # [max_num_seqs] the iteration being built
    row_start: Ints  # [max_num_seqs] position of its first token
    row_tokens: Ints  # [max_num_seqs]
    counts: Ints  # [N_COUNTS]


def asked_of(
    arrival_ns: Ints,
    prompt_tokens: Ints,
    output_tokens: Ints,
    hash_ids: Ints | None = None,
    hash_offsets: Ints | None = None,
) -> Asked:
    """The requests as owned, writable int64 columns."""
    n = len(prompt_tokens)

    def own(column: Ints) -> Ints:
        return np.array(column, dtype=np.int64)

    ids = own(np.empty(0, np.int64) if hash_ids is None else hash_ids)
    offsets = own(np.zeros(n + 1, np.int64) if hash_offsets is None else hash_offsets)
    return Asked(own(arrival_ns), own(prompt_tokens), own(output_tokens), ids, offsets)


def state_of(asked: Asked, *, max_num_seqs: int, total_units: int, full_units: int) -> State:
    """An idle replica with empty memory, for these requests."""
    n, m = asked.prompt_tokens.size, asked.hash_ids.size
    entries = int(asked.hash_ids.max()) + 1 if m else 0
    # of one piece, so that few pages are partly used; what is never written to takes no memory
    blank, filled = iter(np.zeros((10, n), dtype=np.int64)), iter(np.full((3, n), NOBODY, dtype=np.int64))

    def column(size: int, value: int = 0) -> Ints:
        return np.full(size, value, dtype=np.int64)

    counts = column(N_COUNTS)
    counts[FREE] = total_units
    counts[LRU_FIRST] = counts[LRU_LAST] = NOBODY
    return State(
        status=np.full(n, FUTURE, dtype=np.int8),
        computed=next(blank),
        generated=next(blank),
        blocks=next(blank),
        units=column(n, full_units),
        hashed=next(blank),
        shared=next(blank),
        held=np.zeros(m, dtype=np.uint8),
        cached=next(blank),
        preempted=next(blank),
        scheduled_ns=next(filled),
        first_token_ns=next(filled),
        last_token_ns=next(filled),
        queue=next(blank),
        front=next(blank),
        running=column(2 * max_num_seqs),
        admitted=next(blank),
        refs=column(entries),
        resident=np.zeros(entries, dtype=np.uint8),
        lru_next=column(entries, NOBODY),
        lru_prev=column(entries, NOBODY),
        row_request=column(max_num_seqs),
        row_start=column(max_num_seqs),
        row_tokens=column(max_num_seqs),
        counts=counts,
    )
