"""Attention and the cache as work to be timed: decoding rows, prompt chunks, both in a step, and the write of keys."""

from dataclasses import replace

import torch

from calibration.items import Item, item
from calibration.measure_buffers import PAGE, Buffers, Work
from calibration.timing import Op
from engine.kernels.attn_decode import attn_decode
from engine.kernels.attn_prefill import attn_prefill
from engine.kernels.rope_kv import rope_kv, write_kv


def decode(b: Buffers, one: Item) -> Work:
    """A query per row over `context` keys each."""
    rows, context, s = one["rows"], one["context"], b.shape
    k, v, tables = b.tables(rows, context)
    q, held = b.noise(rows, s.heads, s.head_dim), b.ints([context] * rows)
    out, scale = torch.empty_like(q), s.head_dim**-0.5

    def run(i: int) -> None:
        attn_decode(q, k, v, tables[i], held, scale=scale, out=out)

    return Work(
        Op(run, len(tables), [out]), 4.0 * rows * (context * s.d_kv + s.d_q), 4.0 * rows * context * s.d_q
    )


def prefill(b: Buffers, one: Item) -> Work:
    """`new` queries of one sequence after `context` cached keys."""
    new, context, s = one["new"], one["context"], b.shape
    k, v, tables = b.tables(1, new + context)
    q, held, edges = b.noise(new, s.heads, s.head_dim), b.ints([new + context]), b.ints([0, new])
    out, scale = torch.empty_like(q), s.head_dim**-0.5

    def run(i: int) -> None:
        attn_prefill(q, k, v, tables[i], held, edges, scale=scale, out=out)

    pairs = new * context + new * (new + 1) / 2
    moved = 4.0 * ((new + context) * s.d_kv + new * s.d_q)
    return Work(Op(run, len(tables), [out]), moved, 4.0 * pairs * s.d_q)


def mixed(b: Buffers, one: Item) -> Work:
    """Decoding rows and one prompt chunk in a step: both kernels on gathered queries, as the engine runs them."""
    rows, new, s = one["rows"], one["new"], b.shape
    singles, chunk = decode(b, one), prefill(b, item("", new=new, context=one["prompt_context"]))
    q, out = b.noise(rows + new, s.heads, s.head_dim), b.empty(rows + new, s.heads, s.head_dim)
    place = torch.arange(rows + new, device=b.device)

    def run(i: int) -> None:
        for work, index in zip((singles, chunk), (place[:rows], place[rows:])):
            q[index]  # gathered for the kernel, which has its own copy here
            work.op.run(i % work.op.sets)
            out[index] = work.op.outputs[0]

    sets = max(singles.op.sets, chunk.op.sets)
    return replace(
        singles,
        op=Op(run, sets, [out]),
        bytes_moved=singles.bytes_moved + chunk.bytes_moved,
        flops=singles.flops + chunk.flops,
    )


def keys(b: Buffers, one: Item) -> Work:
    """Rotation and write of a layer's keys and values; with `layers`, of those that one wide product has left."""
    s, layers = b.shape, int(one.get("layers", 0))
    tokens, heads = one["rows"] * max(1, layers), 0 if layers else s.heads
    fused, edge = b.noise(tokens, heads + 2 * s.kv_heads, s.head_dim), heads + s.kv_heads
    q, k, v = fused[:, :heads], fused[:, heads:edge], fused[:, edge:]
    k_pages, v_pages = b.held(tokens)
    slot = torch.randperm(len(k_pages) * PAGE, device=b.device)[:tokens]
    position, rope = torch.arange(tokens, device=b.device) % b.positions, b.rope

    def run(_: int) -> None:
        if rope is None:
            write_kv(k, v, k_pages, v_pages, slot)
        elif heads:
            rope_kv(q, k, v, k_pages, v_pages, slot, position, *rope)
        else:
            write_kv(k, v, k_pages, v_pages, slot, position, *rope)

    queries = 4.0 * s.d_q + 2.0 * s.d_kv if heads else 0.0  # read and written; the keys too, once more
    return Work(Op(run, 1), tokens * (queries + 8.0 * s.d_kv))
