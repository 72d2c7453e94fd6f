"""The engine's kernels as things that can be timed: an item of the grid becomes launches on buffers of its size."""

from collections.abc import Callable, Mapping

import torch

from calibration.items import Item
from calibration.measure_attention import decode, keys, mixed, prefill
from calibration.measure_buffers import Buffers, Work
from calibration.timing import Op
from engine.block import Block, Linear, Norm
from engine.kernels.act import relu, swiglu
from engine.kernels.norm import CosineGate, add_layer_norm, add_rms_norm
from engine.kernels.sample import sample


def gemm(b: Buffers, one: Item) -> Work:
    """[m, k] x [k, n] with the model's biases, on weights that no cache holds."""
    m, n, k = one["m"], one["n"], one["k"]
    bias = b.noise(n) if _biased(b, str(one["matrix"])) else None
    sets = b.sets(n * k)
    weights, x, out = b.noise(sets, n, k), b.noise(m, k), b.empty(m, n)

    def run(i: int) -> None:
        if bias is None:
            torch.mm(x, weights[i].t(), out=out)
        else:
            torch.addmm(bias, x, weights[i].t(), out=out)

    return Work(Op(run, sets, [out]), 2.0 * (n * k + m * k + m * n), 2.0 * m * n * k)


def _biased(b: Buffers, matrix: str) -> bool:
    c = b.config
    if matrix in ("up", "down"):
        return c.ffn_bias
    return c.out_bias if matrix == "out" else c.qkv_bias and matrix != "head"


def norm(b: Buffers, one: Item) -> Work:
    """Residual add and norm; as `norm_gate` with the cosine test of FFN skipping."""
    rows, d = one["rows"], b.shape.hidden
    stream, delta, out = b.noise(rows, d), b.noise(rows, d).mul_(1e-3), b.empty(rows, d)
    weight, bias, gate = b.noise(d), b.noise(d), None
    if one.op == "norm_gate":
        ones = torch.ones(1 + max(1, b.shape.layers // 4), rows, dtype=torch.int8, device=b.device)
        gate = CosineGate(0.95, ones[0], ones[1:])

    def run(_: int) -> None:
        if b.shape.family == "opt":
            add_layer_norm(stream, delta, weight, bias, eps=1e-5, gate=gate, out=out)
        else:
            add_rms_norm(stream, delta, weight, eps=1e-5, gate=gate, out=out)

    return Work(Op(run, 1, [out]), 8.0 * rows * d)


def activation(b: Buffers, one: Item) -> Work:
    """SwiGLU or ReLU between the two halves of an FFN."""
    rows, f = one["rows"], b.shape.ffn
    if b.shape.gated_ffn:
        x, out = b.noise(rows, 2 * f), b.empty(rows, f)
        return Work(Op(lambda _: swiglu(x, out=out), 1, [out]), 6.0 * rows * f)
    x = b.noise(rows, f)
    return Work(Op(lambda _: relu(x), 1), 4.0 * rows * f)


def embed(b: Buffers, one: Item) -> Work:
    """Rows of the embedding table."""
    rows, s = one["rows"], b.shape
    table, out = b.noise(s.vocab, s.hidden), b.empty(rows, s.hidden)
    tokens = torch.randint(s.vocab, (rows,), device=b.device)
    return Work(Op(lambda _: torch.index_select(table, 0, tokens, out=out), 1, [out]), 4.0 * rows * s.hidden)


def sampled(b: Buffers, one: Item) -> Work:
    """Logits to float32, and one token of each row."""
    rows, vocab = one["rows"], b.shape.vocab
    logits, cold = b.noise(rows, vocab), torch.zeros(rows, device=b.device)
    seed, step = cold.long(), cold.int()
    return Work(Op(lambda _: sample(logits.float(), cold, seed, step), 1), 4.0 * rows * vocab)


def masked_ffn(b: Buffers, one: Item) -> Work:
    """The FFN behind a mask, by whatever way the engine takes for so many rows."""
    rows, s, biased = one["rows"], b.shape, b.config.ffn_bias
    up, live = s.ffn * (2 if s.gated_ffn else 1), rows * one["active"] // 100
    values = s.hidden * (up + s.ffn)
    sets, none = b.sets(values), Norm(None)
    ups, downs = b.noise(sets, up, s.hidden), b.noise(sets, s.hidden, s.ffn)
    more, less = (b.noise(up), b.noise(s.hidden)) if biased else (None, None)
    blocks = [
        Block(none, none, Linear(w), None, None, Linear(w), Linear(w, more), Linear(v, less), s.gated_ffn, post=False)
        for w, v in zip(ups, downs)
    ]
    x, active = b.noise(rows, s.hidden), torch.zeros(rows, dtype=torch.int8, device=b.device)
    active[torch.randperm(rows, device=b.device)[:live]] = 1
    return Work(Op(lambda i: blocks[i].ffn(x, active), sets), 2.0 * values * (live > 0), 2.0 * live * values)


def copy(b: Buffers, one: Item) -> Work:
    """A copy on the device: bytes are read and written."""
    source = b.noise(one["bytes"] // b.dtype.itemsize)
    target = torch.empty_like(source)
    return Work(Op(lambda _: target.copy_(source), 1, [target]), 2.0 * one["bytes"])


def product(b: Buffers, one: Item) -> Work:
    """A square product."""
    side = one["side"]
    a, out = b.noise(side, side), b.empty(side, side)
    return Work(Op(lambda _: torch.mm(a, a, out=out), 1, [out]), 6.0 * side * side, 2.0 * side**3)


KERNELS: Mapping[str, Callable[[Buffers, Item], Work]] = {
    "gemm": gemm,
    "decode_attention": decode,
    "prefill_attention": prefill,
    "mixed_attention": mixed,
    "norm": norm,
    "norm_gate": norm,
    "keys": keys,
    "bulk_keys": keys,
    "activation": activation,
    "embed": embed,
    "sample": sampled,
    "masked_ffn": masked_ffn,
    "copy": copy,
    "product": product,
}
