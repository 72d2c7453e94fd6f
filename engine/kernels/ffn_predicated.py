"""FFN blocks that read their weights only where a row needs them: by a row mask, or over a compacted row list.

Two kernels, hidden = act(x W_up) and out = hidden W_down, whose programs look at the device's mask or count first and
return before any weight is read. Weights are shared by all rows of a batch, so the mask saves traffic where no row is
active (few rows: `ffn_predicated`); the compacted list saves arithmetic in proportion to the rows left out, which pays
once a step is bound by compute (about 190 rows on an H200: `ffn_gathered`). Between the two, cuBLAS is the better FFN.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import SMS, cdiv, check_packed, check_whole, dot, jit, pow2, tl, use_triton, wide

MAX_PREDICATED_ROWS = 32


@jit
def _tile_rows(active_ptr, index_ptr, count_ptr, rows, BLOCK_M: tl.constexpr):
    """Places of a tile, the rows they stand for, and which of them are to be computed."""
    place = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    row = place
    live = place < rows
    if index_ptr is not None:
        live = live & (place < tl.load(count_ptr))
        row = tl.load(index_ptr + place, mask=live, other=0)
    if active_ptr is not None:
        live = live & (tl.load(active_ptr + place, mask=live, other=0) != 0)
    return place.to(tl.int64), row.to(tl.int64), live


@jit
def _product(x_ptr, w_ptr, row, live, n, width, depth, x_stride, pair,
             BLOCK_K: tl.constexpr, STAGES: tl.constexpr, PAIR: tl.constexpr):  # fmt: skip
    """x[row] @ w[n].T, and x[row] @ w[n + pair].T too if PAIR (else the first again), in float32."""
    k = tl.arange(0, BLOCK_K)
    first = tl.zeros([row.shape[0], n.shape[0]], tl.float32)
    second = tl.zeros([row.shape[0], n.shape[0]], tl.float32)
    x_ptrs = x_ptr + row[:, None] * x_stride + k[None, :]
    w_ptrs = w_ptr + n.to(tl.int64)[:, None] * depth + k[None, :]
    for start in tl.range(0, depth, BLOCK_K, num_stages=STAGES):
        inside = (k < depth - start)[None, :]
        x = tl.load(x_ptrs + start, mask=live[:, None] & inside, other=0.0)
        there = (n < width)[:, None] & inside
        first = dot(x, tl.trans(tl.load(w_ptrs + start, mask=there, other=0.0)), first)
        if PAIR:
            second = dot(x, tl.trans(tl.load(w_ptrs + pair + start, mask=there, other=0.0)), second)
    return first, second


@jit(do_not_specialize=["rows"])  # no step shall wait for the compiler
def _up(x_ptr, w_ptr, b_ptr, hidden_ptr, active_ptr, index_ptr, count_ptr, rows, width, depth, x_stride,
        GATED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
        STAGES: tl.constexpr):  # fmt: skip
    place, row, live = _tile_rows(active_ptr, index_ptr, count_ptr, rows, BLOCK_M)
    if tl.max(live.to(tl.int32), 0) == 0:
        return
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    pair = tl.cast(width, tl.int64) * depth
    gate, up = _product(x_ptr, w_ptr, row, live, n, width, depth, x_stride, pair, BLOCK_K, STAGES, PAIR=GATED)
    if b_ptr is not None:
        gate += tl.load(b_ptr + n, mask=n < width, other=0.0).to(tl.float32)[None, :]
    if GATED:
        hidden = gate * tl.sigmoid(gate) * up
    else:
        hidden = tl.where(gate < 0, 0.0, gate)
    there = live[:, None] & (n < width)[None, :]
    tl.store(hidden_ptr + place[:, None] * width + n[None, :], hidden, mask=there)


@jit(do_not_specialize=["rows"])
def _down(hidden_ptr, w_ptr, b_ptr, out_ptr, active_ptr, index_ptr, count_ptr, rows, width, depth, out_stride,
          BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr):  # fmt: skip
    place, row, live = _tile_rows(active_ptr, index_ptr, count_ptr, rows, BLOCK_M)
    if tl.max(live.to(tl.int32), 0) == 0:
        return
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    out, _ = _product(hidden_ptr, w_ptr, place, live, n, width, depth, depth, 0, BLOCK_K, STAGES, PAIR=False)
    if b_ptr is not None:
        out += tl.load(b_ptr + n, mask=n < width, other=0.0).to(tl.float32)[None, :]
    there = live[:, None] & (n < width)[None, :]
    tl.store(out_ptr + row[:, None] * out_stride + n[None, :], out, mask=there)


def ffn_tiles(rows: int, dim: int) -> tuple[dict[str, int], dict[str, int]]:
    """Block sizes of the up and the down kernel.

    Few rows: narrow tiles, so that every multiprocessor streams weights; many: tiles for warp-group products.
    """
    if rows > MAX_PREDICATED_ROWS:
        many = {"BLOCK_M": 128, "BLOCK_K": 64, "STAGES": 3, "num_warps": 8}
        return {"BLOCK_N": 64, **many}, {"BLOCK_N": 128, **many}
    few = {"BLOCK_M": max(16, pow2(rows)), "STAGES": 4, "num_warps": 4}
    narrow = 32 if dim >= 32 * SMS else 16
    return {"BLOCK_N": 32, "BLOCK_K": 128, **few}, {"BLOCK_N": narrow, "BLOCK_K": 4096 // narrow, **few}


def _launch(
    x: Tensor, w_up: Tensor, w_down: Tensor, b_up: Tensor | None, b_down: Tensor | None,
    active: Tensor | None, index: Tensor | None, count: Tensor | None, hidden: Tensor | None, out: Tensor | None,
) -> Tensor:  # fmt: skip
    check_packed(x=x, out=out)
    check_whole(w_up=w_up, w_down=w_down, hidden=hidden, active=active)
    (rows, dim), width = x.shape, w_down.shape[1]
    hidden = x.new_empty(rows, width) if hidden is None else hidden
    out = x.new_empty(rows, dim) if out is None else out
    up, down = ffn_tiles(rows, dim)
    tiles = cdiv(rows, up["BLOCK_M"])
    _up[(tiles, cdiv(width, up["BLOCK_N"]))](
        x, w_up, b_up, hidden, active, index, count, rows, width, dim, x.stride(0),
        GATED=w_up.shape[0] == 2 * width, **up,
    )  # fmt: skip
    _down[(tiles, cdiv(dim, down["BLOCK_N"]))](
        hidden, w_down, b_down, out, active, index, count, rows, dim, width, out.stride(0), **down
    )
    return out


def _ffn(x: Tensor, w_up: Tensor, w_down: Tensor, b_up: Tensor | None, b_down: Tensor | None) -> Tensor:
    """The FFN of all rows in the reference dtype, the hidden layer rounded to x's dtype as the kernels store it."""
    linear = torch.nn.functional.linear
    hidden = linear(wide(x), wide(w_up), None if b_up is None else wide(b_up))
    if w_up.shape[0] == 2 * w_down.shape[1]:
        gate, up = hidden.chunk(2, -1)
        hidden = torch.nn.functional.silu(gate) * up
    else:
        hidden = hidden.relu()
    return linear(wide(hidden.to(x.dtype)), wide(w_down), None if b_down is None else wide(b_down))


def ffn_predicated_triton(
    x: Tensor, w_up: Tensor, w_down: Tensor, *, active: Tensor | None = None, b_up: Tensor | None = None,
    b_down: Tensor | None = None, hidden: Tensor | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `ffn_predicated`."""
    if x.shape[0] > MAX_PREDICATED_ROWS:
        raise ValueError(f"{x.shape[0]} rows; the predicated FFN serves at most {MAX_PREDICATED_ROWS}, use cuBLAS")
    return _launch(x, w_up, w_down, b_up, b_down, active, None, None, hidden, out)


def ffn_predicated_reference(
    x: Tensor, w_up: Tensor, w_down: Tensor, *, active: Tensor | None = None, b_up: Tensor | None = None,
    b_down: Tensor | None = None, hidden: Tensor | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `ffn_predicated`; `hidden` stays unused."""
    out = torch.empty_like(x) if out is None else out
    live = torch.ones(len(x), dtype=torch.bool) if active is None else active != 0
    if live.any():
        out[live] = _ffn(x[live], w_up, w_down, b_up, b_down).to(out.dtype)
    return out


def ffn_predicated(
    x: Tensor, w_up: Tensor, w_down: Tensor, *, active: Tensor | None = None, b_up: Tensor | None = None,
    b_down: Tensor | None = None, hidden: Tensor | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The FFN of at most 32 rows, [rows, dim]; without an active row no weight is read.

    x [rows, dim], values adjacent; w_down [dim, width]; w_up [2 * width, dim] (gates first) for SwiGLU, or
    [width, dim] for ReLU; biases as those of the two products, b_up for ReLU only. active int8 [rows] or None. Inactive
    rows of `out`, and of the scratch `hidden` [rows, width], stay as they were.
    """
    op = ffn_predicated_triton if use_triton(x) else ffn_predicated_reference
    return op(x, w_up, w_down, active=active, b_up=b_up, b_down=b_down, hidden=hidden, out=out)


def ffn_gathered_triton(
    x: Tensor, w_up: Tensor, w_down: Tensor, index: Tensor, count: Tensor, *, b_up: Tensor | None = None,
    b_down: Tensor | None = None, hidden: Tensor | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `ffn_gathered`."""
    return _launch(x, w_up, w_down, b_up, b_down, None, index, count, hidden, out)


def ffn_gathered_reference(
    x: Tensor, w_up: Tensor, w_down: Tensor, index: Tensor, count: Tensor, *, b_up: Tensor | None = None,
    b_down: Tensor | None = None, hidden: Tensor | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """As `ffn_gathered`; `hidden` stays unused."""
    out = torch.empty_like(x) if out is None else out
    kept = index[: int(count)].long()
    out[kept] = _ffn(x[kept], w_up, w_down, b_up, b_down).to(out.dtype)
    return out


def ffn_gathered(
    x: Tensor, w_up: Tensor, w_down: Tensor, index: Tensor, count: Tensor, *, b_up: Tensor | None = None,
    b_down: Tensor | None = None, hidden: Tensor | None = None, out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The FFN of rows index[:count] of x, each written to its own row of `out`, [rows, dim]; other rows stay.

    index int32 [rows] and count int32 [1] come from `compact_rows` and are read on the device: the grid covers all
    rows, surplus tiles return. The other arguments are those of `ffn_predicated`.
    """
    op = ffn_gathered_triton if use_triton(x) else ffn_gathered_reference
    return op(x, w_up, w_down, index, count, b_up=b_up, b_down=b_down, hidden=hidden, out=out)
