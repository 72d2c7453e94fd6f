"""What the strategy asked for, what the engine could realise, and how long it took."""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.batch import Batch
from engine.block import leaves_unread
from engine.forward import Outcome
from engine.transfer import to_device
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, KV

MiB = 1 << 20


@dataclass
class Metrics:
    """Sums over the iterations so far; bytes are of weights and of keys and values, as the device would move them."""

    shape: ModelShape
    weight_size: int  # bytes of a parameter
    kv_size: int  # bytes of an element of the cache
    iterations: int = 0
    tokens: int = 0  # that went through the model, drafts included
    emitted: int = 0
    blocks_dense: int = 0  # attention and FFN blocks that a dense model runs for the same tokens
    blocks_asked: int = 0  # of which the plan's table asks for so many
    weight_bytes_dense: int = 0
    weight_bytes: int = 0
    kv_read_bytes_dense: int = 0
    kv_read_bytes: int = 0
    rows_above: int = 0  # tokens that ran the last layer: SwiftKV's rows past l*
    depth_max: int = 0  # deepest token of any iteration, in layers with attention or FFN
    depth_sum: float = 0.0  # mean depth per iteration, summed
    drafted: int = 0
    accepted: int = 0
    graph_hits: int = 0
    graph_misses: int = 0
    agreed: int = 0
    compared: int = 0
    wasted: int = 0  # tokens drawn for requests that had stopped, found out one step late
    _gated: Tensor | None = field(default=None, repr=False)  # [FFN rows left out, FFN layers nobody ran], on the device

    def note(self, batch: Batch, outcome: Outcome, *, draft: bool = False) -> None:
        """Count one forward pass; a draft is extra work, which no dense model does. Nothing is read back."""
        flags, size = batch.flags, self.shape
        tokens, layers = flags.shape
        runs = {flag: (flags & flag) > 0 for flag in (ATTN, FFN, KV)}
        head = size.p_head if len(batch.outputs) else 0
        params = {ATTN: size.p_qo, KV: size.p_kv, FFN: size.p_ffn}
        read = sum(int(_read(batch, outcome, flag).sum()) * count for flag, count in params.items())
        context = (batch.place + 1) * (2 * size.d_kv * self.kv_size)
        self.blocks_asked += int(runs[ATTN].sum() + runs[FFN].sum())
        self.weight_bytes += self.weight_size * (read + head)
        self.kv_read_bytes += int((context * runs[ATTN].sum(axis=1)).sum())
        self.graph_hits += outcome.replayed is not None
        self.graph_misses += outcome.replayed is None
        self._note_gate(batch, outcome)
        if draft:
            return
        self.iterations += 1
        self.tokens += tokens
        self.blocks_dense += 2 * tokens * layers
        self.weight_bytes_dense += self.weight_size * (size.layers * size.p_layer + head)
        self.kv_read_bytes_dense += int(context.sum()) * layers
        depth = (runs[ATTN] | runs[FFN]).sum(axis=1)
        self.depth_max = max(self.depth_max, int(depth.max()))
        self.depth_sum += float(depth.mean())
        self.rows_above += int((runs[ATTN] | runs[FFN])[:, -1].sum())

    def _note_gate(self, batch: Batch, outcome: Outcome) -> None:
        if outcome.gate is None:
            return
        active = outcome.gate.active != 0  # [L, rows]
        asked = to_device((batch.flags.T & FFN) > 0, active.device)
        empty = asked.any(1) & ~(asked & active).any(1) & leaves_unread(active, len(batch.place))
        found = torch.stack([(asked & ~active).sum(), empty.sum()])
        self._gated = found if self._gated is None else self._gated + found

    @property
    def gated(self) -> tuple[int, int]:
        """FFN blocks that the gate left out, and FFN layers of an iteration that no row at all ran."""
        if self._gated is None:
            return 0, 0
        rows, layers = self._gated.tolist()
        return int(rows), int(layers)

    def summary(self) -> dict[str, float]:
        """Shares and sums by name; `_requested` is what table and gate ask for, `_realised` the bytes saved."""
        rows, layers = self.gated
        weight_bytes = self.weight_bytes - layers * self.shape.p_ffn * self.weight_size
        return {
            "iterations": self.iterations,
            "tokens": self.tokens,
            "emitted_tokens": self.emitted,
            "wasted_tokens": self.wasted,
            "skip_requested": 1 - _share(self.blocks_asked - rows, self.blocks_dense),
            "weight_bytes_skip_realised": 1 - _share(weight_bytes, self.weight_bytes_dense),
            "weight_mib_saved": (self.weight_bytes_dense - weight_bytes) / MiB,
            "kv_read_skip_realised": 1 - _share(self.kv_read_bytes, self.kv_read_bytes_dense),
            "kv_read_mib_saved": (self.kv_read_bytes_dense - self.kv_read_bytes) / MiB,
            "ffn_blocks_gated": rows,
            "ffn_layers_unread": layers,
            "rows_above": self.rows_above,
            "step_depth_max": self.depth_max,
            "step_depth_mean": self.depth_sum / max(1, self.iterations),
            "draft_acceptance": _share(self.accepted, self.drafted),
            "graph_hits": self.graph_hits,
            "graph_misses": self.graph_misses,
            "agreement_top1": _share(self.agreed, self.compared) if self.compared else float("nan"),
        }


def _read(batch: Batch, outcome: Outcome, flag: int) -> NDArray[np.bool_]:
    """The layers whose weights of that kind the pass read, [L], the gate left aside.

    Gathered, those that some token asks for. A replay runs whole segments and reads more: all but FFNs behind a mask.
    """
    asked = np.asarray(((batch.flags & flag) > 0).any(axis=0))
    if outcome.replayed is None or (flag == FFN and leaves_unread(outcome.logits, len(batch.place))):
        return asked
    if flag == KV:  # the layer's own; keys of one stream for many layers are projected where they are asked for
        plan = batch.plan
        own = np.isin(np.arange(plan.layers), plan.caches) & (plan.kv_input == np.arange(plan.layers))
        return asked | (outcome.replayed & own)
    return asked | outcome.replayed


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
