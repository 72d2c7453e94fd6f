"""The command line of the simulator: `python -m sim --help`."""

import sys

from sim.study.cli import main

if __name__ == "__main__":
    sys.exit(main())
