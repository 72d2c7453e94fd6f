"""CUDA graphs for decode steps: one per row bucket and segment of layers, from one memory pool.

A step replays the segments that some row needs, in order: full depth, an early exit, SkipDecode's bottom and top, a
draft's first layers are all subsets of the same graphs (`engine.segments`). Without capture the same segments run
eagerly, on any device. Not yet run on a GPU.
"""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.batch import Batch
from engine.forward import Forward, Outcome
from engine.segments import Buffers, Segments
from sim.plans.plan import ATTN, FFN

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
SEGMENTS = 8
WARMUPS = 2


class Bucket:
    """The segments of one number of rows, captured or eager."""

    def __init__(self, segments: Segments, *, capture: bool, pool: Any) -> None:
        self.segments = segments
        self._logits: Tensor | None = None
        steps: list[Callable[[], None]] = [segments.embed]
        steps += [lambda i=i: segments.run(i) for i in range(len(segments.spans))]  # type: ignore[misc]
        steps.append(self._head)
        self.embed, *self.spans, self.head = [_captured(step, pool) if capture else step for step in steps]

    def __call__(self, batch: Batch, streams: Tensor | None = None) -> Tensor:
        """Logits of the batch's tokens, [tokens, vocab]; they hold until the bucket's next call.

        `streams` are residual streams that lower layers have left; without them, the tokens are embedded.
        """
        self.segments.buffers.fill(batch)
        if streams is None:
            self.embed()
        else:
            self.segments.buffers.x[: len(streams)] = streams
        for i in self.segments.needed(batch):
            self.spans[i]()
        self.head()
        assert self._logits is not None
        return self._logits[: len(batch.place)]

    def _head(self) -> None:
        self._logits = self.segments.head()


class DecodeGraphs:
    """Buckets for a model, its plan and its cache; largest captured first, so that the pool is cut once."""

    def __init__(
        self, forward: Forward, *, max_rows: int, max_context: int, capture: bool, segments: int = SEGMENTS
    ) -> None:
        self.forward = forward
        model, size = forward.model, forward.cache.knobs.block_tokens
        rows = [b for a, b in pairwise((0, *BUCKETS)) if a < max_rows]
        pool = torch.cuda.graph_pool_handle() if capture else None
        blocks, hidden = -(-max_context // size), model.config.shape.hidden
        self.buckets: dict[int, Bucket] = {}
        with torch.inference_mode():
            for n in sorted(rows, reverse=True):
                buffers = Buffers(n, forward.plan, blocks=blocks, hidden=hidden, like=model.embedding)
                self.buckets[n] = Bucket(Segments(forward, buffers, segments), capture=capture, pool=pool)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Outcome | None:
        """What the forward pass leaves, or None for a batch that holds more than single tokens, or too many of them."""
        bucket = self._bucket(batch)
        if bucket is None:
            return None
        n, logits = len(batch.place), bucket(batch)
        gate = bucket.segments.gate if batch.eligible is not None else None
        return Outcome(logits, gate.first_rows(n) if gate else None, bucket.segments.layers_of(batch))

    @torch.inference_mode()
    def finish(self, batch: Batch, streams: Tensor, layer: int) -> Outcome | None:
        """The rest of a mixed step once `layer`'s stream has left its keys: only sampled tokens go on, so they replay.

        SwiftKV's upper half: prompt chunks end here, and who goes on is one query per request. `streams` are those of
        all tokens. None where any other token has something left to do, or the FFN gate is at work.
        """
        bulk = list(self.forward.model.bulk[layer].layers)
        left = batch.flags.copy()
        left[:, :layer] = 0
        left[:, bulk] &= ATTN | FFN
        if batch.eligible is not None or not np.array_equal(np.flatnonzero(left.any(axis=1)), batch.sampled):
            return None
        rest = batch.sampled_part(left)
        bucket = self._bucket(rest)
        if bucket is None:
            return None
        return Outcome(bucket(rest, streams[batch.outputs]), None, bucket.segments.layers_of(rest))

    def _bucket(self, batch: Batch) -> Bucket | None:
        """The least bucket that holds the batch, if its tokens are single and its masks say all."""
        fitting = [rows for rows in self.buckets if rows >= len(batch.place)]
        if not batch.singles or not fitting:
            return None
        bucket = self.buckets[min(fitting)]
        return bucket if bucket.segments.covers(batch) else None


@cache
def _side_stream() -> Any:
    """One for all warm-ups: cuBLAS keeps a workspace for every stream that it has ever seen, 32 MiB each on Hopper."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def _captured(step: Callable[[], None], pool: Any) -> Callable[[], None]:
    """The step as a replay of its graph; warmed up on a side stream first, as capture demands."""
    side = _side_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        step()
    return graph.replay
