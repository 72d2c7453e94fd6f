"""`report`: the report of a saved study, rendered again."""

import argparse
from pathlib import Path

from sim.study.commands.study import REPORT, show
from sim.study.options import Parser, add_json
from sim.study.outcome import load_outcome
from sim.study.terminal import console, say_json, write_text

EXAMPLE = """\
example:
  python -m sim study --save out/study && python -m sim report out/study --html out/again.html
"""


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("report", help="render the report of a saved study again", epilog=EXAMPLE)
    parser.add_argument("folder", metavar="DIR", help="what `study --save DIR` wrote")
    add_json(parser).add_argument("--html", metavar="FILE", default=REPORT, help=f"where the report goes ({REPORT})")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read, show, and write the report."""
    outcome = load_outcome(Path(args.folder))
    write_text(args.html, outcome.html())
    if args.json:
        say_json(outcome.as_json())
    else:
        show(console(), outcome)
        console().print(f"report: {args.html}")
    return 0
