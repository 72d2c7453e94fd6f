"""Inputs for kernels and the measures their outputs are held to."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LOW = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *LOW)
NAN = float("nan")


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal values on the device."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(dtype).to(DEVICE)


def poison(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """NaN: whoever reads it shows."""
    return torch.full(shape, NAN, dtype=dtype, device=DEVICE)


def ints(values: list[int] | list[list[int]], dtype: torch.dtype = torch.int32) -> Tensor:
    """A small integer tensor on the device."""
    return torch.tensor(values, dtype=dtype, device=DEVICE)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree bit for bit, NaN included."""
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def error(value: Tensor, exact: Tensor) -> float:
    """Largest error relative to the largest exact value; NaN if there is one."""
    return float((value.double() - exact.double()).abs().max() / exact.double().abs().max())


def assert_accurate(kernel: Tensor, reference: Tensor, exact: Tensor) -> None:
    """The kernel errs at most by one unit in the last place of the largest value, or three times as much as torch in
    the same dtype. A unit rather than half of one: the interpreter cuts float32 to bfloat16 instead of rounding it."""
    unit = torch.finfo(kernel.dtype).eps
    found, allowed = error(kernel, exact), max(3 * error(reference, exact), unit) + 2e-6
    assert found <= allowed, f"relative error {found:.2e}, at most {allowed:.2e} allowed"


@dataclass(frozen=True)
class Paged:
    """A paged cache whose pages are shuffled, and NaN wherever no sequence wrote; page 0 belongs to nobody."""

    k: Tensor
    v: Tensor
    table: Tensor
    ctx: Tensor

    def double(self) -> "Paged":
        """The same cache in float64."""
        return replace(self, k=self.k.double(), v=self.v.double())

    @property
    def args(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the attention ops take after q."""
        return self.k, self.v, self.table, self.ctx


def paged(
    contexts: list[int], kv_heads: int, head_dim: int, page_size: int, dtype: torch.dtype, seed: int = 0
) -> Paged:
    """A cache of ragged sequences; table entries past a context point to the all-NaN page 0."""
    most = -(-max(contexts) // page_size) + 1
    pages = torch.randperm(len(contexts) * most, generator=torch.Generator().manual_seed(seed)) + 1
    table = pages.reshape(len(contexts), most).to(torch.int32).to(DEVICE)
    shape = (len(contexts) * most + 1, page_size, kv_heads, head_dim)
    k, v = poison(*shape, dtype=dtype), poison(*shape, dtype=dtype)
    for row, context in enumerate(contexts):
        token = torch.arange(context, device=DEVICE)
        page = table[row, token // page_size].long()
        k[page, token % page_size] = noise(context, kv_heads, head_dim, seed=seed + 2 * row + 1, dtype=dtype)
        v[page, token % page_size] = noise(context, kv_heads, head_dim, seed=seed + 2 * row + 2, dtype=dtype)
        table[row, -(-context // page_size) :] = 0
    return Paged(k, v, table, ints(contexts))
