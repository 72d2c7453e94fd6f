"""A workload: who asks, when, and for how many tokens, as columns.

Times are integer nanoseconds from the first arrival. A workload is open (requests arrive when they arrive) or closed
(`concurrency` > 0: every request is ready at time 0, and at most `concurrency` of them are in the system at once).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.errors import InputError

Column = NDArray[np.int64]

_NS = 1_000_000_000
_LATEST_NS = 2**62  # half of int64: leaves the clock room to run on after the last arrival


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests as read-only int64 columns, sorted by arrival.

    `hash_ids` and `hash_offsets` (CSR: request i owns hash_ids[hash_offsets[i]:hash_offsets[i + 1]]) name the prompt's
    blocks of `hash_block_tokens` tokens, the last one possibly partial; two requests share a prefix as far as their
    ids agree from the start. Raises InputError for a column that cannot be used, naming the first offending row.
    """

    arrival_ns: Column  # [n]
    prompt_tokens: Column  # [n], at least 1
    output_tokens: Column  # [n], at least 1
    name: str = "workload"
    source: str = ""
    hash_ids: Column | None = None  # [m]
    hash_offsets: Column | None = None  # [n + 1]
    hash_block_tokens: int = 0  # 0: no hashes
    failed: int = 0  # rows of the trace that record a request nobody answered: reported, not replayed
    concurrency: int = 0  # 0: open loop

    def __post_init__(self) -> None:
        for name in ("arrival_ns", "prompt_tokens", "output_tokens", "hash_ids", "hash_offsets"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _column(f"workload {self.name!r}", name, getattr(self, name)))
        self._check_lengths()
        self._check_arrivals()
        self._check_hashes()

    def __len__(self) -> int:
        return int(self.arrival_ns.shape[0])

    def hashes(self) -> Iterator[Column]:
        """The block ids of each request in turn; nothing at all for a workload without hashes."""
        if self.hash_ids is not None and self.hash_offsets is not None:
            for start, stop in zip(self.hash_offsets[:-1], self.hash_offsets[1:]):
                yield self.hash_ids[start:stop]

    def take(self, n: int) -> "Workload":
        """The first n requests; raises InputError unless 1 ≤ n ≤ len(self)."""
        if not 1 <= n <= len(self):
            raise self._refuse(f"cannot take {n} requests; it holds {len(self)} (take 1 to {len(self)})")
        offsets = None if self.hash_offsets is None else self.hash_offsets[: n + 1]
        ids = None if self.hash_ids is None or offsets is None else self.hash_ids[: offsets[-1]]
        columns = {k: getattr(self, k)[:n] for k in ("arrival_ns", "prompt_tokens", "output_tokens")}
        return replace(self, **columns, hash_ids=ids, hash_offsets=offsets)

    def scaled_to(self, qps: float) -> "Workload":
        """The same requests with every gap stretched by one factor, so that (n - 1) / span = qps.

        Raises InputError for a rate that is not positive, and where there is no span to stretch. A single request
        has no gap and comes back as it is.
        """
        if not (np.isfinite(qps) and qps > 0):
            raise self._refuse(f"cannot scale to {qps} requests per second; give a positive rate")
        if len(self) == 1:
            return self
        span_ns = int(self.arrival_ns[-1])
        if span_ns == 0:
            raise self._refuse("all requests arrive at once, there is no rate to scale; draw arrivals instead")
        factor = (len(self) - 1) * _NS / qps / span_ns
        if span_ns * factor > _LATEST_NS:
            raise self._refuse(f"{qps} requests per second spreads {len(self)} requests over centuries")
        return replace(self, arrival_ns=np.rint(self.arrival_ns * factor).astype(np.int64))

    def offline(self) -> "Workload":
        """The same requests, all of them waiting at time 0."""
        return replace(self, arrival_ns=np.zeros_like(self.arrival_ns))

    def stats(self) -> dict[str, float]:
        """What a table says of a workload: counts, seconds, requests per second, tokens, and the spread of the gaps.

        `qps` is (n - 1) / span and `gap_cv` the coefficient of variation of the gaps (1 for Poisson); both are NaN
        where the arrivals have no span.
        """
        span_s = float(self.arrival_ns[-1]) / _NS
        gaps = np.diff(self.arrival_ns)
        table = {
            "requests": float(len(self)),
            "failed": float(self.failed),
            "span_s": span_s,
            "qps": (len(self) - 1) / span_s if span_s else float("nan"),
            "gap_cv": float(gaps.std() / gaps.mean()) if span_s else float("nan"),
        }
        for side in ("prompt", "output"):
            tokens = getattr(self, f"{side}_tokens")
            table[f"{side}_tokens"] = float(tokens.sum())
            table[f"{side}_mean"] = float(tokens.mean())
            table |= {f"{side}_p{p}": float(np.percentile(tokens, p)) for p in (50, 90, 99)}
            table[f"{side}_max"] = float(tokens.max())
        return table

    def _refuse(self, why: str) -> InputError:
        return InputError(f"workload {self.name!r}: {why}")

    def _check_lengths(self) -> None:
        if not len(self):
            raise self._refuse("it is empty; it needs at least one request")
        for name in ("prompt_tokens", "output_tokens"):
            tokens = getattr(self, name)
            if tokens.shape != self.arrival_ns.shape:
                raise self._refuse(f"{tokens.shape[0]} {name} for {len(self)} arrivals")
            if tokens.min() < 1:
                row = int(np.flatnonzero(tokens < 1)[0])
                raise self._refuse(f"{name}[{row}] is {tokens[row]}; a request has at least 1 token")
        if self.failed < 0 or self.concurrency < 0:
            raise self._refuse(f"failed={self.failed}, concurrency={self.concurrency}: neither can be negative")

    def _check_arrivals(self) -> None:
        times = self.arrival_ns
        if times[0] < 0:
            raise self._refuse(f"arrival_ns[0] is {times[0]}; time starts at 0")
        back = np.flatnonzero(times[1:] < times[:-1])
        if back.size:
            row = int(back[0]) + 1
            raise self._refuse(f"arrival_ns[{row}] is {times[row]}, before {times[row - 1]} of the row above; sort it")
        if times[-1] > _LATEST_NS:
            raise self._refuse(f"the last arrival, {times[-1]} ns, is beyond the clock ({_LATEST_NS} ns)")
        if self.concurrency and times[-1] > 0:
            raise self._refuse("a closed loop (concurrency > 0) has no arrival times; use offline()")

    def _check_hashes(self) -> None:
        ids, offsets = self.hash_ids, self.hash_offsets
        if (ids is None) != (offsets is None) or (ids is None) != (self.hash_block_tokens == 0):
            raise self._refuse("hash_ids, hash_offsets and hash_block_tokens come together or not at all")
        if ids is None or offsets is None:
            return
        framed = offsets.shape[0] == len(self) + 1 and offsets[0] == 0 and offsets[-1] == ids.shape[0]
        if self.hash_block_tokens < 0 or not framed:
            raise self._refuse(f"hash_offsets must run from 0 to {ids.shape[0]} in {len(self) + 1} steps")
        blocks = -(-self.prompt_tokens // self.hash_block_tokens)
        wrong = np.flatnonzero(np.diff(offsets) != blocks)
        if wrong.size:
            row = int(wrong[0])
            raise self._refuse(
                f"request {row} has {offsets[row + 1] - offsets[row]} hash ids; its"
                f" {self.prompt_tokens[row]} prompt tokens make {blocks[row]} blocks of {self.hash_block_tokens}"
            )
        if ids.size and ids.min() < 0:
            raise self._refuse(f"hash id {ids.min()} is negative; number the blocks from 0")


def _column(owner: str, name: str, values: ArrayLike) -> Column:
    """The values as a read-only int64 column of its own; raises InputError for what is not a row of whole numbers."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise InputError(f"{owner}: {name} must be a row of whole numbers, not {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            bad = np.flatnonzero(~np.isfinite(array) | (array != np.rint(array)) | (np.abs(array) >= 2.0**63))
        if bad.size:
            raise InputError(f"{owner}: {name}[{bad[0]}] is {array[bad[0]]}; it must be a whole number")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise InputError(f"{owner}: {name} holds {array.max()}, beyond int64")
    column = np.array(array, dtype=np.int64)
    column.setflags(write=False)
    return column
