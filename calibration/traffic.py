"""The requests of a measured point, as its load generator sent them.

A closed loop counts every request it sent, the first wave included, whose prompts all arrive at once: with ten
requests per slot that wave makes up much of a mean TTFT. Requests of one length never stay in step on a real server,
so lengths that a source calls fixed are drawn within `JITTER` of it. Averages of a data set's own lengths are not
fixed: such prompts and answers are drawn as widely as conversations are. A client that caps its requests in flight
turns an open loop beyond capacity into a closed one.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.importers.published_sources import AVERAGES
from calibration.points import Load, Point
from sim.errors import InputError
from sim.workload.workload import Workload

PER_SLOT = 10
OFFLINE = 1000
SECONDS = 60.0
JITTER = 0.05
HASH_TOKENS = 16
NATURAL_SHAPE = 1.0  # of a gamma distribution: answers of conversations vary about as much as their mean
NATURAL_MOST = 1024  # vLLM's benchmark leaves out longer ones
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Traffic:
    """Requests for one replica, and the cap on requests in flight that the client kept to (0: none)."""

    workload: Workload
    cap: int = 0


def traffic_of(point: Point, *, replicas: int = 1, seed: int = 0, most: int | None = None) -> Traffic:
    """The point's requests for one of its replicas. Raises InputError for a point without load or lengths."""
    load = point.load
    if load is None or point.isl is None or point.osl is None:
        raise InputError(f"{point.source}: load or lengths are not stated")
    rng = np.random.default_rng(seed)
    n = request_count(point, load, replicas)
    n = n if most is None else min(n, most)
    natural = AVERAGES in point.notes
    prompts = _lengths(point.isl, point.isl_range, load, n, rng, natural=natural)
    outputs = _lengths(point.osl, point.osl_range, load, n, rng, natural=natural)
    if load.kind == "static_batch":
        outputs = np.maximum(outputs, 2)  # a decode step needs a second token
    arrivals = _arrivals(load, n, replicas, rng)
    slots = max(1, round(load.value / replicas)) if load.kind == "concurrency" else 0
    ids, offsets, block = _prefixes(point, prompts)
    workload = Workload(
        arrival_ns=arrivals,
        prompt_tokens=prompts,
        output_tokens=outputs,
        name="measured point",
        source=point.source,
        hash_ids=ids,
        hash_offsets=offsets,
        hash_block_tokens=block,
        concurrency=slots,
    )
    return Traffic(workload, (load.max_concurrency or 0) // replicas)


def request_count(point: Point, load: Load, replicas: int) -> int:
    """Requests that one replica served: as told, else what its kind of benchmark usually sends."""
    if load.kind == "static_batch":
        return int(load.value)
    if point.requests:
        return max(1, point.requests // replicas)
    if load.kind == "concurrency":
        return max(1, round(PER_SLOT * load.value / replicas))
    if load.kind == "qps":
        return max(60, round(SECONDS * load.value / replicas))
    return OFFLINE


def closed(traffic: Traffic) -> Workload:
    """The same requests in a closed loop of the cap: what a capped client beyond capacity sends."""
    return replace(traffic.workload, arrival_ns=np.zeros_like(traffic.workload.arrival_ns), concurrency=traffic.cap)


def _lengths(
    mean: float, bounds: tuple[float, float] | None, load: Load, n: int, rng: np.random.Generator, *, natural: bool
) -> Ints:
    if bounds:
        least, most = (max(1, round(bound)) for bound in bounds)
        return rng.integers(least, most, size=n, endpoint=True)
    if natural and round(mean) % 16:  # a multiple of 16 was asked for, not found
        drawn = np.minimum(rng.gamma(NATURAL_SHAPE, mean / NATURAL_SHAPE, n), NATURAL_MOST)
        return np.maximum(1, np.rint(drawn * (mean / drawn.mean()))).astype(np.int64)
    if load.kind in ("static_batch", "offline"):
        return np.full(n, max(1, round(mean)), dtype=np.int64)
    return np.maximum(1, np.rint(mean * (1 + JITTER * rng.uniform(-1, 1, n)))).astype(np.int64)


def _arrivals(load: Load, n: int, replicas: int, rng: np.random.Generator) -> Ints:
    if load.kind != "qps":
        return np.zeros(n, dtype=np.int64)
    mean_s = replicas / load.value
    if load.arrivals == "constant":
        gaps = np.full(n - 1, mean_s)
    else:
        gaps = rng.gamma(load.burstiness, mean_s / load.burstiness, n - 1)
        gaps *= (n - 1) * mean_s / max(gaps.sum(), 1e-12)  # load generators stretch their gaps to the rate asked for
    return np.concatenate([[0], np.rint(np.cumsum(gaps) * 1e9)]).astype(np.int64)


def _prefixes(point: Point, prompts: Ints) -> tuple[Ints | None, Ints | None, int]:
    """Block hashes (CSR) of prompts that recur in rotation; none where the server does not cache prefixes."""
    distinct = point.distinct_prompts
    if not distinct or not point.flags.get("prefix_caching"):
        return None, None, 0
    blocks = -(-prompts // HASH_TOKENS)
    offsets = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    owner = np.repeat(np.arange(prompts.size) % distinct, blocks)
    position = np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], blocks)
    return (owner * int(blocks.max()) + position).astype(np.int64), offsets, HASH_TOKENS
