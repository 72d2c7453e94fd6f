"""`sweep`: many settings against each other, by a grid or by a search for the best."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim.errors import InputError
from sim.study.options import Parser, add_json
from sim.study.pictures import label
from sim.study.pictures.sweeps import axis_title
from sim.study.points.options import add_point, is_option
from sim.study.points.report import ranked, reasons, settings_shown
from sim.study.points.space import STRATEGY
from sim.study.points.space_file import SETTINGS, TABLES, read_space, settings_of, table_of
from sim.study.points.table import SCHEMA
from sim.study.sweep import Sweep, Tick
from sim.study.terminal import console, progress, say_json, show_table, write_parquet, write_text

EXAMPLE = """\
examples:
  python -m sim sweep --vary gpu=h100,h200 --vary tp=1,2 --vary weights=bf16,fp8 --strategy dense --strategy swift_kv
  python -m sim sweep --strategy "swift_kv:keep={keep}" --vary keep=8..24:4 --vary max-num-seqs=64,256 --requests 1000
  python -m sim sweep --space space.toml --search 200 --ray auto
"""
FIGURES = ("max_qps_per_gpu", "gpus", "ttft_p90_ms", "tpot_p50_ms", "output_tokens_per_s_per_gpu", "quality")
REPORT, STORE = "out/sweep.html", "out/sweep"
BEST = 10  # rows of the table on the terminal


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command. What is not given is left out, so that a space file can give it."""
    parser = commands.add_parser("sweep", help="many settings, by grid or search", epilog=EXAMPLE)
    group = parser.add_argument_group("space")
    group.add_argument("--space", metavar="FILE", help="TOML: [fixed] and [vary] by option, [prices] by GPU")
    group.add_argument("--vary", action="append", default=[], metavar="OPTION=A,B,…", help="or LOW..HIGH:STEP")
    group.add_argument(
        "--strategy", action="append", default=[], metavar="SPEC", help="repeatable; {name} is a parameter to vary"
    )
    group.add_argument("--price", action="append", default=[], metavar="GPU=DOLLARS", help="per GPU-hour; else assumed")
    group = parser.add_argument_group("aim")
    for name, (kind, metavar, what) in SETTINGS.items():
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, type=kind, metavar=metavar, default=argparse.SUPPRESS, help=what)
    group = parser.add_argument_group("where")
    group.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")
    group.add_argument("--ray", metavar="ADDRESS", help="compute on Ray: auto, HOST:PORT or ray://HOST:PORT")
    group.add_argument("--store", metavar="DIR", default=STORE, help=f"keeps every answer, to go on from ({STORE})")
    add_point(parser)
    for action in parser._actions:
        if is_option(action.dest) and action.dest != STRATEGY:
            action.default = argparse.SUPPRESS
    output = add_json(parser)
    output.add_argument("--html", metavar="FILE", default=REPORT, help=f"where the report goes ({REPORT})")
    output.add_argument("--points-out", metavar="FILE.parquet", help="one row per point")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Sweep, show, and write the report."""
    with progress(quiet=args.json, remaining=True) as bar:
        sweep = sweep_of(args, bar)
        table = sweep.run()
    if args.points_out:
        write_parquet(args.points_out, table)
    write_text(args.html, sweep.html())
    if args.json:
        say_json(answer_of(sweep))
    else:
        show(sweep)
        console().print(f"report: {args.html}")
    return 0


def sweep_of(args: argparse.Namespace, tick: Tick | None = None) -> Sweep:
    """The sweep that a space file and the options describe; what the command line says wins over the file."""
    given = vars(args)
    file = read_space(args.space) if args.space else {}
    vary, fixed, prices = (table_of(file, name, args.space) for name in TABLES)
    varied = pairs_of("--vary", args.vary)
    vary |= varied
    prices |= pairs_of("--price", args.price)
    fixed |= {name: value for name, value in given.items() if is_option(name) and name != STRATEGY}
    if args.strategy and STRATEGY in varied:
        raise InputError("--strategy and --vary strategy both say which; give one of the two")
    if len(args.strategy) > 1 or (args.strategy and STRATEGY in vary):
        vary = {STRATEGY: args.strategy} | {name: axis for name, axis in vary.items() if name != STRATEGY}
    elif args.strategy:
        fixed[STRATEGY] = args.strategy[0]
    settings: dict[str, Any] = settings_of(file, args.space) | {name: given[name] for name in SETTINGS if name in given}
    if "search" not in settings and (alone := {"batch", "search_seed"} & set(settings)):
        raise InputError(f"--{min(alone).replace('_', '-')} is about a search; give --search N, or drop it")
    where: dict[str, Any] = {"store": Path(args.store), "workers": args.workers, "ray": args.ray}
    paid = {gpu: dollars(gpu, price) for gpu, price in prices.items()}
    return Sweep(vary, fixed, prices=paid, **settings, **where, tick=tick, warn=say_warning)


def pairs_of(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """What stands left and right of each text's first "=". Raises InputError where there is none, or one name twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        key = name.strip().replace("-", "_") if flag == "--vary" else name.strip()
        if not equals or not key:
            raise InputError(f"{flag} {text}: write NAME=VALUE")
        if key in pairs:
            raise InputError(f"{flag}: {key} is given twice")
        pairs[key] = value
    return pairs


def dollars(gpu: str, price: object) -> float:
    """A price. Raises InputError for what is no number."""
    try:
        return float(str(price))
    except ValueError:
        raise InputError(f"price {gpu}={price}: not a number of dollars per GPU-hour") from None


def say_warning(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"warning: {text}\n")


def answer_of(sweep: Sweep) -> dict[str, object]:
    """The sweep as data."""
    columns = [name for name in sweep.table.columns if name not in sweep.axes or name in SCHEMA]

    def said(row: Mapping[str, object]) -> dict[str, object]:
        return {"settings": {name: row[name] for name in sweep.axes}} | {name: row[name] for name in columns}

    return {
        "objective": sweep.aim,
        "points": [said(row) for row in sweep.table.iter_rows(named=True)],
        "feasible": int(sweep.table["feasible"].sum()),
        "best": sweep.best["key"] if sweep.best else None,
        "pareto": sweep.pareto()["key"].to_list(),
        "reused": sweep.reused,
        "provenance": sweep.provenance,
    }


def show(sweep: Sweep) -> None:
    """The best points as a table, and what became of the others."""
    out, table = console(), sweep.table
    best, settings = ranked(table, sweep.aim), settings_shown(sweep.axes)
    shown = [name for name in dict.fromkeys((sweep.aim, *FIGURES)) if best[name].null_count() < len(best)]
    rows = [[text_of(r[name]) for name in settings] + [r[name] for name in shown] for r in best.head(BEST).to_dicts()]
    title = f"{min(BEST, len(best))} best of {len(table):,} points by {axis_title(sweep.aim)}"
    if rows:
        show_table(out, title, (*settings, *map(axis_title, shown)), rows)
    out.print(f"{len(table):,} points ({sweep.reused:,} from {sweep.store}), {len(best):,} feasible.", soft_wrap=True)
    if len(best) < len(table):
        out.print(reasons(table), soft_wrap=True)


def text_of(value: object) -> str:
    """A setting as it was given."""
    return label(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
