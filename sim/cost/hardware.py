"""GPUs: what the datasheet promises of each, with the source beside every figure (`gpus.toml`)."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sim.errors import InputError, UnknownName

FIGURES = (
    "memory_bytes",
    "bandwidth_bytes_per_s",
    "flops_bf16",
    "flops_fp8",
    "nvlink_bytes_per_s",
    "power_w",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU's datasheet: bytes, bytes per second, dense FLOP/s, watts; `sources` says where each comes from.

    `flops_fp8` is 0 where the silicon has no FP8 tensor cores. `nvlink_bytes_per_s` is per GPU and one way;
    without NVLink it is the PCIe rate.
    """

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops_bf16: float
    flops_fp8: float
    nvlink_bytes_per_s: float
    power_w: float
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name in FIGURES:
            value = getattr(self, name)
            if not value > 0 and not (name == "flops_fp8" and value == 0):
                raise InputError(f"GPU {self.name!r}: {name} = {value!r} must be positive")

    def flops(self, dtype: str) -> float:
        """Dense FLOP/s in `dtype` ("bf16" or "fp8"); fp8 weights on silicon without FP8 compute in bf16."""
        if dtype not in ("bf16", "fp8"):
            raise UnknownName("dtype", dtype, ("bf16", "fp8"))
        return self.flops_fp8 if dtype == "fp8" and self.flops_fp8 else self.flops_bf16


def gpu_named(name: str) -> Gpu:
    """The GPU of that name or alias; case, vendor words and separators do not matter.

    "h100", "H100-SXM-80GB", "NVIDIA H200", "NVIDIA H100 80GB HBM3" all work. Raises UnknownName.
    """
    found = _ALIASES.get(_key(name))
    if found is None:
        raise UnknownName("GPU", name, GPUS)
    return GPUS[found]


def read_gpus(path: Path) -> tuple[Mapping[str, Gpu], Mapping[str, str]]:
    """The GPUs of a TOML file by name, and the table of aliases. Raises InputError for a missing figure."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as cause:
        raise InputError(f"{path}: not readable as TOML ({cause})") from cause
    gpus: dict[str, Gpu] = {}
    aliases: dict[str, str] = {}
    for name, table in tables.items():
        gpus[name] = _gpu(path, name, table)
        for alias in (name, *table.get("aliases", ())):
            taken = aliases.setdefault(_key(alias), name)
            if taken != name:
                raise InputError(f"{path}: alias {alias!r} of {name!r} already means {taken!r}")
    return MappingProxyType(gpus), MappingProxyType(aliases)


def _gpu(path: Path, name: str, table: Mapping[str, Any]) -> Gpu:
    values, sources = {}, {}
    for figure in FIGURES:
        try:
            values[figure], sources[figure] = table[figure]["value"], table[figure]["source"]
        except (KeyError, TypeError) as cause:
            raise InputError(f"{path}: [{name}] lacks {figure} = {{ value = …, source = … }}") from cause
    return Gpu(name=name, **values, sources=sources)


def _key(name: str) -> str:
    """Lower case, vendor words dropped, everything but letters and digits dropped."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"nvidia|geforce|tensor core|gpu", "", name.lower()))


GPUS, _ALIASES = read_gpus(Path(__file__).with_name("gpus.toml"))
