"""What comes to a fleet: requests with their class and the dispatcher's luck, in batches that can be cut and joined."""

from collections.abc import Sequence

import numpy as np

from sim.run.dispatch import HELD, Batch
from sim.run.seat import Seat
from sim.serving.columns import NOBODY, Ints
from sim.workload.workload import Workload

BY_REQUEST = tuple(name for name in Batch._fields if not name.startswith("hash_"))
KINDS, LUCK = 101, 102  # streams of a seed beside those of `sim.workload.generate`


def batch_of(work: Workload, shares: Sequence[float], seed: int, *, first: int = 0, window: int = 0) -> Batch:
    """The requests of an open-loop workload, each with a class drawn by the shares; numbered from `first`.

    `window` separates the draws of one part of a stream from those of the others.
    """
    n = len(work)
    edges = np.cumsum(shares) / np.sum(shares)
    kinds = np.searchsorted(edges[:-1], np.random.default_rng([seed, KINDS, window]).random(n), side="right")
    ids, offsets = np.empty(0, dtype=np.int64), np.zeros(n + 1, dtype=np.int64)
    if work.hash_ids is not None and work.hash_offsets is not None:
        ids, offsets = np.unique(work.hash_ids, return_inverse=True)[1], work.hash_offsets.copy()
    return Batch(
        arrival_ns=work.arrival_ns.copy(),
        prompt_tokens=work.prompt_tokens.copy(),
        output_tokens=work.output_tokens.copy(),
        number=first + np.arange(n),
        kind=kinds.astype(np.int64),
        attempt=np.zeros(n, dtype=np.int64),
        born_ns=work.arrival_ns.copy(),
        first_ns=np.full(n, NOBODY, dtype=np.int64),
        luck=np.random.default_rng([seed, LUCK, window]).random((n, 2)),
        hash_ids=ids,
        hash_offsets=offsets,
        placed=np.full(n, HELD, dtype=np.int64),
    )


def cut(batch: Batch, start: int, stop: int) -> Batch:
    """Requests start..stop of a batch, as a view."""
    columns = {name: getattr(batch, name)[start:stop] for name in BY_REQUEST}
    return Batch(**columns, hash_ids=batch.hash_ids, hash_offsets=batch.hash_offsets[start : stop + 1])


def pick(batch: Batch, rows: Ints) -> Batch:
    """Some requests of a batch, in the order given; copies."""
    columns = {name: getattr(batch, name)[rows] for name in BY_REQUEST}
    begin, sizes = batch.hash_offsets[rows], batch.hash_offsets[rows + 1] - batch.hash_offsets[rows]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    places = np.repeat(begin - offsets[:-1], sizes) + np.arange(offsets[-1])
    return Batch(**columns, hash_ids=batch.hash_ids[places], hash_offsets=offsets)


def joined(batches: Sequence[Batch]) -> Batch:
    """All requests by the time they are routed; of one time, those of an earlier batch first."""
    if len(batches) == 1:
        return batches[0]
    columns = {name: np.concatenate([getattr(b, name) for b in batches]) for name in BY_REQUEST}
    ids = [b.hash_ids[b.hash_offsets[0] : b.hash_offsets[-1]] for b in batches]
    sizes = np.concatenate([np.diff(b.hash_offsets) for b in batches])
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    whole = Batch(**columns, hash_ids=np.concatenate(ids), hash_offsets=offsets)
    return pick(whole, np.argsort(whole.arrival_ns, kind="stable"))


def again(seat: Seat, slots: Ints, *, at_ns: int, rng: np.random.Generator) -> Batch:
    """Requests of a seat as they come back after it failed: whole, from their prompt."""
    asked = seat.replica.asked
    n = seat.number.size
    whole = Batch(
        arrival_ns=np.full(n, at_ns, dtype=np.int64),
        prompt_tokens=asked.prompt_tokens,
        output_tokens=asked.output_tokens,
        number=seat.number,
        kind=seat.kind,
        attempt=seat.attempt + 1,
        born_ns=seat.born_ns,
        first_ns=np.full(n, NOBODY, dtype=np.int64),
        luck=rng.random((n, 2)),
        hash_ids=asked.hash_ids,
        hash_offsets=asked.hash_offsets,
        placed=np.full(n, HELD, dtype=np.int64),
    )
    return pick(whole, slots)
