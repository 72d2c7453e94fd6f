"""`python -m calibration validate-engine`: the same requests through engine and simulator, and how far they disagree.

Plan, scheduler, memory, lengths and arrivals are the same on both sides; how long a step takes is measured on the one
and priced on the other. The engine's half can be recorded on a machine that has no simulator (`--record`), and
compared elsewhere (`--recorded`).
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from calibration.grid import plans_of
from calibration.live import UNIFORM, Traffic, record
from calibration.setting import Setting, blocks_for
from calibration.validate_engine_rows import BELOW, FAMILIES, Compared, summary_of
from engine.loading import device_named
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.model import ModelShape
from sim.study.jsonable import dumps
from sim.study.options import Parser
from sim.study.terminal import console, say_json, show_table, write_text

HONEST = (
    "On a CPU a step is mostly Python and its kernels are torch references: these errors test the chain of measuring,"
    " fitting and simulating, and say nothing about a GPU. Time is the thread's own, so a busy machine disturbs little."
)


def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    command = commands.add_parser("validate-engine", help="the same requests through engine and simulator")
    base = Traffic()
    command.add_argument("--model", metavar="NAME", help="catalogue name (random weights) or checkpoint folder")
    command.add_argument("--coefficients", type=Path, metavar="FILE", help="kernels, as fit writes them")
    command.add_argument("--engine", metavar="FILE", help="the engine's profile, as fit --engine-out writes it")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--plans", nargs="*", default=(), metavar="SPEC", help="default: every paper's settings")
    command.add_argument("--requests", type=int, default=base.requests, metavar="N")
    command.add_argument("--repeats", type=int, default=base.repeats, metavar="N", help="of each run of the engine")
    command.add_argument("--shares", type=float, nargs="+", default=base.shares, metavar="X", help="of its capacity")
    command.add_argument("--lengths", default=base.lengths, help=f"azure-conv, azure-code or {UNIFORM}")
    command.add_argument("--arrivals", default=base.arrivals, help="poisson, gamma:cv=X, bursty:peak=X, constant")
    command.add_argument("--slots", type=int, default=64, metavar="N", help="sequences at once (64)")
    command.add_argument("--budget", type=int, default=2048, metavar="N", help="most tokens of a step (2048)")
    command.add_argument("--max-context", type=int, default=2048, metavar="N", help="tokens of the longest request")
    command.add_argument("--draws", type=int, default=6, metavar="N", help="runs per source of an interval (6)")
    command.add_argument("--record", metavar="FILE", help="run the engine only, and write what it did")
    command.add_argument("--recorded", type=Path, metavar="FILE", help="compare a record instead of running the engine")
    command.add_argument("--out", metavar="FILE", help="write all comparisons as JSON")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_validate)


def _validate(args: argparse.Namespace) -> None:
    done = _recorded(args)
    if args.record:
        write_text(args.record, json.dumps(done) + "\n")
        return
    if args.coefficients is None or args.engine is None:
        raise InputError("give --coefficients and --engine, as fit writes them, or --record to run the engine only")
    if args.draws < 2:
        raise InputError(f"--draws {args.draws}: an interval needs at least 2")
    from calibration.validate_engine_runs import compare, simulators_of

    rows = compare(done, *simulators_of(args.coefficients, args.engine), draws=args.draws)
    found = summary_of(rows) | {"head": done["head"], "traffic": done["traffic"], "rows": [_plain(r) for r in rows]}
    if args.out:
        write_text(args.out, dumps(found) + "\n")
    if args.json:
        say_json(found)
        return
    _show(rows, found, cpu=str(done["head"]["device"]).startswith("cpu"))


def _recorded(args: argparse.Namespace) -> dict[str, Any]:
    """What the engine did, now or as a file tells it."""
    if args.recorded is not None:
        try:
            done: dict[str, Any] = json.loads(args.recorded.read_text(encoding="utf-8"))
            done["head"]["device"], done["traffic"], done["runs"][0]["times"]
        except (OSError, ValueError, KeyError, IndexError, TypeError) as cause:
            raise InputError(f"{args.recorded}: is no record of validate-engine ({cause!r})") from cause
        return done
    if args.model is None:
        raise InputError("give --model to run the engine, or --recorded for a run that was recorded")
    device = device_named(args.device).type
    if device == "cpu":
        torch.set_num_threads(1)
    folder, shape = Path(args.model).expanduser(), model_named(args.model)
    model: str | ModelShape = str(folder) if folder.is_dir() else shape
    traffic = Traffic(args.requests, args.lengths, args.arrivals, tuple(args.shares), args.repeats)
    context = min(args.max_context, shape.max_context)
    plans = args.plans or plans_of(shape)
    prompts, outputs = traffic.tokens(context)
    blocks = blocks_for((prompts + outputs).tolist(), args.slots)
    settings = [Setting(plan, "chunked", args.slots, args.budget, context, blocks) for plan in plans]
    return record(model, settings, traffic, device=device, tell=lambda text: print_to_stderr(text))


def print_to_stderr(text: str) -> None:
    """A line about the progress."""
    sys.stderr.write(f"{text}\n")


def _plain(row: Compared) -> dict[str, Any]:
    return vars(row) | {"error": row.error, "covered": row.covered}


def _show(rows: Sequence[Compared], found: Mapping[str, Any], *, cpu: bool) -> None:
    out = console()
    lines = [
        (f"{r.plan}, {r.share:.0%}", r.metric, r.measured, f"{r.measured_low:.4g} – {r.measured_high:.4g}", r.predicted,
         f"{r.predicted_low:.4g} – {r.predicted_high:.4g}", f"{100 * r.error:+.1f}", r.covered)
        for r in rows if "mean" in r.metric or "per_s" in r.metric
    ]  # fmt: skip
    names = ("plan, load", "figure", "engine", "of repeats", "simulated", "90 % interval", "error %", "covered")
    show_table(out, "Engine and simulator", names, lines)
    lines = [(plan, *(f"{100 * one[f]:.1f}" for f in FAMILIES)) for plan, one in found["by_plan"].items()]
    total = ("all", *(f"{100 * found[f'{f}_median_ape']:.1f}" for f in FAMILIES))
    title = f"Median error in percent (TTFT and E2E up to {BELOW:.0%} of capacity)"
    show_table(out, title, ("plan", *FAMILIES), [*lines, total])
    out.print(f"{found['coverage_90']:.0%} of {len(rows)} measurements lie within their 90 % interval.")
    if cpu:
        out.print(HONEST, soft_wrap=True)
