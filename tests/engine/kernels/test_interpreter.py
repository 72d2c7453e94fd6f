"""Runs the kernels' laws (`on_device`) under Triton's interpreter, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

triton = pytest.importorskip("triton", reason="no Triton wheel on this platform")
HERE = Path(__file__).parent


def version(text: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(part) for part in text.split(".")[:2])


@pytest.mark.slow
@pytest.mark.skipif(
    version(triton.__version__) < (3, 7) and version(np.__version__) >= (2, 4),
    reason="the interpreter of Triton before 3.7 cannot loop over tensors with NumPy 2.4 or later",
)
def test_the_kernels_keep_their_laws_in_the_interpreter():
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "on_device")]
    run = subprocess.run(command, env=environment, cwd=HERE.parents[2], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-10000:] + run.stderr[-2000:]
    assert " skipped" not in run.stdout
