"""One decoder layer as the runner sees it, whatever the family: norms, projections, an FFN, and their order.

The runner decides which rows meet which half of a layer; a block knows no positions, no cache and no plan.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from engine.kernels.act import relu, swiglu
from engine.kernels.backend import use_triton
from engine.kernels.compact import MAX_ROWS, compact_rows
from engine.kernels.ffn_predicated import ffn_gathered, ffn_predicated
from engine.kernels.norm import CosineGate, add_layer_norm, add_rms_norm
from sim.plans.rules import GATHERED_ROWS

PREDICATED_ROWS = 2  # above, a row mask saves no weight bytes that cuBLAS would not read faster


def leaves_unread(x: Tensor, rows: int) -> bool:
    """Whether the weights of an FFN that none of so many rows needs stay unread; a CPU gathers rows, and reads none."""
    return not use_triton(x) or rows <= PREDICATED_ROWS or GATHERED_ROWS <= rows <= MAX_ROWS


@dataclass(frozen=True)
class Linear:
    """weight [out, in], and a bias or None."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """x @ weight.T + bias, [rows, out]."""
        return linear(x, self.weight, self.bias)

    def part(self, first: int, last: int) -> "Linear":
        """A view of outputs first..last-1."""
        return Linear(self.weight[first:last], None if self.bias is None else self.bias[first:last])


@dataclass(frozen=True)
class Norm:
    """RMSNorm, or LayerNorm where there is a bias; None as weight is the identity (post-norm models)."""

    weight: Tensor | None
    bias: Tensor | None = None
    eps: float = 1e-5

    def __call__(
        self,
        stream: Tensor,
        delta: Tensor | None = None,
        *,
        active: Tensor | None = None,
        gate: CosineGate | None = None,
    ) -> Tensor:
        """The normed rows; `delta` is added to the stream in place first, where active."""
        if self.weight is None:
            if delta is not None:
                stream += delta if active is None else delta.where(active[:, None] != 0, 0)
            return stream
        if self.bias is None:
            return add_rms_norm(stream, delta, self.weight, eps=self.eps, active=active, gate=gate)
        return add_layer_norm(stream, delta, self.weight, self.bias, eps=self.eps, active=active, gate=gate)

    def post(
        self, stream: Tensor, delta: Tensor, *, active: Tensor | None = None, gate: CosineGate | None = None
    ) -> Tensor:
        """norm(stream + delta), written back into the stream, where active."""
        assert self.weight is not None
        assert self.bias is not None
        return add_layer_norm(stream, delta, self.weight, self.bias, eps=self.eps, post=True, active=active, gate=gate)


@dataclass(frozen=True)
class Block:
    """Tensors of one layer; `qkv` is fused, q first; `kv` is None where keys and values are another layer's."""

    attn_norm: Norm
    ffn_norm: Norm
    q: Linear
    kv: Linear | None
    qkv: Linear | None
    out: Linear
    up: Linear  # [2 * ffn, hidden], gates first, if gated
    down: Linear
    gated: bool
    post: bool

    @property
    def input_norm(self) -> Norm:
        """What is applied to the stream before attention."""
        return Norm(None) if self.post else self.attn_norm

    def after_attn(self, stream: Tensor, delta: Tensor, *, active: Tensor | None = None) -> Tensor:
        """The FFN's input, once the attention's output has joined the stream."""
        if self.post:
            return self.attn_norm.post(stream, delta, active=active)
        return self.ffn_norm(stream, delta, active=active)

    def ffn_input(self, stream: Tensor) -> Tensor:
        """The FFN's input for rows whose attention was left out."""
        return stream if self.post else self.ffn_norm(stream)

    def after_ffn(
        self, stream: Tensor, delta: Tensor, following: Norm, *, active: Tensor | None, gate: CosineGate | None
    ) -> Tensor:
        """The next layer's normed input, once the FFN's output has joined the stream."""
        if self.post:
            return following(self.ffn_norm.post(stream, delta, active=active, gate=gate))
        return following(stream, delta, active=active, gate=gate)

    def ffn(self, x: Tensor, active: Tensor | None = None) -> Tensor:
        """The FFN of the active rows, [rows, hidden]; the others' output is anything.

        Where the kernels run, nothing is read back: few rows are predicated, many compacted, and between the two all
        are computed, for there a mask saves nothing.
        """
        if active is not None:
            if not use_triton(x):
                return self._ffn_of(x, active.nonzero()[:, 0])
            if self.gated and self.up.bias is not None:  # no published model has one; the kernels know none
                return self.ffn(x)
            if len(x) <= PREDICATED_ROWS:
                return ffn_predicated(x, self.up.weight, self.down.weight, active=active, **self._biases())
            if GATHERED_ROWS <= len(x) <= MAX_ROWS:
                index, count = compact_rows(active)
                return ffn_gathered(x, self.up.weight, self.down.weight, index, count, **self._biases())
        hidden = self.up(x)
        return self.down(swiglu(hidden) if self.gated else relu(hidden))

    def _ffn_of(self, x: Tensor, rows: Tensor) -> Tensor:
        if len(rows) == len(x):
            return self.ffn(x)
        out = torch.zeros_like(x)
        if len(rows):
            out[rows] = self.ffn(x[rows])
        return out

    def _biases(self) -> dict[str, Tensor | None]:
        return {"b_up": self.up.bias, "b_down": self.down.bias}
