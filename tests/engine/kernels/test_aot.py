"""The gate of compiled code: what the launchers launch must fit Hopper, seen without a GPU (see aot.py)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="no Triton wheel on this platform")
ROOT = Path(__file__).parents[3]
SHARED_MEMORY_BYTES = 227 * 1024  # per block on sm_90
STREAMING = {"add_norm", "rope_kv", "swiglu", "relu", "move"}

Row = dict[str, str | int]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Resources of every kernel that the launchers compile for the gate's cases."""
    return [json.loads(line) for line in printed("tests.engine.kernels.aot", "--json").splitlines()]


def printed(module: str, *options: str) -> str:
    """What a module prints in a process that compiles."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", module, *options]
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    return run.stdout


def of(rows: list[Row], *kernels: str) -> Iterator[Row]:
    """The rows of some kernels; there has to be one of each."""
    assert {row["kernel"] for row in rows} >= set(kernels)
    return (row for row in rows if row["kernel"] in kernels)


@pytest.mark.slow
def test_nothing_spills_and_everything_fits(rows):
    assert [row for row in rows if row["stack"] or row["local"]] == []
    assert [row for row in rows if row["smem"] > SHARED_MEMORY_BYTES or row["reg"] > 255] == []


@pytest.mark.slow
def test_prefill_and_gathered_products_are_warp_group_products(rows):
    for row in of(rows, "prefill"):
        assert row["wgmma"] > 0, row
        assert row["mma"] == 0, row
    gathered = [row for row in of(rows, "up", "down") if "gathered" in str(row["case"])]
    assert gathered
    assert all(row["wgmma"] > 0 for row in gathered)


@pytest.mark.slow
def test_decode_and_predicated_ffn_use_the_tensor_cores(rows):
    for row in of(rows, "decode", "up", "down"):
        assert row["mma"] + row["wgmma"] > 0, row


@pytest.mark.slow
def test_keys_weights_and_streams_move_in_128_bit_pieces(rows):
    for row in of(rows, "decode", "prefill", "up", "down"):
        assert row["load128"] >= 16, row
    for row in of(rows, *STREAMING):
        assert row["load128"] > 0, row
        assert row["store128"] > 0, row


@pytest.mark.slow
def test_no_step_waits_for_the_compiler_because_its_batch_is_another():
    variants = json.loads(printed("tests.engine.kernels.variants"))
    assert len(variants) == 7
    assert {name: count for name, count in variants.items() if count > 1} == {}
