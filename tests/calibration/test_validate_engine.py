"""Engine against simulator: no error where the engine is the simulator, honest ones elsewhere, one line for misuse."""

import json

import numpy as np
import pytest
import torch

from calibration.cli import main
from calibration.engine_runs import simulation_of
from calibration.fit import fit
from calibration.live import Traffic, play, record
from calibration.measure_steps import engine_for
from calibration.setting import Setting, model_facts
from calibration.timing import Clock
from calibration.validate_engine_rows import FAMILIES, figures
from calibration.validate_engine_runs import compare, simulators_of
from engine.tiny import make_tiny
from sim.cost.hardware import gpu_named
from sim.cost.profiles import read_profile
from sim.errors import InputError, UnknownName
from sim.run.uncertainty import figures_of
from sim.workload.workload import Workload
from tests.calibration.measured_rows import PLANS, SHAPE, rows_of

TRAFFIC = Traffic(requests=12, lengths="uniform", arrivals="poisson", shares=(0.5, 1.0), repeats=2)
SETTING = Setting("dense", "chunked", slots=4, budget=64, max_context=64, kv_blocks=40)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("models") / "llama", layers=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Coefficients and profile of the machine of `measured_rows`."""
    folder, found = tmp_path_factory.mktemp("fitted"), fit(rows_of(noise=0.01), date="2026-11-25")
    for name, facts in (("c.json", found.facts), ("e.json", found.engine)):
        (folder / name).write_text(json.dumps(facts))
    return folder / "c.json", folder / "e.json"


def simulated(files, setting, workload):
    """A run of the fitted machine."""
    times, profile = simulators_of(files[0], str(files[1]))
    return simulation_of(setting, SHAPE, times.gpu, workload, profile.scaled(times), profile.host).run()


def recorded(files, *, slower: float = 1.0):
    """A record whose engine is the simulator itself, or one that takes so many times as long for everything."""
    runs = []
    for plan in PLANS:
        setting = Setting(plan, "chunked", 16, 512, 1024, 2000)
        arrival = np.arange(12) * 3_000_000
        work = Workload(arrival, np.full(12, 300), np.full(12, 16))
        state = simulated(files, setting, work).state
        first, last = state.first_token_ns - arrival, state.last_token_ns - arrival
        times = {"first_ns": (arrival + slower * first).tolist(), "last_ns": (arrival + slower * last).tolist()}
        columns = {name: getattr(work, name).tolist() for name in ("arrival_ns", "prompt_tokens", "output_tokens")}
        runs.append({"setting": vars(setting), "share": 0.5, "times": [times], **columns})
    return {"head": {"device": "NVIDIA H200"} | model_facts(SHAPE), "traffic": {}, "runs": runs}


def test_an_engine_that_is_the_simulator_has_no_error(files):
    rows = compare(recorded(files), *simulators_of(files[0], str(files[1])), draws=2)
    assert {row.plan for row in rows} == set(PLANS)
    assert all(row.error == 0 and row.covered for row in rows)


def test_an_engine_that_is_slower_than_its_interval_is_told(files):
    rows = compare(recorded(files, slower=1.6), *simulators_of(files[0], str(files[1])), draws=2)
    latencies = [row for row in rows if row.metric.startswith(("ttft", "tpot", "e2e"))]
    assert all(row.error == pytest.approx(1 / 1.6 - 1) and not row.covered for row in latencies)


def test_machines_are_not_mixed(files):
    done = recorded(files)
    done["head"]["device"] = "NVIDIA H100"
    with pytest.raises(InputError, match="ran on NVIDIA H100"):
        compare(done, *simulators_of(files[0], str(files[1])), draws=2)


def test_figures_are_the_metrics_of_the_simulator(files):
    work = Workload(np.arange(9) * 2_000_000, np.full(9, 200), np.arange(1, 10))
    result = simulated(files, Setting("dense", "chunked", 4, 512, 1024, 2000), work)
    state = result.state
    mine = figures(work.arrival_ns, state.first_token_ns, state.last_token_ns, work.output_tokens)
    theirs = figures_of(result)
    assert mine == pytest.approx({name: theirs[name] for name in mine})
    assert {name.split("_")[0] for name in mine} == {"ttft", "tpot", "e2e", "output"}


def test_requests_are_served_in_time(tiny):
    llm = engine_for(str(tiny), SETTING, "cpu")
    prompts, outputs = TRAFFIC.tokens(SETTING.max_context)
    arrival = TRAFFIC.arrival_ns(1.0)
    times = play(llm, arrival, prompts, outputs, seed=0)
    assert (times.first_ns > arrival).all()
    assert (times.last_ns >= times.first_ns).all()
    assert (times.last_ns - arrival < 5e9).all(), "at one request per second nobody waits for the others"
    assert [len(stream.tokens) for stream in llm.engine.streams] == outputs.tolist()


def test_a_record_is_complete(tiny):
    gated = "ffn_skip:run_length=1,threshold=0.5,cold_layers=1"
    settings = [Setting(plan, "chunked", 4, 64, 64, 40) for plan in ("dense", gated)]
    done = json.loads(json.dumps(record(str(tiny), settings, TRAFFIC, device="cpu")))
    assert len(done["runs"]) == 4
    for run in done["runs"]:
        assert len(run["times"]) == TRAFFIC.repeats
        assert {len(x) for one in run["times"] for x in one.values()} == {TRAFFIC.requests}
        setting = Setting(**run["setting"])
        assert (setting.gate_skip is not None) == (setting.plan == gated)
    quiet, busy = done["runs"][:2]
    assert quiet["arrival_ns"][-1] == pytest.approx(2 * busy["arrival_ns"][-1], rel=1e-6)


def test_waiting_on_a_cpu_is_a_jump():
    clock = Clock(torch.device("cpu"))
    before = clock()
    clock.wait_until(before + 10**15)
    assert before + 10**15 <= clock() < before + 10**15 + 10**9


def test_lengths_that_do_not_fit_are_passed_over():
    prompts, outputs = Traffic(requests=50, lengths="azure-conv").tokens(1024)
    assert prompts.size == outputs.size == 50
    assert (prompts + outputs).max() <= 1024
    with pytest.raises(InputError, match="too few"):
        Traffic(requests=50, lengths="azure-conv").tokens(8)
    with pytest.raises(UnknownName):
        Traffic(requests=50, lengths="azur-conv").tokens(1024)


def test_the_two_halves_meet_in_a_file(files, tmp_path, capsys):
    record_file, out = tmp_path / "record.json", tmp_path / "v.json"
    record_file.write_text(json.dumps(recorded(files)))
    words = ["validate-engine", "--recorded", str(record_file), "--coefficients", str(files[0]), "--engine"]
    words += [str(files[1]), "--draws", "2"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "100% of" in said
    assert "On a CPU" not in said
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {f"{family}_median_ape" for family in FAMILIES} <= set(found)
    assert found == json.loads(out.read_text())
    assert read_profile(files[1]).residual("tpot", gpu_named("h200").name) < 0.1


def test_the_whole_chain_on_a_cpu(tiny, tmp_path, capsys):
    """Measured, fitted, recorded, compared: errors are not asserted, only that there is a table of them."""
    rows, c, e = tmp_path / "rows", tmp_path / "c.json", tmp_path / "e.json"
    common = ["--model", str(tiny), "--device", "cpu", "--plans", "dense", "swift_kv"]
    assert main(["measure", *common, "--out", str(rows), "--repeats", "1"]) == 0
    assert main(["fit", str(rows), "--out", str(c), "--engine-out", str(e)]) == 0
    words = ["validate-engine", *common, "--coefficients", str(c), "--engine", str(e), "--requests", "8", "--repeats"]
    words += ["1", "--shares", "0.5", "--lengths", "uniform", "--slots", "4", "--max-context", "64", "--draws", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "swift_kv, 50%" in said
    assert "say nothing about a GPU" in " ".join(said.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--model"),
        (["--recorded", "nowhere.json"], "nowhere.json"),
        (["--recorded", "EMPTY"], "no record"),
        (["--recorded", "RECORD"], "--coefficients"),
        (["--recorded", "RECORD", "--coefficients", "EMPTY", "--engine", "E"], "EMPTY"),
        (["--recorded", "RECORD", "--coefficients", "C", "--engine", "EMPTY"], "EMPTY"),
        (["--recorded", "RECORD", "--coefficients", "C", "--engine", "E", "--draws", "1"], "--draws 1"),
        (["--model", "opt-125m", "--requests", "1"], "1 requests"),
        (["--model", "opt-125m", "--shares", "3"], "3.0"),
        (["--model", "opt-125m", "--arrivals", "tide"], "tide"),
        (["--model", "opt-125m", "--slots", "0"], "max_num_seqs=0"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(words, said, files, tmp_path, capsys):
    paths = {"RECORD": tmp_path / "r.json", "EMPTY": tmp_path / "empty.json", "C": files[0], "E": files[1]}
    paths["RECORD"].write_text(json.dumps(recorded(files)) if "RECORD" in words else "")
    paths["EMPTY"].write_text("{}")
    assert main(["validate-engine", *(str(paths.get(word, word)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert (str(paths[said]) if said in paths else said) in error
