"""`python -m calibration fit`: from measured rows to the coefficients and the engine profile that `sim` prices with."""

import argparse
import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration import fit_measured
from calibration.engine_runs import gpu_of
from calibration.fit_kernels import to_text
from calibration.fit_measured import LAYER, Rows, column, of_kind
from calibration.fit_steps import Engine, fit_steps, walks_of
from calibration.measure_rows import read_rows
from calibration.monotone import spread
from calibration.shares import ceilings_of
from sim.cost.arrays import Times
from sim.cost.hardware import Gpu
from sim.cost.measured import FORMAT, Measured
from sim.errors import InputError
from sim.study.options import Parser
from sim.study.terminal import console, say_json, show_table, write_text

HELD_OUT = 5  # one cell in so many is predicted by a fit that never saw it
VERSIONS = ("python", "torch", "triton", "numpy", "driver")
DTYPE = "bf16"  # the simulator's name of 16-bit weights, under which whatever was measured is filed


@dataclass(frozen=True)
class Kind:
    """How rows of one kind become a table, and what a table says of rows."""

    name: str
    ops: tuple[str, ...]
    fit: Callable[[Rows], dict[str, Any]]
    times: Callable[[Mapping[str, Any], Rows], Times]
    family: Callable[[Mapping[str, Any]], tuple[Any, ...]] = lambda _: ()
    prepared: Callable[[Rows], Rows] = list


def _attention_family(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["model_head_dim"], row["model_heads"] > row["model_kv_heads"]


KINDS = (
    Kind("gemm", ("gemm",), fit_measured.gemm_table, fit_measured.gemm_times),
    Kind(
        "prefill_attention", ("prefill_attention",), fit_measured.prefill_table, fit_measured.prefill_times,
        lambda row: (row["model_head_dim"],),
    ),
    Kind(
        "decode_attention", ("decode_attention",), fit_measured.decode_table, fit_measured.decode_times,
        _attention_family,
    ),
    Kind(
        "elementwise", tuple(LAYER), fit_measured.elementwise_table, fit_measured.elementwise_times,
        prepared=fit_measured.layer_sums,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Fitted:
    """The coefficients file, the engine profile where whole steps were measured, and what is worth a table."""

    facts: dict[str, Any]
    engine: dict[str, Any] | None
    steps: Mapping[str, Mapping[str, float]]


def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    command = commands.add_parser("fit", help="kernel coefficients from what measure wrote")
    command.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of measure, all of one device")
    command.add_argument("--out", required=True, metavar="FILE", help="coefficients, for sim's --source")
    command.add_argument("--engine-out", metavar="FILE", help="the engine's profile, from whole steps")
    command.add_argument("--date", default=datetime.date.today().isoformat(), help="date to write into the files")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_fit)


def _fit(args: argparse.Namespace) -> None:
    rows = [row for folder in args.folders for row in read_rows(folder)]
    found = fit(rows, date=args.date)
    write_text(args.out, to_text(found.facts))
    if args.engine_out:
        if found.engine is None:
            raise InputError("--engine-out: no whole steps were measured; run measure with --only step")
        write_text(args.engine_out, json.dumps(found.engine, indent=1) + "\n")
    if args.json:
        say_json({"residuals": residuals_of(found.facts), "steps": found.steps, "checks": found.facts["checks"],
                  "ceilings": found.facts["ceilings"], "engine": found.engine})  # fmt: skip
        return
    out = console()
    names = ("points", "median", "p90", "bias")
    lines = [(name, *(_percent(one, n) for n in names)) for name, one in residuals_of(found.facts).items()]
    show_table(out, "Held-out error of kernels (percent)", ("kernel", *names), lines)
    lines = [(name, *(_percent(one, n) for n in names)) for name, one in found.facts["checks"].items()]
    show_table(out, "Checks: kernels that are priced as sums of others (percent)", ("kernel", *names), lines)
    if found.engine:
        lines = [(name, *(_percent(one, n) for n in names)) for name, one in found.steps.items()]
        show_table(out, "Whole steps, in sample (percent)", ("plan", *names), lines)
        kept = {name: found.engine["parameters"][name] for name in found.engine["fitted"]}
        show_table(out, "What the engine adds", ("parameter", "value"), kept.items())


def _percent(one: Mapping[str, float], name: str) -> float | int:
    return int(one[name]) if name == "points" else 100 * one[name]


def residuals_of(facts: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The held-out residuals of each fit by name; those in sample where nothing was held out."""
    found = {}
    for op, fits in facts["ops"].items():
        for key, table in [("", fits)] if op == "elementwise" else fits.items():
            for one in table if isinstance(table, list) else [table]:
                name = "/".join(str(x) for x in (op, key, one.get("head_dim")) if x not in ("", None))
                found[name] = one["residuals"].get("held_out", one["residuals"]["in_sample"])
    return found


def fit(rows: Sequence[Mapping[str, Any]], *, date: str, seed: int = 0) -> Fitted:
    """Coefficients and profile of one device's rows. Raises InputError for rows that cannot be fitted together."""
    devices = {str(row.get("device")) for row in rows}
    if len(devices) != 1:
        raise InputError(f"rows of {len(devices)} devices ({', '.join(sorted(devices))}): fit one at a time")
    ceilings = {name: float(f"{best:.5g}") for name, best in ceilings_of(rows).items()}
    gpu = gpu_of(devices.pop(), ceilings["copy_bytes_per_s"], ceilings["flops_per_s"])
    ops: dict[str, Any] = {"all_reduce": {}}
    for kind in KINDS:
        mine = kind.prepared(of_kind(rows, *kind.ops))
        if not mine:
            raise InputError(f"no rows of {kind.name}: measure {', '.join(kind.ops)} too")
        tables = [_table(kind, some, seed) for some in _families(kind, mine)]
        ops[kind.name] = tables[0] if kind.name == "elementwise" else {DTYPE: tables}
    ops["gemm"] = {DTYPE: ops["gemm"][DTYPE][0]}
    facts = _head(rows, gpu, date) | {"ceilings": ceilings, "ops": ops}
    times = Measured.of(facts, gpu=gpu)
    facts["checks"] = _checks(rows, times)
    engine = _engine(rows, gpu, times)
    if engine is None:
        return Fitted(facts, None, {})
    about = _head(rows, gpu, date) | {"gpus": [gpu.name], "steps": engine.steps}
    return Fitted(facts, engine.profile | {"provenance": about}, engine.steps)


def _families(kind: Kind, rows: Rows) -> Iterable[Rows]:
    for family in dict.fromkeys(kind.family(row) for row in rows):
        yield [row for row in rows if kind.family(row) == family]


def _table(kind: Kind, rows: Rows, seed: int) -> dict[str, Any]:
    """The table of all rows, with its residuals in sample and of a fit that never saw a fifth of them."""
    table = kind.fit(rows)
    ns, _ = kind.times(table, rows)
    residuals = {"in_sample": spread(ns, *column(rows, "p50_ns"))}
    out = np.zeros(len(rows), dtype=bool)
    out[np.random.default_rng(seed).permutation(len(rows))[: max(1, len(rows) // HELD_OUT)]] = True
    try:
        blind = kind.fit([row for row, hidden in zip(rows, out) if not hidden])
    except InputError:  # too few are left
        return table | {"residuals": residuals}
    held = [row for row, hidden in zip(rows, out) if hidden]
    said, inside = kind.times(blind, held)
    if inside.any():
        residuals["held_out"] = spread(said[inside], column(held, "p50_ns")[0][inside])
    return table | {"residuals": residuals}


def _head(rows: Sequence[Mapping[str, Any]], gpu: Gpu, date: str) -> dict[str, Any]:
    def every(name: str) -> str:
        return ", ".join(sorted({str(row[name]) for row in rows if row.get(name) not in (None, "")}))

    clocks = [float(row["sm_mhz"]) for row in rows if row.get("sm_mhz")]
    return {
        "format": FORMAT,
        "gpu": gpu.name,
        "device": every("device"),
        "engine": "elide",
        "source": f"measured on {every('date')}, commit {every('commit')}: {every('model')} in {every('dtype')}",
        "licence": "Apache-2.0",
        "fitted": date,
        "command": "python -m calibration measure; python -m calibration fit",
        "versions": {name: every(name) for name in VERSIONS},
        "sm_mhz": [min(clocks), max(clocks)] if clocks else None,
        "notes": [
            f"what was measured in {every('dtype')} is filed under {DTYPE}",
            "bytes of elementwise kernels are counted at two per value",
            "weights, keys and values were read from memory, activations from the cache where they fit",
        ],
    }


def _checks(rows: Sequence[Mapping[str, Any]], times: Measured) -> dict[str, dict[str, float]]:
    """Steps with both kinds of attention, which are priced as the sum of the two."""
    mixed = of_kind(rows, "mixed_attention")
    if not mixed:
        return {}
    said = []
    for row in mixed:
        heads = int(row["model_heads"]), int(row["model_kv_heads"]), int(row["model_head_dim"])
        one, _ = times.decode_attention(row["rows"], row["context"], *heads, "bf16")
        other, _ = times.prefill_attention(row["new"], row["prompt_context"], *heads, "bf16")
        said.append(float(one[0] + other[0]))
    return {"mixed_attention": spread(np.array(said), *column(mixed, "p50_ns"))}


def _engine(rows: Sequence[Mapping[str, Any]], gpu: Gpu, times: Measured) -> Engine | None:
    walks = walks_of(rows, gpu, times)
    return fit_steps(walks, gpu, times) if walks else None
