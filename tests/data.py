"""Where the public measurements and traces lie: beside the repository, never in it."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(relative: str) -> Path:
    """The path of one shared file; skips the test, saying so, where the folder is missing."""
    path = SHARED / relative
    if not path.exists():
        pytest.skip(f"../shared/data/{relative} is not on this machine")
    return path
