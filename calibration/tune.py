"""`python -m calibration tune`: the engine's Triton kernels under other tile sizes than the ones they have.

Every variant is timed on the same buffers as the kernel itself, and counts only if its output is the kernel's. What is
best where is a finding; the choice is made in `engine/kernels`, by shape, so that captured graphs stay what they were.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from calibration.items import Item, item
from calibration.measure import Request, Session
from calibration.measure_ops import KERNELS
from calibration.measure_rows import Rows
from calibration.timing import Op, timer_for
from engine.kernels import attn_decode, attn_prefill, ffn_predicated
from sim.errors import InputError
from sim.study.options import Parser
from sim.study.terminal import console, show_table

TOLERANCE = 2.0**-6  # of the largest value: two units of bfloat16, for sums in another order


@dataclass(frozen=True)
class Variant:
    """A kernel with one attribute of its module replaced."""

    name: str
    module: ModuleType
    attribute: str
    value: Any


def variants(kernel: str) -> Iterator[Variant]:
    """Other tiles of a kernel."""
    if kernel == "decode_attention":
        for keys in (32, 64, 128):
            yield Variant(f"keys={keys}", attn_decode, "BLOCK_N", keys)
        for splits in (1, 2, 4, 8, 16, 32):
            yield Variant(f"splits={splits}", attn_decode, "decode_splits", _always(splits))
    elif kernel == "prefill_attention":
        for queries, keys, stages, warps in product((64, 128), (32, 64, 128), (2, 3, 4), (4, 8)):
            tiles = {"BLOCK_M": queries, "BLOCK_N": keys, "STAGES": stages, "num_warps": warps}
            yield Variant(_named(tiles), attn_prefill, "prefill_tiles", _always(tiles))
    else:
        for rows, width, depth, stages in product((16, 64, 128), (32, 64, 128), (64, 128), (3, 4)):
            tiles = {"BLOCK_M": rows, "BLOCK_N": width, "BLOCK_K": depth, "STAGES": stages}
            tiles["num_warps"] = 8 if rows > 64 else 4
            yield Variant(_named(tiles), ffn_predicated, "ffn_tiles", _always((tiles, tiles)))


CELLS: Mapping[str, Mapping[str, Sequence[Item]]] = {
    "cuda": {
        "decode_attention": [
            item("decode_attention", rows=rows, context=context)
            for rows, context in ((1, 1024), (1, 16384), (8, 2048), (32, 2048), (128, 2048))
        ],
        "prefill_attention": [
            item("prefill_attention", new=new, context=context)
            for new, context in ((256, 0), (2048, 0), (8192, 0), (512, 8192))
        ],
        "masked_ffn": [item("masked_ffn", rows=rows, active=100) for rows in (1, 2, 256, 1024)],
    },
    "cpu": {
        "decode_attention": [item("decode_attention", rows=2, context=64)],
        "prefill_attention": [item("prefill_attention", new=16, context=32)],
        "masked_ffn": [item("masked_ffn", rows=2, active=100)],
    },
}


def _always(value: Any) -> Any:
    return lambda *_: value


def _named(tiles: Mapping[str, int]) -> str:
    return " ".join(f"{name.lower()}={value}" for name, value in tiles.items())


@contextmanager
def applied(variant: Variant | None) -> Iterator[None]:
    """The kernel as the variant has it."""
    if variant is None:
        yield
        return
    before = getattr(variant.module, variant.attribute)
    setattr(variant.module, variant.attribute, variant.value)
    try:
        yield
    finally:
        setattr(variant.module, variant.attribute, before)


def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    command = commands.add_parser("tune", help="the engine's Triton kernels under other tile sizes")
    command.add_argument("--model", required=True, metavar="NAME", help="catalogue name or folder with a config.json")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="rows.jsonl is written there")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--budget-s", type=float, default=300.0, metavar="S")
    command.add_argument("--resume", action="store_true", help="go on with what the folder lacks")
    command.set_defaults(run=_tune)


def _tune(args: argparse.Namespace) -> None:
    session = Session.of(Request(args.model, args.out, args.device, args.budget_s, args.resume))
    rows = Rows(args.out, session.head, resume=args.resume)
    began, best = monotonic(), []
    for kernel, cells in CELLS[session.device.type].items():
        for cell in cells:
            if int(cell.get("context", 0)) + int(cell.get("new", 0)) <= session.config.shape.max_context:
                best += tuned(session, rows, cell, kernel, until=began + args.budget_s)
    out = console()
    names = ("cell", "as it is, µs", "best, µs", "variant")
    show_table(out, f"Tiles on {session.head['device']}", names, best)


def tuned(session: Session, rows: Rows, cell: Item, kernel: str, *, until: float) -> list[tuple[Any, ...]]:
    """The cell's line of the table; every variant that was timed is a row of its own, broken ones with their error."""
    work = KERNELS[cell.op](session.buffers, cell)
    found: dict[str, float] = {}
    with torch.inference_mode():
        truth = _output(work.op)
    for variant in (None, *variants(kernel)):
        name = variant.name if variant else "as it is"
        key = f"tune {cell.key} {name}"
        if key in rows.done or monotonic() > until:
            continue
        row: dict[str, Any] = {"op": "tune", "kernel": kernel, "variant": name, **dict(cell.sizes)}
        try:
            with applied(variant):
                spread = timer_for(session.device)(work.op)
                with torch.inference_mode():
                    _compare(_output(work.op), truth)
            found[name] = spread.p50_ns / 1e3
            row |= vars(spread)
        except Exception as error:  # tiles that do not fit are what a search finds
            row["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            sys.stderr.write(f"{key}: {row['error']}\n")
        rows.add(key, [row])
    if "as it is" not in found:
        return []
    winner = min(found, key=lambda name: found[name])
    return [(cell.key, found["as it is"], found[winner], winner)]


def _output(op: Op) -> Tensor | None:
    """What the first set of buffers gives."""
    result = op.run(0)
    if op.outputs:
        return op.outputs[0].clone()
    return result.clone() if isinstance(result, Tensor) else None


def _compare(found: Tensor | None, truth: Tensor | None) -> None:
    """Raises InputError where a variant computes something else."""
    if found is None or truth is None:
        return
    error = float((found.float() - truth.float()).abs().max() / truth.float().abs().max())
    if not error <= TOLERANCE:
        raise InputError(f"the variant's output is off by {error:.2g} of the largest value")
