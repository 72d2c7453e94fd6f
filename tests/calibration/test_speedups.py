"""Measured, ideal and predicted gains of the same burst: told apart, and equal where they are the same thing."""

import json

import pytest

from calibration.cli import main
from calibration.measure_rows import FILE
from calibration.shares import launches_of, shares_of
from calibration.speedups import speedups
from sim.errors import InputError
from tests.calibration.measured_rows import HOST, PLANS, Truth, rows_of


@pytest.fixture(scope="module")
def found():
    return speedups(rows_of(), (Truth(), HOST))


def test_a_dense_run_gains_nothing_over_itself(found):
    dense = [one for one in found if one["plan"] == "dense"]
    assert dense
    for one in dense:
        assert [one[name] for name in ("speedup", "ttft", "tpot", "ceiling", "predicted")] == [1.0] * 5


def test_on_a_machine_that_is_the_simulator_the_prediction_is_the_measurement(found):
    assert {one["plan"] for one in found} == set(PLANS)
    for one in found:
        assert one["predicted"] == pytest.approx(one["speedup"], rel=1e-9)


def test_skipping_layers_is_worth_something_to_an_ideal_device(found):
    alone = [one for one in found if one["plan"].startswith("skip_decode") and one["requests"] == 1]
    assert all(one["ceiling"] > 1.05 for one in alone)


def test_the_command_says_it(tmp_path, capsys):
    (tmp_path / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows_of()))
    assert main(["speedups", str(tmp_path), "--out", str(tmp_path / "s.json")]) == 0
    assert "Times as fast as dense" in capsys.readouterr().out
    assert main(["speedups", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "s.json").read_text())
    assert {one["predicted"] for one in said} == {None}
    assert main(["shares", str(tmp_path), "--only", "norm"]) == 0
    assert "share of ceiling" in capsys.readouterr().out
    assert main(["speedups", str(tmp_path), "--engine", "e.json"]) == 2
    assert "come together" in capsys.readouterr().err


def test_without_a_dense_run_there_is_nothing_to_compare_with():
    rows = [row for row in rows_of() if row.get("plan") != "dense"]
    with pytest.raises(InputError, match="dense"):
        speedups(rows)


def test_the_gap_between_graphs_is_what_a_chain_takes_longer():
    sizes = {(1, 1): 4_000.0, (256, 1): 256 * 1_300.0, (32, 8): 256 * 1_300.0 + 7 * 2_000.0}
    rows = [{"op": "replay", "kernels": k, "graphs": g, "p50_ns": ns} for (k, g), ns in sizes.items()]
    rows.append({"op": "launch", "kernel": "engine", "p50_ns": 40_000.0})
    found = launches_of(rows)
    assert found["device, between 8 graphs of 32 nodes"] == pytest.approx(2_000)
    assert found["device, node of a graph of 256"] == pytest.approx(1_300)
    assert found["host, engine kernel"] == 40_000
    assert len(found) == 3


def test_a_kernel_at_the_ceiling_has_all_of_it():
    rows = [
        {"op": "copy", "bytes": 1, "bytes_moved": 4e9, "flops": 0.0, "p50_ns": 1e6},
        {"op": "product", "side": 1, "bytes_moved": 1.0, "flops": 8e11, "p50_ns": 1e6},
        {"op": "norm", "rows": 1, "bytes_moved": 1e9, "flops": 0.0, "p50_ns": 1e6},
        {"op": "gemm", "m": 1, "bytes_moved": 1e9, "flops": 4e11, "p50_ns": 1e6},
    ]
    share = {row["op"]: (round(row["share"], 6), row["bound"]) for row in shares_of(rows)}
    assert share["copy"] == (1.0, "bytes")
    assert share["product"] == (1.0, "operations")
    assert share["norm"] == (0.25, "bytes")
    assert share["gemm"] == (0.5, "operations")
