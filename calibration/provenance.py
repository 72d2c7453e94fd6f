"""Where a number comes from: date, versions, commit, machine, and the clocks that the machine ran at."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "transformers", "tokenizers", "numpy")
COMMIT = "ELIDE_COMMIT"  # says the commit where the tree travels without its history
CLOCKS = ("driver_version", "clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


def provenance(packages: tuple[str, ...] = PACKAGES) -> dict[str, object]:
    """What has to stand beside any committed figure; a package that is not installed has the version None."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "device": gpu or f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
    }


def clocks_as_found() -> dict[str, object]:
    """Driver, clocks in MHz, power in W and temperature in °C of the first GPU as nvidia-smi says; empty without it."""
    query = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    driver, *numbers = (value.strip() for value in told.split(","))
    names = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")
    return {"driver": driver} | {name: _number(value) for name, value in zip(names, numbers)}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of the working tree, with + where it has changes; what ELIDE_COMMIT says outside a repository."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "."], cwd=here, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT, "")
    return head + ("+" if changed else "")
