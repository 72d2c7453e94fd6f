"""The page on the command line: what each command's --help says."""

import importlib.util
import os

from sim.study import cli

WIDTH = "88"  # columns of a help text
INTRO = """# Command line

What `--help` says. The keys that `--json` writes are in [JSON keys](json.md).
"""


def markdown() -> str:
    """One section per command of `python -m sim`, `python -m calibration` and, where torch is there, the engine."""
    os.environ["COLUMNS"] = WIDTH
    parsers = {"sim": cli.parser()}
    if importlib.util.find_spec("torch"):
        from engine.__main__ import _parser

        parsers["engine"] = _parser()
    parts = [INTRO]
    for package, parser in parsers.items():
        parts.append(f"## python -m {package}\n\n{_fenced(parser.format_help())}")
        actions = (a for a in parser._actions if hasattr(a, "choices") and isinstance(a.choices, dict))
        for action in actions:
            for name, command in action.choices.items():
                parts.append(f"### python -m {package} {name}\n\n{_fenced(command.format_help())}")
    return "\n\n".join(parts) + "\n"


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"
