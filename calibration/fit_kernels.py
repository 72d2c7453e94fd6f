"""`sim/cost/coefficients/<gpu>.json` from public kernel tables: the fits of every op, with provenance and residuals.

Run as `python -m calibration fit-kernels --gpu h200 --version 0.24.0 --data ../shared/data/kernels`.
"""

import argparse
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from calibration.fit_attention import fit_decode, fit_prefill
from calibration.fit_gemm import fit_gemm, fit_quantisation
from calibration.fit_links import fit_all_reduce, fit_elementwise
from calibration.importers import aiconfigurator
from sim.cost.hardware import gpu_named
from sim.cost.measured import FOLDER, FORMAT
from sim.errors import UnknownName
from sim.study.options import Parser
from sim.study.terminal import write_text

HEAD_DIMS = (64, 128)
LAUNCHED = 1e6  # bytes of a matrix that takes as long as launching, wherever it lies
BYTES = {"bf16": 2, "fp8": 1}


@dataclass(frozen=True)
class Silicon:
    """What a fit must know of a GPU: SMs, L2 bytes, FlashAttention's version, the engine's, and where additions are.

    Matrices between `LAUNCHED` and `cold_bytes` stayed in L2 between the replays of six layers: twice as fast as from
    memory, where a server's come from, so they are left out. (A B200's large L2 shows no such effect.)
    """

    sms: int
    l2_bytes: float
    flash: int
    version: str
    additions: str
    additions_gpu: str
    folder: str
    cold_bytes: float = 0.0


_H100_ADDITIONS = ("compute/h100/meta-llama/Llama-2-7b-hf/mlp.csv", "h100")
SILICON = {
    "h200": Silicon(132, 50e6, 3, "0.24.0", *_H100_ADDITIONS, "h200_sxm"),
    "h100": Silicon(132, 50e6, 3, "0.24.0", *_H100_ADDITIONS, "h100_sxm"),
    "a100": Silicon(108, 40e6, 2, "0.14.0", "compute/a100/meta-llama/Meta-Llama-3-8B/mlp.csv", "a100", "a100_sxm"),
    "b200": Silicon(148, 126e6, 3, "0.24.0", *_H100_ADDITIONS, "b200_sxm"),
    "l40s": Silicon(142, 96e6, 2, "0.24.0", *_H100_ADDITIONS, "l40s", cold_bytes=32e6),
    "rtx-pro-6000": Silicon(188, 128e6, 2, "0.24.0", *_H100_ADDITIONS, "rtx_pro_6000_server", cold_bytes=43e6),
}


def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    command = commands.add_parser("fit-kernels", help="refit kernel coefficients to public tables")
    command.add_argument("--gpu", required=True, help=f"one of {', '.join(SILICON)}")
    command.add_argument("--version", help="engine version of the tables; the newest we checked by default")
    command.add_argument("--data", type=Path, default=Path("../shared/data/kernels"), help="folder of the tables")
    command.add_argument("--out", type=Path, help="file to write; sim/cost/coefficients/<gpu>.json by default")
    command.add_argument("--date", default=datetime.date.today().isoformat(), help="date to write into the file")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    if args.gpu not in SILICON:
        raise UnknownName("GPU with kernel tables", args.gpu, SILICON)
    facts = fit_kernels(args.gpu, args.data, version=args.version, date=args.date)
    write_text(str(args.out or FOLDER / f"{args.gpu}.json"), to_text(facts))


def fit_kernels(gpu: str, data: Path, *, version: str | None = None, date: str) -> dict[str, Any]:
    """The coefficients of one GPU: provenance, and `ops` with a table for each op and dtype."""
    silicon = SILICON[gpu]
    version = version or silicon.version
    files = aiconfigurator.where(data / "aiconfigurator", silicon.folder, version)
    pointwise = _pointwise(gpu, silicon, data)
    writes = not version.startswith("0.19")
    prefill = aiconfigurator.read_attention(files["prefill"])
    decode = aiconfigurator.read_attention(files["decode"])
    if writes:
        prefill, decode = (_without_kv_write(rows, pointwise) for rows in (prefill, decode))
    gemms = aiconfigurator.read_gemm(files["gemm"])
    return {
        "format": FORMAT,
        "gpu": gpu,
        "device": gemms["device"][0],
        "engine": f"vLLM {version}",
        "source": "ai-dynamo/aiconfigurator@095f58a5 (kernels), microsoft/vidur@7d475133 (additions)",
        "licence": "Apache-2.0 (aiconfigurator), MIT (vidur)",
        "fitted": date,
        "command": f"python -m calibration fit-kernels --gpu {gpu} --version {version}",
        "notes": _notes(gpu, writes=writes),
        "ops": {
            "gemm": _gemms(gemms, silicon),
            "prefill_attention": _prefills(prefill, silicon),
            "decode_attention": _decodes(decode, silicon),
            "all_reduce": fit_all_reduce(aiconfigurator.read_all_reduce(files["reduce"])),
            "elementwise": pointwise,
        },
    }


def to_text(facts: dict[str, Any]) -> str:
    """JSON with one line for each list of numbers: readable, and small in a diff."""
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    out: list[str] = []
    depth = 0
    for line in text.splitlines():
        stripped = line.strip()
        if depth == 0 and stripped.endswith("["):
            depth = 1
            out.append(line)
        elif depth > 0 and not stripped.endswith("{") and "}" not in stripped and '"' not in stripped:
            out[-1] += stripped + (" " if stripped.endswith(",") else "")
            depth += stripped.count("[") - stripped.count("]")
        else:
            depth = 0
            out.append(line)
    return "\n".join(line.rstrip() for line in out) + "\n"


def _gemms(rows: pl.DataFrame, silicon: Silicon) -> dict[str, Any]:
    found = {}
    for dtype in BYTES:
        size = pl.col("n") * pl.col("k") * BYTES[dtype]
        some = rows.filter((pl.col("dtype") == dtype) & ((size >= silicon.cold_bytes) | (size <= LAUNCHED)))
        if not some.is_empty():
            found[dtype] = fit_gemm(some, sms=silicon.sms)
    if "fp8" in found:
        found["fp8"]["quantisation"] = fit_quantisation(rows)
    return found


def _prefills(rows: pl.DataFrame, silicon: Silicon) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for dtype, some in _families(rows):
        found.setdefault(dtype, []).append(fit_prefill(some, sms=silicon.sms, splits=silicon.flash >= 3))
    return found


def _decodes(rows: pl.DataFrame, silicon: Silicon) -> dict[str, list[Any]]:
    """One query head per KV head runs another kernel than groups do: two grids each."""
    found: dict[str, list[Any]] = {}
    for grouped in (True, False):
        alike = rows.filter((pl.col("heads") > pl.col("kv_heads")) == grouped)
        for dtype, some in _families(alike):
            table = fit_decode(some, kv_bytes=BYTES[dtype], l2_bytes=silicon.l2_bytes)
            found.setdefault(dtype, []).append(table)
    return found


def _families(rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Rows by KV dtype and head width, where there are any."""
    for dtype in BYTES:
        for width in HEAD_DIMS:
            some = rows.filter((pl.col("dtype") == dtype) & (pl.col("head_dim") == width))
            if not some.is_empty():
                yield dtype, some


def _pointwise(gpu: str, silicon: Silicon, data: Path) -> dict[str, Any]:
    """Additions of this GPU; where only a sibling's were measured, its rate in proportion to the bandwidth."""
    table = fit_elementwise(data / "vidur" / silicon.additions)
    table["measured_on"] = silicon.additions_gpu
    if silicon.additions_gpu != gpu:
        ratio = gpu_named(silicon.additions_gpu).bandwidth_bytes_per_s / gpu_named(gpu).bandwidth_bytes_per_s
        table["ns_per_byte"] = float(f"{table['ns_per_byte'] * ratio:.5g}")
        table["domain"] = {"bytes_moved": [0.0, 0.0]}
    return table


def _without_kv_write(rows: pl.DataFrame, pointwise: dict[str, Any]) -> pl.DataFrame:
    """Attention alone: the bytes of writing K and V to the cache are taken off, at most a quarter of the time.

    Whoever prices the write adds the same bytes back; its launch stays, as part of attention.
    """
    stored = pl.col("dtype").replace_strict(BYTES, return_dtype=pl.Int64)
    moved = pl.col("rows") * pl.col("new") * pl.col("kv_heads") * pl.col("head_dim") * 2 * (2 + stored)
    write = moved * pointwise["ns_per_byte"]
    return rows.with_columns((pl.col("ns") - pl.min_horizontal(write, pl.col("ns") / 4)).alias("ns"))


def _notes(gpu: str, *, writes: bool) -> list[str]:
    notes = [
        "times are CUDA-graph replays: gaps between captured kernels are inside, host launches are not",
        "fp8 GEMMs contain the quantisation of their input",
        "attention excludes the bytes of writing K and V" + (": taken off at the elementwise rate" if writes else ""),
        "decode cells that fit into L2 were measured warm and are lifted to the line of the colder ones",
    ]
    if SILICON[gpu].cold_bytes:
        notes.append("GEMMs whose matrices stayed in L2 between replays are left out")
    if SILICON[gpu].additions_gpu != gpu:
        notes.append(f"elementwise rate is that of {SILICON[gpu].additions_gpu} in proportion to the bandwidth")
    return notes
