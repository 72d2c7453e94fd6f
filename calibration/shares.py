"""`python -m calibration shares`: measured kernels against what the device reaches on work of nothing else."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration.measure_rows import read_rows
from sim.errors import InputError
from sim.study.options import Parser
from sim.study.terminal import console, say_json, show_table

Rows = Sequence[Mapping[str, Any]]
SIZES = ("matrix", "m", "rows", "context", "new", "prompt_context", "layers", "active", "bytes", "side")


def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    command = commands.add_parser("shares", help="measured kernels against the device's ceilings")
    command.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of measure, all of one device")
    command.add_argument("--only", nargs="*", default=(), metavar="KIND", help="kinds of kernels (default: all)")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_shares)


def _shares(args: argparse.Namespace) -> None:
    rows = [row for folder in args.folders for row in read_rows(folder)]
    best, found, launching = ceilings_of(rows), shares_of(rows), launches_of(rows)
    lines = [row for row in found if not args.only or row["op"] in args.only]
    if args.json:
        say_json({"ceilings": best, "launching_ns": launching, "kernels": lines})
        return
    out = console()
    show_table(out, "Ceilings", ("what", "per second"), best.items())
    show_table(out, "Launching", ("what", "ns"), launching.items())
    table = [(row["op"], row["sizes"], row["us"], f"{row['share']:.0%}", row["bound"]) for row in lines]
    show_table(out, "Kernels", ("kernel", "sizes", "µs", "share of ceiling", "bound by"), table)


def ceilings_of(rows: Rows) -> dict[str, float]:
    """Bytes per second of the fastest copy, operations per second of the fastest product.

    Raises InputError where either was not measured.
    """
    best = {"copy_bytes_per_s": 0.0, "flops_per_s": 0.0}
    for row in rows:
        if row["op"] in ("copy", "product") and "error" not in row:
            name, amount = ("flops_per_s", "flops") if row["op"] == "product" else ("copy_bytes_per_s", "bytes_moved")
            best[name] = max(best[name], float(row[amount]) / float(row["p50_ns"]) * 1e9)
    if not all(best.values()):
        raise InputError("no rows of copy and product, the device's ceilings: measure them too")
    return best


def shares_of(rows: Rows) -> list[dict[str, Any]]:
    """Each kernel's least time, by its bytes or its operations, over the time that it took."""
    best, found = ceilings_of(rows), []
    for row in rows:
        if "error" in row or not row.get("bytes_moved"):
            continue
        memory = float(row["bytes_moved"]) / best["copy_bytes_per_s"]
        compute = float(row["flops"]) / best["flops_per_s"]
        sizes = " ".join(f"{name}={row[name]}" for name in SIZES if name in row)
        share = max(memory, compute) / (float(row["p50_ns"]) / 1e9)
        bound = "bytes" if memory > compute else "operations"
        found.append(
            {"op": row["op"], "sizes": sizes, "us": float(row["p50_ns"]) / 1e3, "share": share, "bound": bound}
        )
    return found


def launches_of(rows: Rows) -> dict[str, float]:
    """What launching costs, in ns: the host's launch of a kernel, a node of a graph, the gap between two graphs.

    The gap is what a chain of graphs takes longer than one graph of as many nodes. Empty where nothing was measured.
    """
    found = {f"host, {row['kernel']} kernel": float(row["p50_ns"]) for row in rows if row["op"] == "launch"}
    chains = {(row["kernels"], row["graphs"]): float(row["p50_ns"]) for row in rows if row["op"] == "replay"}
    for (kernels, graphs), ns in chains.items():
        whole = chains.get((kernels * graphs, 1))
        if graphs > 1 and whole is not None:
            found[f"device, between {graphs} graphs of {kernels} nodes"] = (ns - whole) / (graphs - 1)
        elif kernels > 1:
            found[f"device, node of a graph of {kernels}"] = ns / kernels
    return found
