"""Synthetic workloads from one seed.

The seed spawns four independent streams (arrivals, prompts, outputs, joint), so that changing the lengths leaves the
arrivals as they were: two studies that differ in one thing differ in that thing alone.
"""

from dataclasses import dataclass

import numpy as np

from sim.errors import InputError
from sim.workload.arrivals import Arrivals, Poisson
from sim.workload.lengths import Lengths, quantiles_named
from sim.workload.workload import Column, Workload


@dataclass(frozen=True)
class Streams:
    """Independent generators of one seed, one per question."""

    arrivals: np.random.Generator
    prompts: np.random.Generator
    outputs: np.random.Generator
    joint: np.random.Generator


def streams(seed: int) -> Streams:
    """The four streams of a seed; raises InputError for a negative one."""
    if seed < 0:
        raise InputError(f"seed is {seed}; it must not be negative")
    return Streams(*(np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)))


def _count(requests: int) -> int:
    if requests < 1:
        raise InputError(f"requests is {requests}; a workload needs at least 1")
    return requests


def synthetic(
    *, requests: int, arrivals: Arrivals, prompts: Lengths, outputs: Lengths, seed: int = 0, name: str = "synthetic"
) -> Workload:
    """Open-loop workload with independent arrivals, prompt and output lengths."""
    n, rng = _count(requests), streams(seed)
    return Workload(
        arrival_ns=arrivals(n, rng.arrivals),
        prompt_tokens=prompts(n, rng.prompts),
        output_tokens=outputs(n, rng.outputs),
        name=name,
        source=f"{arrivals}, prompts {prompts}, outputs {outputs}, seed {seed}",
    )


def closed_loop(
    *, requests: int, concurrency: int, prompts: Lengths, outputs: Lengths, seed: int = 0, name: str = "closed-loop"
) -> Workload:
    """Closed-loop workload: at most `concurrency` requests in the system, the next enters when one leaves."""
    if concurrency < 1:
        raise InputError(f"concurrency is {concurrency}; a closed loop needs at least 1 request in flight")
    n, rng = _count(requests), streams(seed)
    return Workload(
        arrival_ns=np.zeros(n, dtype=np.int64),
        prompt_tokens=prompts(n, rng.prompts),
        output_tokens=outputs(n, rng.outputs),
        name=name,
        source=f"closed loop of {concurrency}, prompts {prompts}, outputs {outputs}, seed {seed}",
        concurrency=concurrency,
    )


def named_workload(
    name: str, *, requests: int, qps: float | None = None, arrivals: Arrivals | None = None, seed: int = 0
) -> Workload:
    """Open-loop workload with the measured lengths of `name` ("azure-conv", "azure-code", "arxiv-summarization").

    Give `qps` for Poisson arrivals, or an arrival process. Raises UnknownName, and InputError unless exactly one of
    the two is given.
    """
    table, n, rng = quantiles_named(name), _count(requests), streams(seed)
    process = Poisson(qps) if qps is not None else arrivals
    if process is None or (qps is not None and arrivals is not None):
        raise InputError(f"workload {name!r}: give either a rate (qps) or an arrival process")
    prompt, output = table.draw(n, rng.prompts, rng.outputs)
    return Workload(
        arrival_ns=process(n, rng.arrivals),
        prompt_tokens=prompt,
        output_tokens=output,
        name=name,
        source=f"lengths: {table.source}; {process}, seed {seed}",
    )


def shared_prefix(
    *,
    requests: int,
    arrivals: Arrivals,
    groups: int,
    prefix_tokens: int,
    suffixes: Lengths,
    outputs: Lengths,
    block_tokens: int = 16,
    seed: int = 0,
) -> Workload:
    """Open-loop workload in which each request starts with one of `groups` prefixes of `prefix_tokens` tokens.

    Only the whole blocks inside the prefix carry shared ids; the block where prefix and suffix meet is a request's own.
    """
    if groups < 1 or prefix_tokens < 0 or block_tokens < 1:
        given = f"groups={groups}, prefix_tokens={prefix_tokens}, block_tokens={block_tokens}"
        raise InputError(f"{given}: they must be at least 1, 0 and 1")
    n, rng = _count(requests), streams(seed)
    prompt = prefix_tokens + suffixes(n, rng.prompts)
    group = rng.joint.integers(0, groups, n)
    ids, offsets = _prefix_ids(group, prompt, prefix_tokens // block_tokens, groups, block_tokens)
    return Workload(
        arrival_ns=arrivals(n, rng.arrivals),
        prompt_tokens=prompt,
        output_tokens=outputs(n, rng.outputs),
        name="shared-prefix",
        source=f"{groups} prefixes of {prefix_tokens} tokens, {arrivals}, suffixes {suffixes}, seed {seed}",
        hash_ids=ids,
        hash_offsets=offsets,
        hash_block_tokens=block_tokens,
    )


def _prefix_ids(group: Column, prompt: Column, shared: int, groups: int, block_tokens: int) -> tuple[Column, Column]:
    """CSR ids and offsets: block k < shared of group g is g · shared + k, every other block gets an id of its own."""
    offsets = np.concatenate([[0], np.cumsum(-(-prompt // block_tokens))])
    owner = np.repeat(np.arange(prompt.shape[0]), np.diff(offsets))
    block = np.arange(offsets[-1]) - offsets[owner]
    common = block < shared
    ids = np.where(common, group[owner] * shared + block, groups * shared + np.cumsum(~common) - 1)
    return ids.astype(np.int64), offsets.astype(np.int64)
