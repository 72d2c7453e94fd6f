"""`python -m calibration.campaign RUN --out FOLDER`: what a GPU is asked, in runs of at most ten minutes each.

A run is a list of commands, most valuable first, each with a limit of its own; one that fails or takes too long is
noted and the next begins. What they write is little enough to be carried home from a machine that is lent for an hour.
With `--dry` the same commands run small, on a CPU: nothing is tried for the first time where time is short.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

from calibration.campaign_runs import RUNS, TINY, Step, Target
from sim.errors import ElideError, UnknownName
from sim.study.options import Parser

GRACE_S = 15  # between asking a command to end and ending it
MOST_FILES, MOST_BYTES = 8, 16 << 20  # of a run, and of each of its files
ROOT = Path(__file__).resolve().parents[1]
TAIL = 60  # lines of each command's output that the console shows
OK = "ok"


def main(words: Sequence[str] | None = None) -> int:
    """0, 1 where a command failed or was stopped, 2 for an error we can explain."""
    try:
        args = parser().parse_args(words)
        if args.run not in RUNS:
            raise UnknownName("run", args.run, RUNS)
        target = Target(args.out / f"{args.run}-{Path(args.model).name}", args.model, args.dry)
        target.out.mkdir(parents=True, exist_ok=True)
        return carried_out(RUNS[args.run](target), target.out)
    except ElideError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m calibration.campaign", description="What a GPU is asked, run by run.")
    made.add_argument("run", help=", ".join(RUNS))
    made.add_argument("--out", type=Path, default=Path("out/gpu"), metavar="FOLDER", help="a folder per run (out/gpu)")
    made.add_argument("--model", default="llama-3.1-8b", metavar="NAME", help="of the catalogue, with random weights")
    made.add_argument("--dry", action="store_true", help="the same commands, small, on a CPU")
    return made


def carried_out(steps: Sequence[Step], out: Path) -> int:
    """0 if every command ended well, else 1. What they say goes to `log.txt`, its end to the console as well."""
    lines, log = [], out / "log.txt"
    for step in steps:
        began = monotonic()
        status = run(step, log)
        lines.append(f"{step.name:32} {status:20} {monotonic() - began:6.1f} s of {step.seconds}")
        say(lines[-1])
    say("\n".join(["", f"{out}:", *lines, *too_heavy(out)]))
    return 0 if all(f" {OK} " in line for line in lines) else 1


def run(step: Step, log: Path) -> str:
    """How the command ended: ok, its exit status, or that it was stopped."""
    words = [*step.under, sys.executable, "-m", *step.words]
    say(f"$ {' '.join(words)}")
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(words)}\n")
        file.flush()
        start = file.tell()
        try:
            process = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        except FileNotFoundError as missing:
            return f"no {missing.filename} here"
        status = ended(process, step.seconds)
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(start)
        say("\n".join(file.read().splitlines()[-TAIL:]))
    return status


def ended(process: "subprocess.Popen[bytes]", seconds: float) -> str:
    """Its status; one that takes too long is asked to end as ^C asks, and then made to, with all that it started."""
    try:
        status = process.wait(seconds)
        return OK if status == 0 else f"exit status {status}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return "stopped: too long"


def too_heavy(out: Path) -> list[str]:
    """Complaints about what is too much to carry home."""
    files = [path for path in out.rglob("*") if path.is_file() and TINY not in path.parts]
    found = [f"{path}: {path.stat().st_size >> 20} MiB" for path in files if path.stat().st_size > MOST_BYTES]
    if len(files) > MOST_FILES:
        found.append(f"{len(files)} files, more than {MOST_FILES}")
    return [f"too much to carry: {one}" for one in found]


def say(text: str) -> None:
    """To the console, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
