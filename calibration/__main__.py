"""The command line of calibration: `python -m calibration --help`."""

import sys

from calibration.cli import main

if __name__ == "__main__":
    sys.exit(main())
