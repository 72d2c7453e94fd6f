"""Each kernel of a step against what the device can do at most: bytes over bandwidth or operations over matmul rate.

The ceilings are measured in the same run, by a large copy and a large product, so that shares compare like with like.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import linear

from engine.kernels.act import swiglu
from engine.kernels.attn_decode import attn_decode
from engine.kernels.attn_prefill import attn_prefill
from engine.kernels.norm import add_rms_norm
from engine.kernels.rope_kv import write_kv
from engine.kernels.sample import sample
from sim.errors import InputError
from sim.plans.model import ModelShape

PAGE = 16
REPEATS = 20


@dataclass(frozen=True)
class Kernel:
    """One launch: what it moves and computes at least."""

    name: str
    run: Callable[[], object]
    bytes_moved: float
    flops: float


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches on work of nothing else."""

    bytes_per_s: float
    flops_per_s: float

    def share(self, kernel: Kernel, seconds: float) -> float:
        """The least time that the kernel could take, over the time that it took."""
        return max(kernel.bytes_moved / self.bytes_per_s, kernel.flops / self.flops_per_s) / seconds


def shares(shape: ModelShape, *, rows: int, context: int, device: torch.device) -> list[dict[str, float | str]]:
    """Microseconds and share of the roofline of every kernel, in bfloat16. Raises InputError without a GPU."""
    if device.type != "cuda":
        raise InputError("the roofline share of kernels needs a GPU; this run has none")
    limits = ceilings(device, elements=1 << 29, side=8192)
    out: list[dict[str, float | str]] = []
    for kernel in kernels(shape, rows=rows, context=context, device=device, dtype=torch.bfloat16):
        seconds = timed(kernel.run, device)
        out.append({"kernel": kernel.name, "us": seconds * 1e6, "roofline_share": limits.share(kernel, seconds)})
    return out


def ceilings(device: torch.device, *, elements: int, side: int) -> Ceilings:
    """Bandwidth of a copy (read and write), and the rate of a square bfloat16 product."""
    source = torch.empty(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    a = torch.randn(side, side, device=device).to(torch.bfloat16)
    copy, product = timed(lambda: target.copy_(source), device), timed(lambda: a @ a, device)
    return Ceilings(4 * elements / copy, 2 * side**3 / product)


def kernels(
    shape: ModelShape, *, rows: int, context: int, device: torch.device, dtype: torch.dtype
) -> list[Kernel]:
    """The kernels of one layer, of a decode step of `rows` rows at `context` and of a prompt of that many tokens."""
    size, scale = dtype.itemsize, shape.head_dim**-0.5

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    def product(name: str, m: int, n: int, k: int) -> Kernel:
        x, w = noise(m, k), noise(n, k)
        return Kernel(f"{name} gemm {m}x{n}x{k}", lambda: linear(x, w), size * (m * k + n * k + m * n), 2.0 * m * n * k)

    blocks = -(-context // PAGE)
    pages = noise(2, rows * blocks, PAGE, shape.kv_heads, shape.head_dim)
    table = torch.arange(rows * blocks, dtype=torch.int32, device=device).view(rows, blocks)
    held = torch.full((rows,), context, dtype=torch.int32, device=device)
    q, chunk = noise(rows, shape.heads, shape.head_dim), noise(context, shape.heads, shape.head_dim)
    starts = torch.tensor([0, context], dtype=torch.int32, device=device)
    x, delta, weight = noise(rows, shape.hidden), noise(rows, shape.hidden), noise(shape.hidden)
    new = noise(2, rows, shape.kv_heads, shape.head_dim)
    slot = torch.arange(rows, device=device) * PAGE
    wide, logits = noise(rows, 2 * shape.ffn), noise(rows, shape.vocab).float()
    cold, seed = torch.zeros(rows, device=device), torch.zeros(rows, dtype=torch.int64, device=device)
    kv, both = 2 * context * shape.d_kv * size, (pages[0], pages[1])
    up = shape.ffn * (2 if shape.gated_ffn else 1)
    return [
        product("qkv", rows, shape.d_q + 2 * shape.d_kv, shape.hidden),
        product("ffn up", rows, up, shape.hidden),
        product("ffn down", rows, shape.hidden, shape.ffn),
        product("prompt ffn up", context, up, shape.hidden),
        Kernel(
            "decode attention",
            lambda: attn_decode(q, *both, table, held, scale=scale),
            rows * kv,
            4.0 * rows * context * shape.d_q,
        ),
        Kernel(
            "prefill attention",
            lambda: attn_prefill(chunk, *both, table[:1], held[:1], starts, scale=scale),
            kv + 2 * context * shape.d_q * size,
            2.0 * context * context * shape.d_q,
        ),
        Kernel("add + norm", lambda: add_rms_norm(x, delta, weight, eps=1e-5), 4 * rows * shape.hidden * size, 0),
        Kernel("kv write", lambda: write_kv(new[0], new[1], *both, slot), 4 * rows * shape.d_kv * size, 0),
        Kernel("swiglu", lambda: swiglu(wide), 3 * rows * shape.ffn * size, 0),
        Kernel("sample", lambda: sample(logits, cold, seed, seed.int()), 4 * rows * shape.vocab, 0),
    ]


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one launch, the median of several, each timed on the device after a warm-up."""
    run()
    if device.type != "cuda":
        started = perf_counter()
        run()
        return perf_counter() - started
    spans = []
    for _ in range(REPEATS):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]
        first.record()
        run()
        last.record()
        last.synchronize()
        spans.append(first.elapsed_time(last) / 1e3)
    return median(spans)
