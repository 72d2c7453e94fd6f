"""Row compaction on the device: which rows are active, in order, and the copies that pack and unpack them."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
# (the compiler of Triton types the kernels)
from __future__ import annotations

import torch
from torch import Tensor

from engine.kernels.backend import cdiv, check_packed, check_whole, jit, pow2, tl, use_triton

BLOCK_D = 1024
MAX_ROWS = 16384  # one program scans the mask


# no step shall wait for the compiler
@jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["active_ptr"])
def _compact(active_ptr, index_ptr, count_ptr, rows, BLOCK: tl.constexpr):
    row = tl.arange(0, BLOCK)
    live = (tl.load(active_ptr + row, mask=row < rows, other=0) != 0).to(tl.int32)
    count = tl.sum(live, 0)
    place = tl.cumsum(live, 0) - live
    tl.store(index_ptr + place, row, mask=live != 0)
    tl.store(index_ptr + row, -1, mask=(row >= count) & (row < rows))
    tl.store(count_ptr, count)


@jit
def _move(x_ptr, index_ptr, count_ptr, out_ptr, x_stride, out_stride, dim, GATHER: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0)
    if place >= tl.load(count_ptr):
        return
    row = tl.load(index_ptr + place)
    source, target = (row, place) if GATHER else (place, row)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + source.to(tl.int64) * x_stride + d, mask=d < dim, other=0.0)
    tl.store(out_ptr + target.to(tl.int64) * out_stride + d, x, mask=d < dim)


def compact_rows_triton(
    active: Tensor, *, index: Tensor | None = None, count: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `compact_rows`."""
    check_whole(active=active)
    rows = active.shape[0]
    if rows > MAX_ROWS:
        raise ValueError(f"{rows} rows; one compaction holds at most {MAX_ROWS}")
    index = active.new_empty(rows, dtype=torch.int32) if index is None else index
    count = active.new_empty(1, dtype=torch.int32) if count is None else count
    block = pow2(rows)
    _compact[(1,)](active, index, count, rows, BLOCK=block, num_warps=min(16, max(1, block // 256)))
    return index, count


def compact_rows_reference(
    active: Tensor, *, index: Tensor | None = None, count: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `compact_rows`."""
    index = active.new_empty(len(active), dtype=torch.int32) if index is None else index
    count = active.new_empty(1, dtype=torch.int32) if count is None else count
    kept = active.nonzero()[:, 0]
    index.fill_(-1)
    index[: len(kept)] = kept.to(torch.int32)
    return index, count.fill_(len(kept))


def compact_rows(
    active: Tensor, *, index: Tensor | None = None, count: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The active rows' numbers in ascending order, int32 [rows] (-1 past their end), and how many, int32 [1].

    active int8 [rows], at most 16384; both results stay on the device.
    """
    op = compact_rows_triton if use_triton(active) else compact_rows_reference
    return op(active, index=index, count=count)


def _launch(x: Tensor, index: Tensor, count: Tensor, out: Tensor, *, gather: bool) -> Tensor:
    check_packed(x=x, out=out)
    rows, dim = x.shape
    _move[(rows, cdiv(dim, BLOCK_D))](
        x, index, count, out, x.stride(0), out.stride(0), dim, GATHER=gather, BLOCK=BLOCK_D, num_warps=4
    )
    return out


def gather_rows_triton(x: Tensor, index: Tensor, count: Tensor, *, out: Tensor | None = None) -> Tensor:
    """As `gather_rows`."""
    return _launch(x, index, count, torch.empty_like(x) if out is None else out, gather=True)


def gather_rows_reference(x: Tensor, index: Tensor, count: Tensor, *, out: Tensor | None = None) -> Tensor:
    """As `gather_rows`."""
    out = torch.empty_like(x) if out is None else out
    n = int(count)
    out[:n] = x[index[:n].long()]
    return out


def gather_rows(x: Tensor, index: Tensor, count: Tensor, *, out: Tensor | None = None) -> Tensor:
    """out[i] = x[index[i]] for i < count, [rows, dim]; rows of `out` from count on stay as they were."""
    op = gather_rows_triton if use_triton(x) else gather_rows_reference
    return op(x, index, count, out=out)


def scatter_rows_triton(x: Tensor, index: Tensor, count: Tensor, *, out: Tensor) -> Tensor:
    """As `scatter_rows`."""
    return _launch(x, index, count, out, gather=False)


def scatter_rows_reference(x: Tensor, index: Tensor, count: Tensor, *, out: Tensor) -> Tensor:
    """As `scatter_rows`."""
    n = int(count)
    out[index[:n].long()] = x[:n]
    return out


def scatter_rows(x: Tensor, index: Tensor, count: Tensor, *, out: Tensor) -> Tensor:
    """out[index[i]] = x[i] for i < count, in place; the other rows of `out` stay as they were."""
    op = scatter_rows_triton if use_triton(x) else scatter_rows_reference
    return op(x, index, count, out=out)
