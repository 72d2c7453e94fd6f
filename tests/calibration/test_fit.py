"""Fits recover what was planted, say how far they are off where they did not look, and price for the simulator."""

import json
from dataclasses import replace

import numpy as np
import pytest

from calibration.cli import main
from calibration.fit import fit, residuals_of
from calibration.fit_steps import host_of
from calibration.measure_rows import FILE
from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.measured import Measured
from sim.cost.profiles import read_profile
from sim.cost.times import times_for
from sim.errors import InputError, UnknownName
from sim.plans.spec import strategy_named
from sim.run.simulate import Simulation
from sim.serving.config import SchedulerConfig
from sim.workload.arrivals import Poisson
from sim.workload.generate import synthetic
from sim.workload.lengths import Fixed
from tests.calibration.measured_rows import HOST, PLANS, SHAPE, Truth, rows_of

HEADS = (SHAPE.heads, SHAPE.kv_heads, SHAPE.head_dim, "bf16")


@pytest.fixture(scope="module")
def noisy():
    return fit(rows_of(noise=0.02), date="2026-11-25")


@pytest.fixture(scope="module")
def fitted(noisy):
    return Measured.of(noisy.facts, gpu=gpu_named("h200"))


def off(said, truth):
    """Median and largest relative error."""
    error = np.abs(said[0] / truth[0] - 1)
    return float(np.median(error)), float(error.max())


@pytest.mark.parametrize("shape", [(SHAPE.d_q + 2 * SHAPE.d_kv, SHAPE.hidden), (SHAPE.vocab, SHAPE.hidden)])
def test_products_are_recovered_between_the_measured_rows(fitted, shape):
    m = np.array([1, 5, 20, 33, 60])
    median, most = off(fitted.gemm(m, *shape, "bf16"), Truth().gemm(m, *shape, "bf16"))
    assert median < 0.02
    assert most < 0.06
    assert fitted.gemm(m, *shape, "bf16")[1].all()


def test_a_matrix_that_was_not_measured_is_priced_by_terms_and_counted(fitted):
    m = np.array([1, 64, 500, 1500])
    ns, inside = fitted.gemm(m, 1536, 512, "bf16")
    assert not inside.any()
    assert off((ns,), Truth().gemm(m, 1536, 512, "bf16"))[0] < 0.25


def test_decode_attention_is_recovered_between_the_cells(fitted):
    rows, context = np.array([3, 20, 50, 64]), np.array([700, 100, 3000, 4096])
    said, truth = fitted.decode_attention(rows, context, *HEADS), Truth().decode_attention(rows, context, *HEADS)
    assert off(said, truth)[1] < 0.06
    assert said[1].all()


def test_chunks_after_context_are_recovered(fitted, noisy):
    new, context = np.array([100, 700, 1500, 256]), np.array([0, 2000, 1000, 3500])
    said, truth = fitted.prefill_attention(new, context, *HEADS), Truth().prefill_attention(new, context, *HEADS)
    assert off(said, truth)[1] < 0.08
    assert said[1].all()
    assert noisy.facts["ops"]["prefill_attention"]["bf16"][0]["step_ns"] == pytest.approx(700, rel=0.05)


def test_elementwise_floor_and_rate_are_recovered(noisy):
    found = noisy.facts["ops"]["elementwise"]
    assert found["floor_ns"] == pytest.approx(2200, rel=0.03)
    assert found["ns_per_byte"] == pytest.approx(1 / 3000, rel=0.05)


def test_the_floor_is_of_a_layer_s_kernels_in_their_numbers():
    """Two norms, one write of keys, one activation: what they take together counts, whatever each takes."""
    floors = {"norm": 1000.0, "keys": 4000.0, "activation": 3000.0}
    rows = [row | {"p50_ns": floors.get(row["op"], row["p50_ns"])} for row in rows_of()]
    assert fit(rows, date="x").facts["ops"]["elementwise"]["floor_ns"] == pytest.approx(9000 / 4)


def test_ceilings_are_the_best_that_was_seen(noisy):
    assert noisy.facts["ceilings"]["copy_bytes_per_s"] == pytest.approx(4.3e9, rel=0.06)
    assert noisy.facts["ceilings"]["flops_per_s"] == pytest.approx(8e14, rel=0.06)


def test_the_host_is_recovered(noisy):
    found = host_of(noisy.engine)
    assert found.step_ns == pytest.approx(HOST.step_ns, rel=0.02)
    assert found.row_ns == pytest.approx(HOST.row_ns, rel=0.05)
    assert found.eager_launch_ns == pytest.approx(HOST.eager_launch_ns, rel=0.05)
    assert (found.overlap, found.graph_rows, found.graph_prompts) == (True, 128, False)


def test_without_noise_the_steps_are_the_engine_s():
    exact = fit(rows_of(), date="2026-11-25")
    assert set(exact.steps) == set(PLANS)
    assert all(one["p90"] < 0.03 for one in exact.steps.values())
    assert host_of(exact.engine).graph_gap_ns == pytest.approx(HOST.graph_gap_ns, rel=0.1)


def test_held_out_errors_follow_the_noise():
    """What a fit says of itself is about as large as the noise, and grows with it."""
    median = [
        np.mean([one["median"] for one in residuals_of(fit(rows_of(noise=noise), date="x").facts).values()])
        for noise in (0.005, 0.05)
    ]
    assert 0.002 < median[0] < 0.02
    assert 0.02 < median[1] < 0.08


@pytest.fixture
def files(noisy, tmp_path):
    """The coefficients, and the profile."""
    paths = tmp_path / "c.json", tmp_path / "e.json"
    for path, facts in zip(paths, (noisy.facts, noisy.engine)):
        path.write_text(json.dumps(facts))
    return paths


def test_the_simulator_prices_with_the_file_and_extrapolates_nothing_in_its_domain(files):
    path, profile = files
    times, engine = times_for("h200", source=str(path)), read_profile(profile)
    load = synthetic(requests=50, arrivals=Poisson(50), prompts=Fixed(200), outputs=Fixed(20))
    config = SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=2048)
    for plan in PLANS:
        run = Simulation(load, engine.on(Deployment(SHAPE, gpu_named("h200"))), strategy_named(plan, SHAPE), config)
        found = replace(run, times=engine.scaled(times), max_context=4096).run(stepwise=True).summary()
        assert found["extrapolated_share"] < 0.01, plan


def test_a_file_of_another_gpu_is_refused(files):
    with pytest.raises(InputError, match="of h200, not of h100"):
        times_for("h100", source=str(files[0]))
    with pytest.raises(UnknownName, match=r"FILE\.json"):
        times_for("h100", source="c.jsn")


def written(folder, rows):
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_the_command_writes_both_files_and_says_what_they_are_worth(tmp_path, capsys):
    folder, out = written(tmp_path / "m", rows_of(noise=0.01)), tmp_path / "out" / "c.json"
    engine = tmp_path / "out" / "e.json"
    assert main(["fit", folder, "--out", str(out), "--engine-out", str(engine)]) == 0
    assert "Held-out error" in capsys.readouterr().out
    assert read_profile(engine).engine == "elide"
    assert times_for("h200", source=str(out)).label == "measured on h200 (elide)"
    assert main(["fit", folder, "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["steps"]) == set(PLANS)
    assert said["residuals"]["gemm/bf16"]["median"] < 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [*rows, rows[0] | {"device": "NVIDIA H100"}], "2 devices"),
        (lambda rows: [r for r in rows if r["op"] != "gemm"], "no rows of gemm"),
        (lambda rows: [r for r in rows if r["op"] != "copy"], "ceilings"),
        (lambda rows: [r | ({"m": "many"} if r["op"] == "gemm" else {}) for r in rows], "m is 'many'"),
        (lambda rows: [r for r in rows if r["op"] != "step" or r["iteration"] != 3], "other steps"),
        (lambda rows: [{"op": "gemm"}], "line 1"),
        (lambda rows: [], "0 devices"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_fitted_are_refused_in_one_line(change, said, tmp_path, capsys):
    folder = written(tmp_path / "m", change(rows_of()))
    assert main(["fit", folder, "--out", str(tmp_path / "c.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
