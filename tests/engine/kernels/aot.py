"""Compiles for sm_90, without a GPU, what the launchers launch: `python -m tests.engine.kernels.aot [--json]`.

The real launchers run on meta tensors under a driver that has a target and no device: the compiler then specialises
arguments as it would on the GPU (divisibility, ones), and nothing is launched. Prints a table, or a JSON object a line.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget

from engine.kernels import act, attn_decode, attn_prefill, compact, ffn_predicated, norm, rope_kv, sample

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
INSTRUCTIONS = {
    "wgmma": r"wgmma\.mma_async",
    "mma": r"\bmma\.sync",
    "load": r"\bld\.global|\bcp\.async\.c[ag]",
    "load128": r"\bld\.global\S*\.v4\.b32|\bcp\.async\.cg\S* [^;]*, 0x10,",
    "store": r"\bst\.global",
    "store128": r"\bst\.global\S*\.v4\.b32",
}
Row = dict[str, str | int]
Case = tuple[str, Callable[[], object]]


class Sm90:
    """A driver that knows its target and has no device."""

    def get_current_target(self) -> GPUTarget:
        """Hopper."""
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        """Any number: it only keys the cache."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


def compiled(launch: Callable[[], object]) -> list[tuple[str, object]]:
    """Names and compiled kernels of every launch that `launch` makes."""
    seen: list[tuple[str, object]] = []
    run = triton.runtime.JITFunction.run

    def record(self, *args, grid, warmup, **kwargs):
        seen.append((self.fn.__name__, run(self, *args, grid=grid, warmup=True, **kwargs)))

    triton.runtime.driver.set_active(Sm90())
    triton.runtime.JITFunction.run = record
    try:
        launch()
    finally:
        triton.runtime.JITFunction.run = run
    return seen


def usage(cubin: bytes) -> dict[str, int]:
    """What the assembler reports of a cubin: registers, and bytes of stack and local memory (spills need either)."""
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "-res-usage", file.name]
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {key.lower(): int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}


def resources(case: str, name: str, kernel: object) -> Row:
    """Registers, spills, shared memory, and the instructions that matter in one kernel's PTX."""
    ptx = kernel.asm["ptx"]
    counts = {column: len(re.findall(pattern, ptx)) for column, pattern in INSTRUCTIONS.items()}
    used = usage(kernel.asm["cubin"])
    return {"case": case, "kernel": name.strip("_"), **used, "smem": kernel.metadata.shared, **counts}


def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def fused(rows: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as views of one projection."""
    parts = empty(rows, (heads + 2 * kv_heads) * head_dim, dtype=dtype).split(
        [heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], 1
    )
    return tuple(part.unflatten(1, (-1, head_dim)) for part in parts)


def attention(dtype: torch.dtype, head_dim: int, page_size: int) -> Iterator[Case]:
    """Both attentions, grouped heads at 128 values per head and one query head per KV head at 64."""
    heads, kv_heads = (32, 8) if head_dim == 128 else (32, 32)
    pages = empty(4096, page_size, kv_heads, head_dim, dtype=dtype)
    case = f"{str(dtype)[6:]} d{head_dim} p{page_size}"
    for rows in (1, 128):
        q = fused(rows, heads, kv_heads, head_dim, dtype)[0]
        args = (q, pages, pages, empty(rows, 8192 // page_size), empty(rows))
        yield f"{case} B{rows}", partial(
            attn_decode.attn_decode_triton, *args, scale=0.1, active=empty(rows, dtype=torch.int8)
        )
    for tokens in (128, 2048):
        q = fused(tokens, heads, kv_heads, head_dim, dtype)[0]
        args = (q, pages, pages, empty(4, 8192 // page_size), empty(4), empty(5))
        yield f"{case} T{tokens}", partial(attn_prefill.attn_prefill_triton, *args, scale=0.1)


def norms(dtype: torch.dtype, dim: int) -> Iterator[Case]:
    """Add and norm, plain and with everything on."""
    x, w, rows = empty(64, dim, dtype=dtype), empty(dim, dtype=dtype), empty(64, dtype=torch.int8)
    gate = norm.CosineGate(0.95, rows, empty(12, 64, dtype=torch.int8))
    case = f"{str(dtype)[6:]} {dim}"
    yield f"{case} rms", partial(norm.add_rms_norm_triton, x, x, w, eps=1e-5)
    yield f"{case} rms gate", partial(norm.add_rms_norm_triton, x, x, w, eps=1e-5, active=rows, gate=gate)
    yield f"{case} layer gate", partial(norm.add_layer_norm_triton, x, x, w, w, eps=1e-5, active=rows, gate=gate)
    yield f"{case} post", partial(norm.add_layer_norm_triton, x, x, w, w, eps=1e-5, active=rows, post=True)


def cache_writes(dtype: torch.dtype, head_dim: int, page_size: int) -> Iterator[Case]:
    """Rotation and KV writes, of one layer and of sixteen."""
    q, k, v = fused(64, 32, 8, head_dim, dtype)
    caches = (empty(16, 4096, page_size, 8, head_dim, dtype=dtype),) * 2
    pages = tuple(cache[0] for cache in caches)
    turn = (empty(64), *(empty(8192, head_dim // 2, dtype=torch.float32),) * 2)
    kv = empty(64, 16, 2, 8, head_dim, dtype=dtype)
    case = f"{str(dtype)[6:]} d{head_dim} p{page_size}"
    yield f"{case} rope", partial(rope_kv.rope_kv_triton, q, k, v, *pages, empty(64), *turn)
    yield f"{case} q", partial(rope_kv.rope_q_triton, q, *turn)
    yield f"{case} plain", partial(rope_kv.write_kv_triton, k, v, *pages, empty(64))
    yield f"{case} bulk", partial(rope_kv.write_kv_triton, kv[:, :, 0], kv[:, :, 1], *caches, empty(16, 64), *turn)


def ffns(dtype: torch.dtype, dim: int, width: int, gated: int) -> Iterator[Case]:
    """Activations and FFNs of one model: SwiGLU, or ReLU with biases."""
    w_up, w_down = empty((1 + gated) * width, dim, dtype=dtype), empty(dim, width, dtype=dtype)
    bias = {} if gated else {"b_up": empty(width, dtype=dtype), "b_down": empty(dim, dtype=dtype)}
    case = f"{str(dtype)[6:]} {dim}x{width}"
    act_op = act.swiglu_triton if gated else act.relu_triton
    yield case, partial(act_op, empty(64, (1 + gated) * width, dtype=dtype))
    for rows in (1, 32):
        x, active = empty(rows, dim, dtype=dtype), empty(rows, dtype=torch.int8)
        yield f"{case} B{rows}", partial(ffn_predicated.ffn_predicated_triton, x, w_up, w_down, active=active, **bias)
    x = empty(256, dim, dtype=dtype)
    yield f"{case} gathered", partial(
        ffn_predicated.ffn_gathered_triton, x, w_up, w_down, empty(256), empty(1), **bias
    )


def bookkeeping() -> Iterator[Case]:
    """Compaction and sampling."""
    yield "2048 rows", partial(compact.compact_rows_triton, empty(2048, dtype=torch.int8))
    x = empty(256, 4096, dtype=torch.bfloat16)
    yield "gather", partial(compact.gather_rows_triton, x, empty(256), empty(1))
    yield "scatter", partial(compact.scatter_rows_triton, x, empty(256), empty(1), out=x)
    heat, seed = empty(64, dtype=torch.float32), empty(64, dtype=torch.int64)
    yield "128256", partial(sample.sample_triton, empty(64, 128256, dtype=torch.float32), heat, seed, empty(64))


def cases() -> Iterator[Case]:
    """Every configuration of the gate."""
    for dtype in (torch.bfloat16, torch.float16):
        for head_dim in (64, 128):
            for page_size in (16, 64):
                yield from attention(dtype, head_dim, page_size)
            yield from cache_writes(dtype, head_dim, 16)
        yield from norms(dtype, 4096)
    yield from norms(torch.bfloat16, 896)
    yield from ffns(torch.bfloat16, 4096, 14336, 1)
    yield from ffns(torch.float16, 2048, 8192, 0)
    yield from bookkeeping()


def main(argv: list[str]) -> None:
    """Prints one line per compiled kernel."""
    for case, launch in cases():
        for name, kernel in compiled(launch):
            row = resources(case, name, kernel)
            print(json.dumps(row) if "--json" in argv else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
