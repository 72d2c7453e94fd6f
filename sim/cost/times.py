"""Kernel times: the one question every source of prices answers, and the choice between sources.

Times are device time in nanoseconds of kernels replayed in a CUDA graph, the gap to the next one (about 1 us)
included; host work and launches outside a graph are priced elsewhere. Attention excludes writing K and V, fp8 GEMMs
include the quantisation of their input. Work of size zero costs nothing: it is not launched. Each answer carries a
mask `inside`: whether the point lies in the domain that was measured.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from numpy.typing import ArrayLike

from sim.cost.arrays import Dtype, Floats, Times
from sim.cost.borrowed import Between, Borrowed
from sim.cost.hardware import GPUS, Gpu, gpu_named
from sim.cost.measured import Measured, coefficients_path
from sim.cost.roofline import Roofline
from sim.errors import InputError, UncalibratedOp, UnknownName

Source = str  # one of SOURCES, or the path of a .json file of coefficients
SOURCES = ("auto", "measured", "roofline")
SIBLINGS = {"a100-40": "a100-80", "a100-pcie": "a100-80"}
BETWEEN = {"gh200": ("h100", "h200")}


class KernelTimes(Protocol):
    """A source of kernel times. Heads are per GPU. Array arguments broadcast; answers are (ns, inside)."""

    @property
    def label(self) -> str:
        """How results name this source."""
        ...

    @property
    def provenance(self) -> Mapping[str, object]:
        """Where the figures come from: repository, engine version, licence, domain, residuals."""
        ...

    def gemm(self, m: ArrayLike, n: int, k: int, dtype: Dtype) -> Times:
        """[m, k] x [k, n] with weights [k, n] of `dtype`; output in bf16."""
        ...

    def quantisation(self, m: ArrayLike, k: int) -> Floats:
        """What `gemm` with fp8 weights contains of quantising its input [m, k]."""
        ...

    def prefill_attention(
        self, new: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """Causal attention of one sequence: `new` query tokens after `context` cached ones."""
        ...

    def decode_attention(
        self, rows: ArrayLike, context: ArrayLike, heads: int, kv_heads: int, head_dim: int, kv_dtype: Dtype
    ) -> Times:
        """One query token for each of `rows` sequences over `context` cached tokens each (their mean)."""
        ...

    def elementwise(self, bytes_moved: ArrayLike) -> Times:
        """One pass over memory (norm, activation, rotary, residual, KV write): bytes read plus written."""
        ...

    def all_reduce(self, message_bytes: ArrayLike, tp: int) -> Times:
        """Sum of one message over `tp` GPUs of a node; zero for tp = 1."""
        ...


def times_for(gpu: str, *, source: Source = "auto") -> KernelTimes:
    """Kernel times for a GPU: "measured" coefficients, a "roofline", "auto" = measured where there are any, or a file.

    A100-40 borrows the fits of A100-80: the same chip, bounded by its slower memory. A source that ends in .json is a
    file of coefficients (`python -m calibration fit`). Raises UnknownName for a GPU or a source we do not have,
    UncalibratedOp for "measured" without coefficients, InputError for a file of another GPU, or of anything else.
    """
    found = gpu_named(gpu)
    if source.endswith(".json"):
        return _from_file(Path(source), found)
    if source not in SOURCES:
        raise UnknownName("source of kernel times", source, (*SOURCES, "FILE.json"))
    roofline = Roofline.of(found)
    if source == "roofline":
        return roofline
    if found.name in BETWEEN:
        return Between.of(found, *(_measured(name) for name in BETWEEN[found.name]))
    sibling = GPUS[SIBLINGS.get(found.name, found.name)]
    path = coefficients_path(sibling.name)
    if path is None:
        if source == "auto":
            return roofline
        raise UncalibratedOp(f"no measured kernel times for {found.name}: use source='roofline' or 'auto'")
    measured = _measured(sibling.name)
    return measured if sibling is found else Borrowed(measured, roofline)


def _from_file(path: Path, gpu: Gpu) -> Measured:
    measured = Measured.read(path, gpu=gpu)
    of = measured.provenance.get("gpu")
    if of != gpu.name:
        raise InputError(f"{path}: kernel times of {of}, not of {gpu.name}; give --gpu {of}, or another file")
    return measured


def _measured(gpu: str) -> Measured:
    path = coefficients_path(gpu)
    assert path is not None
    return Measured.read(path, gpu=GPUS[gpu])
