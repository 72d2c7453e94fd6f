"""`python -m sim`: the commands, and what becomes of errors."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from sim.errors import ElideError
from sim.study.commands import capacity, fleet, plan, report, simulate, study, sweep
from sim.study.options import Parser

EXAMPLE = """\
examples:
  python -m sim study
  python -m sim study --model llama-3.1-70b --gpu h100 --tp 4 --demand-qps 30 --strategy swift_kv
  python -m sim simulate --trace trace.csv --strategy swift_kv --json
  python -m sim capacity --strategy skip_decode:speedup=2
  python -m sim sweep --vary gpu=h100,h200 --vary tp=1,2 --strategy dense --strategy swift_kv
  python -m sim plan --strategy swift_kv:group=4
"""


def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="python -m sim",
        description="What skipping layers, FFNs and KV is worth to a server of language models.",
        epilog=EXAMPLE,
    )
    top.add_argument("--version", action="version", version=f"elide {version('elide')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (study, simulate, capacity, sweep, fleet, plan, report):
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 where a check failed, 2 for an error we can explain (one line on stderr), 130 for ^C."""
    try:
        args = parser().parse_args(argv)
        status = int(args.run(args))
        sys.stdout.flush()
        return status
    except ElideError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough; the interpreter must not complain on exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
