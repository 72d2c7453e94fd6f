"""What stands beside a figure, and that the machines which measure need no more than torch."""

import subprocess
import sys

from calibration import provenance
from calibration.measure_rows import read_rows
from calibration.provenance import clocks_as_found
from engine.tiny import make_tiny

WITHOUT = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("polars", "simpy", "plotly", "scipy", "numba"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Nothing())
"""


def test_the_commit_is_told_where_the_tree_has_no_history(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "calibration.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("ELIDE_COMMIT", "abc")
    assert provenance.provenance()["commit"] == "abc"


def test_a_package_that_is_missing_is_none():
    found = provenance.provenance(("torch", "no-such-package"))
    assert found["torch"]
    assert found["no-such-package"] is None


def test_clocks_are_numbers_or_absent(monkeypatch):
    def answers(*_, **__):
        return subprocess.CompletedProcess([], 0, stdout="580.159.04, 1980, 3201, 117.43, [N/A]\n")

    monkeypatch.setattr(provenance.subprocess, "run", answers)
    found = clocks_as_found()
    assert found == {
        "driver": "580.159.04", "sm_mhz": 1980.0, "memory_mhz": 3201.0, "power_w": 117.43, "temperature_c": None,
    }  # fmt: skip


def test_no_clocks_without_the_tool(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(provenance.subprocess, "run", missing)
    assert clocks_as_found() == {}


def test_imports_without_what_a_gpu_machine_lacks():
    """No polars, SimPy, plotly, SciPy or numba there: measuring must not ask for them."""
    modules = [f"calibration.{name}" for name in ("cli", "campaign", "measure", "shares", "tune", "validate_engine")]
    modules += ["calibration.quality.command", "engine.bench", "tests.gpu_soak"]
    subprocess.run([sys.executable, "-c", f"{WITHOUT}\nimport {', '.join(modules)}"], check=True)


def test_measuring_needs_no_more_than_torch(tmp_path):
    folder = make_tiny(tmp_path / "llama", layers=2)
    words = ["measure", "--model", str(folder), "--out", str(tmp_path / "m"), "--device", "cpu", "--repeats", "1"]
    words += ["--plans", "dense", "--only", "norm", "decode_attention", "step"]
    run = f"{WITHOUT}\nfrom calibration.cli import main\nsys.exit(main({words}))"
    subprocess.run([sys.executable, "-c", run], check=True, capture_output=True)
    assert {row["op"] for row in read_rows(tmp_path / "m")} == {"norm", "decode_attention", "step", "burst"}
