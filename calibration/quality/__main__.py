"""`python -m calibration.quality train | run | adapt | profile | import`, as under `python -m calibration`."""

import sys

from calibration.quality.command import declare
from sim.errors import ElideError
from sim.study.options import Parser


def main() -> int:
    """Exit status: 0, or 2 after one line that says what was wrong."""
    try:
        args = declare(Parser(prog="python -m calibration.quality")).parse_args()
        return int(args.run(args))
    except ElideError as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
