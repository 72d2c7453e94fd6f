"""The command line of calibration: `python -m calibration --help`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from sim.errors import ElideError, InputError
from sim.study.options import Parser
from sim.study.terminal import console, say_json, show_table, write_text

DATA = Path("../shared/data/serving")
EXAMPLE = """\
examples:
  python -m calibration validate --public --html out/validation.html
  python -m calibration import result.json --gpu h100 --tp 1 --model llama-3.1-8b --engine vllm-0.11
  python -m calibration fit-engines --only vllm-0.10
  python -m calibration measure --model llama-3.1-8b --device cuda --out data
  python -m calibration fit data --out coefficients.json --engine-out engine.json
"""
# commands that live elsewhere: loaded only when asked for, each with `add_arguments(commands)`
ELSEWHERE = {
    "quality": ("calibration.quality.command", "what skipping does to a model's answers (needs torch)"),
    "measure": ("calibration.measure", "time every kind of kernel of the engine on this machine (needs torch)"),
    "shares": ("calibration.shares", "measured kernels against the device's ceilings"),
    "tune": ("calibration.tune", "the engine's Triton kernels under other tile sizes (needs torch)"),
    "fit-kernels": ("calibration.fit_kernels", "refit kernel coefficients to public tables"),
    "fit": ("calibration.fit", "kernel coefficients from what measure wrote"),
    "speedups": ("calibration.speedups", "plans against dense: measured, ceiling, predicted"),
    "validate-engine": ("calibration.validate_engine", "the same requests through engine and simulator (needs torch)"),
}
Commands = "argparse._SubParsersAction[Parser]"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 for an error we can explain (one line on stderr), 130 for ^C."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parser(words[0] if words else "").parse_args(words)
        status = args.run(args)
        sys.stdout.flush()
        return int(status or 0)
    except ElideError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def parser(wanted: str = "") -> Parser:
    """The whole command line; of the commands that live elsewhere only the wanted one is loaded."""
    top = Parser(
        prog="python -m calibration", description="Believe the numbers: measure, fit, validate.", epilog=EXAMPLE
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_validate, _add_import, _add_skip, _add_fit_engines):
        add(commands)
    for name, (module, text) in ELSEWHERE.items():
        if name == wanted:
            _load(module, name).add_arguments(commands)
        elif _exists(module):
            commands.add_parser(name, help=text)
    return top


def _add_validate(commands: Any) -> None:
    command = commands.add_parser("validate", help="predicted and measured, on public points")
    command.add_argument("--public", action="store_true", help="every comparable row of the public serving data")
    command.add_argument("--data", type=Path, default=DATA, metavar="PATH", help=f"folder or generic CSV ({DATA})")
    command.add_argument("--workers", type=int, default=2, metavar="N", help="processes (2)")
    command.add_argument("--sample", type=int, default=1, metavar="N", help="every N-th point only")
    command.add_argument("--draws", type=int, default=0, metavar="N", help="draw intervals anew, N runs per source")
    command.add_argument("--json", action="store_true", help="the headline figures as JSON")
    command.add_argument("--html", metavar="PATH", help="write the page")
    command.add_argument("--write", action="store_true", help="write the committed record, calibration/data/validation")
    command.set_defaults(run=_validate)


def _validate(args: argparse.Namespace) -> None:
    if not args.public:
        raise InputError("say what to validate against: --public; for the engine see validate-engine")
    if not args.data.exists():
        raise InputError(f"{args.data}: no such file or folder; give --data")
    from calibration import validate_report
    from calibration.validate_public import validate_public

    if args.workers < 1 or args.sample < 1 or args.draws < 0 or args.draws == 1:
        raise InputError("--workers and --sample must be at least 1, --draws 0 or at least 2")
    found = validate_public(args.data, workers=args.workers, sample=args.sample, draws=args.draws)
    if args.write:
        validate_report.write(found)
    if args.html:
        from calibration.page import validation_page

        write_text(args.html, validation_page(found))
    if args.json:
        say_json(found.shares())
        return
    out = console()
    show_table(out, "Predicted and measured", ("figure", "value"), found.headline().items())
    for title, table in (
        ("By source (errors in percent)", validate_report.by_source(found)),
        ("By load", validate_report.by_load(found)),
        ("Capacity (error as a share)", found.sweeps),
    ):
        show_table(out, title, table.columns, table.rows())
    show_table(
        out,
        "Rows left out",
        ("source", "reason", "rows"),
        [tuple(one.values()) for one in validate_report.exclusions(found)],
    )


def _add_import(commands: Any) -> None:
    command = commands.add_parser("import", help="calibrate an engine from a benchmark's result file")
    command.add_argument("file", type=Path, metavar="FILE", help="of vllm bench, SGLang, guidellm, aiperf, …")
    for name, text in (
        ("gpu", "such as h100"),
        ("model", "catalogue name"),
        ("engine", "such as vllm-0.11, or a profile file"),
    ):
        command.add_argument(f"--{name}", help=text)
    command.add_argument("--tp", type=int, metavar="N", help="GPUs that hold the model together")
    command.add_argument("--weights", help="bf16 or fp8")
    command.add_argument("--kv", help="bf16 or fp8 (default: bf16)")
    command.add_argument("--isl", type=float, metavar="TOKENS", help="mean prompt, where the file has none")
    command.add_argument("--osl", type=float, metavar="TOKENS", help="mean output, where the file has none")
    command.add_argument("--concurrency", type=float, metavar="N", help="requests in flight, where the file has none")
    command.add_argument("--qps", type=float, metavar="R", help="requests per second, where the file has none")
    command.add_argument("--max-num-seqs", type=int, metavar="N", help="the limit of the server, if not the default")
    command.add_argument("--num-gpu-blocks", type=int, metavar="N", help="KV blocks as the server reported them")
    command.add_argument("--out", metavar="PATH", help="write the fitted profile (then: --engine PATH)")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> None:
    from calibration.import_result import import_result
    from calibration.points import Load

    if args.concurrency and args.qps:
        raise InputError("give --concurrency or --qps, not both")
    load = Load("concurrency", args.concurrency) if args.concurrency else Load("qps", args.qps) if args.qps else None
    flags = {"max_num_seqs": args.max_num_seqs, "num_gpu_blocks": args.num_gpu_blocks}
    found = import_result(
        args.file,
        engine=args.engine,
        gpu=args.gpu,
        model=args.model,
        tp=args.tp,
        weights_dtype=args.weights,
        kv_dtype=args.kv,
        isl=args.isl,
        osl=args.osl,
        load=load,
        flags={k: v for k, v in flags.items() if v is not None},
    )
    if args.out:
        write_text(args.out, json.dumps(found.facts, indent=1) + "\n")
    if args.json:
        errors = [dict(zip(("metric", "figures", "before", "after"), row)) for row in found.errors]
        say_json({"tool": found.tool, "points": len(found.points), "errors": errors, "profile": found.facts,
                  "not_identified": found.unidentified})  # fmt: skip
        return
    out = console()
    out.print(f"{args.file}: {found.tool}, {len(found.points)} point(s), {found.left_out} left out")
    moved = [
        (name, found.before.parameters[name], found.after.parameters[name],
         100 * found.after.covariance[i][i] ** 0.5)
        for i, name in enumerate(found.after.fitted)
    ]  # fmt: skip
    show_table(out, "Parameters", ("parameter", found.before.name, "fitted", "± %"), moved)
    rows = [(metric, figures, 100 * before, 100 * after) for metric, figures, before, after in found.errors]
    show_table(out, "Median error in percent", ("metric", "figures", "before", "after"), rows)
    show_table(out, "Not identified by this file", ("what",), [(one,) for one in found.unidentified])


def _add_skip(commands: Any) -> None:
    command = commands.add_parser("published-skip", help="published results of skip strategies, predicted")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_skip)


def _skip(args: argparse.Namespace) -> None:
    from calibration.published_skip import comparisons

    rows = comparisons()
    if args.json:
        say_json([vars(row) for row in rows])
        return
    names = ("result", "figure", "published", "predicted", "error_percent", "why")
    show_table(console(), "Published skip results", names, [tuple(getattr(r, n) for n in names) for r in rows])


def _add_fit_engines(commands: Any) -> None:
    command = commands.add_parser("fit-engines", help="refit the engine profiles to the public points")
    command.add_argument("--data", type=Path, default=DATA, metavar="PATH")
    command.add_argument("--only", action="append", default=[], metavar="PROFILE")
    command.add_argument("--workers", type=int, default=2, metavar="N")
    command.set_defaults(run=_fit_engines)


def _fit_engines(args: argparse.Namespace) -> None:
    from calibration.fit_engines import fit_engines, write
    from calibration.validate_points import read_public

    out = console()

    def tell(line: str) -> None:
        out.print(line)

    write(*fit_engines(read_public(args.data), only=args.only, workers=args.workers, tell=tell))


def _exists(module: str) -> bool:
    return (Path(__file__).parent / Path(*module.split(".")[1:])).with_suffix(".py").exists()


def _load(module: str, name: str) -> Any:
    if not _exists(module):
        raise InputError(f"{name}: no such command")
    try:
        return import_module(module)
    except ModuleNotFoundError as cause:
        raise InputError(f"{name} needs {cause.name}: install elide with its engine extra") from cause
