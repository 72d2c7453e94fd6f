"""`python -m calibration speedups`: what skipping gained on the engine, beside its physical ceiling and the prediction.

Rows are bursts that `measure --bursts` timed. The ceiling is the same burst on an ideal device: every byte at the rate
of the fastest copy, every operation at that of the fastest product, no launches, no host. The prediction prices it with
the fitted coefficients and the engine's profile.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.engine_runs import gpu_of
from calibration.fit_steps import burst_result
from calibration.measure_rows import read_rows
from calibration.setting import Setting
from calibration.shares import ceilings_of
from calibration.validate_engine_runs import simulators_of
from sim.cost.deployment import Host
from sim.cost.hardware import Gpu
from sim.cost.roofline import Efficiencies, Roofline
from sim.cost.times import KernelTimes
from sim.errors import InputError
from sim.study.jsonable import dumps
from sim.study.options import Parser
from sim.study.terminal import console, say_json, show_table, write_text

NOTHING = Host(step_ns=0, row_ns=0, graph_gap_ns=0, eager_launch_ns=0)
IDEAL = Efficiencies(
    gemm_bandwidth=1.0, gemm_flops=1.0, kv_bandwidth=1.0, attention_flops=1.0, elementwise=1.0, link=1.0,
    gemm_floor_ns=0.0, attention_floor_ns=0.0, elementwise_floor_ns=0.0, link_step_ns=0.0,
)  # fmt: skip
LOAD = ("requests", "slots", "prompt", "output", "mixed", "policy")

def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    command = commands.add_parser("speedups", help="plans against dense: measured, ceiling, predicted")
    command.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of measure --bursts, of one device")
    command.add_argument("--coefficients", type=Path, metavar="FILE", help="kernels, for the prediction")
    command.add_argument("--engine", metavar="FILE", help="the engine's profile, for the prediction")
    command.add_argument("--out", metavar="FILE", help="write the table as JSON")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_speedups)


def _speedups(args: argparse.Namespace) -> None:
    if (args.coefficients is None) != (args.engine is None):
        raise InputError("--coefficients and --engine come together")
    rows = [row for folder in args.folders for row in read_rows(folder)]
    priced = None
    if args.coefficients is not None:
        times, profile = simulators_of(args.coefficients, args.engine)
        priced = profile.scaled(times), profile.host
    found = speedups(rows, priced)
    if args.out:
        write_text(args.out, dumps(found) + "\n")
    if args.json:
        say_json(found)
        return
    names = ("load", "plan", "speedup", "ttft", "tpot", "ceiling", "predicted", "weight_bytes_skip_realised")
    lines = [tuple(one.get(name) for name in names) for one in found]
    show_table(console(), "Times as fast as dense", (*names[:-1], "weight bytes saved"), lines)


def speedups(
    rows: Sequence[Mapping[str, Any]], priced: tuple[KernelTimes, Host] | None = None
) -> list[dict[str, Any]]:
    """A line per burst and plan with ratios dense / plan. Raises InputError without a dense run to compare with."""
    bursts = [row for row in rows if row["op"] == "burst" and "error" not in row]
    dense = {(row["model"], *(row[n] for n in LOAD)): row for row in bursts if row["plan"] == "dense"}
    if not dense:
        raise InputError("no burst under the dense plan: measure --only step --plans dense …")
    best = ceilings_of(rows)
    gpu = gpu_of(str(bursts[0]["device"]), best["copy_bytes_per_s"], best["flops_per_s"])
    return [
        _line(row, dense[key], best, gpu, priced)
        for row in bursts
        if (key := (row["model"], *(row[n] for n in LOAD))) in dense
    ]


def _line(
    row: Mapping[str, Any],
    dense: Mapping[str, Any],
    best: Mapping[str, float],
    gpu: Gpu,
    priced: tuple[KernelTimes, Host] | None,
) -> dict[str, Any]:
    ideal = replace(gpu, bandwidth_bytes_per_s=best["copy_bytes_per_s"], flops_bf16=best["flops_per_s"])
    mixed = ", of every age" if row["mixed"] else ""
    return {
        "load": f"{row['requests']} x {row['prompt']} + {row['output']}, {row['policy']}{mixed}",
        **{name: row[name] for name in ("model", "plan", *LOAD)},
        "speedup": dense["p50_ns"] / row["p50_ns"],
        "ttft": dense["ttft_ns"] / row["ttft_ns"],
        "tpot": dense["tpot_ns"] / row["tpot_ns"],
        "ceiling": _ratio(row, dense, gpu, Roofline(ideal, IDEAL), NOTHING),
        "predicted": _ratio(row, dense, gpu, *priced) if priced else None,
        **{name: value for name, value in row.items() if name.endswith("_realised")},
    }


def _ratio(row: Mapping[str, Any], dense: Mapping[str, Any], gpu: Gpu, times: KernelTimes, host: Host) -> float:
    """How many times longer the dense plan takes for the burst, simulated."""
    spans = [burst_result(Setting.of(one), one, gpu, times, host).makespan_s for one in (dense, row)]
    return spans[0] / spans[1]
