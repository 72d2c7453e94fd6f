"""Tables that studies read, and results of other harnesses that become such tables."""

import csv
import json
from pathlib import Path

import pytest

from calibration.quality.lm_eval import import_harness, read_harness
from calibration.quality.suite import Candidate
from calibration.quality.table import read_table, summary_of, write_csv, write_table
from sim.errors import InputError, UnknownName
from sim.plans.catalogue import model_named
from sim.plans.plan import plan_of
from sim.plans.spec import strategy_named
from sim.study.quality import qualities

HEAD = {"model": "toy", "benchmark": "b", "source": "s", "weights": "w", "items": {}, "seed": 0}


def row(task: str, right: int, lost: int, gained: int, n: int = 100) -> dict:
    return {"task": task, "n": n, "exact": right / n, "dense": (right + lost - gained) / n, "lost": lost,
            "gained": gained, "difference": (gained - lost) / n, "agreement": 0.9, "collapse": 0.0}  # fmt: skip


def test_a_summary_is_the_mean_of_its_rows():
    plan = plan_of(4, name="x")
    s = summary_of(Candidate("f", "g", plan), plan, "raw", [row("a", 80, 10, 0), row("b", 100, 0, 0)], seed=0)
    assert s["score"] == pytest.approx(0.9)
    assert s["dense"] == pytest.approx(0.95)
    assert s["difference"] == pytest.approx(-0.05)
    assert s["difference_low"] < -0.05 < s["difference_high"] < 0
    assert (s["worst_task"], s["worst_difference"]) == ("a", -0.1)
    assert s["perplexity"] is None


def test_studies_read_the_table_and_prefer_adapted_weights(tmp_path):
    plan = plan_of(4, name="x")
    summaries = []
    for weights, right in (("adapted", 90), ("raw", 40)):
        candidate = Candidate("f", "g", plan)
        summaries.append(summary_of(candidate, plan, weights, [row("a", right, 95 - right, 0)], seed=0))
    write_table(tmp_path / "toy.json", HEAD, summaries, [{"task": "a", "n": 1, "by_position": {"0": 1.0}}], [])
    found = qualities("toy", tmp_path)
    assert found[plan.digest].score == pytest.approx(0.9 / 0.95)
    assert found[plan.digest].how == "measured, adapted"
    assert found[plan.digest].low <= found[plan.digest].score <= found[plan.digest].high
    assert found[plan.digest].benchmark == "b"
    assert qualities("another", tmp_path) == {}
    assert len(read_table(tmp_path / "toy.json")["proxy"]) == 2
    write_csv(tmp_path / "t.csv", read_table(tmp_path / "toy.json")["rows"])
    with (tmp_path / "t.csv").open() as handle:
        assert list(csv.DictReader(handle)) == [{"task": "a", "n": "1"}]


def test_what_is_no_table_is_refused(tmp_path):
    for text in ("{", "[]", '{"model": "x"}'):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(InputError, match="no quality table"):
            read_table(tmp_path / "t.json")


def harness(file: Path, **scores: float) -> Path:
    """A results file as lm-eval 0.4 writes it, with a group, a group's alias, and a perplexity."""
    results = {
        task: {"alias": f" - {task}", "acc,none": score / 2, "acc_norm,none": score, "acc_norm_stderr,none": 0.01}
        for task, score in scores.items()
    }
    results["all"] = {"alias": "all", "acc_norm,none": 0.0}
    results["text"] = {"alias": "text", "word_perplexity,none": 9.0}
    data = {
        "results": results,
        "group_subtasks": {"all": list(scores)},
        "configs": {task: {"output_type": "multiple_choice"} for task in scores},
        "n-samples": {task: {"original": 200, "effective": 100} for task in scores},
        "higher_is_better": {"text": {"word_perplexity": False}},
        "config": {"model_args": "pretrained=x"},
        "date": 1.0,
    }
    file.write_text(json.dumps(data))
    return file


def test_harness_results_become_quality_of_a_plan(tmp_path):
    mine = harness(tmp_path / "m.json", arc=0.7, hellaswag=0.5, extra=0.0)
    dense = harness(tmp_path / "d.json", arc=0.8, hellaswag=0.6)
    out = tmp_path / "quality" / "q.json"
    common = {"model": "llama-3.1-8b", "out": out}
    import_harness(mine, plan="swift_kv", dense=dense, **common)
    import_harness(dense, plan="dense", dense=dense, **common)
    found = qualities("llama-3.1-8b", out.parent)
    shape = model_named("llama-3.1-8b")
    quality = found[strategy_named("swift_kv", shape).digest]
    assert quality.score == pytest.approx(0.6 / 0.7)
    assert quality.text == "0.857 (imported)"
    assert quality.low < quality.score < quality.high
    assert found[strategy_named("dense", shape).digest].score == 1
    entry = json.loads(out.read_text())["plans"][strategy_named("swift_kv", shape).digest]
    assert entry["dense"] == pytest.approx(0.7)
    assert entry["tasks"]["arc"] == {"score": 0.7, "dense": 0.8, "stderr": 0.01, "n": 100}
    assert "likelihoods of prompt tokens" in entry["note"]


def test_a_result_without_its_dense_one_stays_unseen(tmp_path):
    out, shape = tmp_path / "quality" / "q.json", model_named("llama-3.1-8b")
    common = {"model": "llama-3.1-8b", "dense": None, "out": out}
    import_harness(harness(tmp_path / "m.json", arc=0.7), plan="swift_kv", **common)
    assert not qualities("llama-3.1-8b", out.parent)
    import_harness(harness(tmp_path / "d.json", arc=0.8), plan="dense", **common)
    assert set(qualities("llama-3.1-8b", out.parent)) == {strategy_named("dense", shape).digest}


def test_harness_metrics_are_chosen_or_asked_for(tmp_path):
    file = harness(tmp_path / "m.json", arc=0.7)
    assert read_harness(file).scores == {"arc": 0.7}
    assert read_harness(file, metric="acc").scores == {"arc": 0.35}
    with pytest.raises(InputError, match="no task has metric 'f1'"):
        read_harness(file, metric="f1")
    with pytest.raises(InputError, match="no task"):
        read_harness(file, metric="word_perplexity")


def test_broken_harness_results_are_refused(tmp_path):
    mine, out = harness(tmp_path / "m.json", arc=0.7), tmp_path / "q.json"
    common = {"model": "llama-3.1-8b", "plan": "dense", "out": out}
    with pytest.raises(InputError, match="share no task"):
        import_harness(mine, dense=harness(tmp_path / "o.json", mmlu=0.5), **common)
    with pytest.raises(UnknownName):
        import_harness(mine, dense=None, **(common | {"plan": "swiftkw"}))
    import_harness(mine, dense=None, **common)
    with pytest.raises(InputError, match="give another --out"):
        import_harness(harness(tmp_path / "o.json", mmlu=0.5), dense=None, **common)
    bad = tmp_path / "bad.json"
    broken = {"{": "line 1, column 2: not JSON", "{}": 'no "results"', '{"results": [1]}': 'no "results"'}
    for text, why in broken.items():
        bad.write_text(text)
        with pytest.raises(InputError, match=why):
            read_harness(bad)
    with pytest.raises(InputError, match="cannot be read"):
        read_harness(tmp_path / "nowhere.json")
