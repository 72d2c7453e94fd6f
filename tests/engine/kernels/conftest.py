"""Where the kernel tests run.

`on_device` holds the laws of the kernels themselves. They need a device: a GPU, or Triton's interpreter, which has to
be chosen before the kernels are imported. So a plain run leaves the folder out, and test_interpreter.py runs it in one
process of its own with TRITON_INTERPRET=1; on a machine with a GPU the same files also run natively, marked `gpu`.
"""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

collect_ignore = [] if INTERPRETED or torch.cuda.is_available() else ["on_device"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that would launch on a GPU."""
    for item in items:
        if not INTERPRETED and HERE / "on_device" in item.path.parents:
            item.add_marker(pytest.mark.gpu)
