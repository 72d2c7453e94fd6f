"""What is known about answers reaches the study as it is: never guessed, never another model's, never unlabelled."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.study.evidence import FRAME, evidence, phrases, quality_frame
from sim.study.floor import cell, check_floor, keeps, pareto, recommendation
from sim.study.quality import NOT_MEASURED, published, qualities, quality_of
from sim.study.study import STRATEGIES

MODEL = "llama-3.1-8b"
SHAPE = model_named(MODEL)


def measured(file: Path, plans: dict[str, dict[str, object]], **more: object) -> None:
    file.write_text(json.dumps({"model": "m", "benchmark": "b", "source": "s", "plans": plans} | more))


def result(**changes: object) -> dict[str, object]:
    base = {"model": MODEL, "plans": ["swift_kv"], "weights": "distilled", "benchmark": "b", "dense": 80, "score": 60,
            "source": "s", "conditions": "c"}  # fmt: skip
    return base | changes


def publish(folder: Path, *results: dict[str, object]) -> None:
    (folder / "published").mkdir(exist_ok=True)
    (folder / "published" / "r.json").write_text(json.dumps({"results": results}))


def test_quality_is_a_share_of_dense_read_by_digest(tmp_path):
    entry = {"score": 71.5, "dense": 73, "difference_low": -2.0, "difference_high": -1.0, "weights": "adapted"}
    measured(tmp_path / "a.json", {"00ff": entry, "00fe": {"score": 71.5, "dense": None}})
    found = qualities("m", tmp_path)
    assert found["00ff"].score == pytest.approx(71.5 / 73)
    assert (found["00ff"].low, found["00ff"].high) == (pytest.approx(71 / 73), pytest.approx(72 / 73))
    assert found["00ff"].text == "0.979 (measured, adapted)"
    assert "00fe" not in found, "a score without the dense one says nothing about what was lost"
    assert not qualities("other", tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"plans": {}}', '{"model": "m", "plans": {"a": {"score": "x"}}}'])
def test_what_is_no_measurement_is_refused_by_name(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(InputError, match=r"b\.json: not a quality measurement"):
        qualities("m", tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"plans": ["swiftkw"]}, {"plans": []}, {"dense": 0}, {"model": "gpt"}, {"score": []}]
)
def test_broken_published_results_are_refused_by_name(tmp_path, wrong):
    publish(tmp_path, result(**wrong))
    with pytest.raises(InputError, match=r"r\.json: not a quality measurement"):
        qualities(MODEL, tmp_path)


def test_own_measurements_come_before_published_ones_and_warnings_never_count(tmp_path):
    plan = strategy_named("swift_kv", SHAPE)
    publish(tmp_path, result(warning=True, score=8), result())
    assert qualities(MODEL, tmp_path)[plan.digest].text == "0.750 (published, distilled)"
    measured(tmp_path / "m.json", {plan.digest: {"score": 0.9, "dense": 1}}, model=MODEL, origin="imported")
    assert quality_of(plan, MODEL, tmp_path).text == "0.900 (imported)"
    assert [e.kind for e in evidence(plan, MODEL, tmp_path)] == ["same plan"]


def test_every_committed_result_names_its_source_and_is_of_a_real_plan():
    for quality, plans in published():
        assert quality.source
        assert quality.conditions
        assert quality.weights in ("distilled", "untrained")
        assert 0 < quality.score <= 1
        assert not any(plan.is_dense for plan in plans)
    first = {}
    for quality, plans in published():
        for plan in plans:
            first.setdefault((quality.model, plan.digest), quality)
    assert not any(quality.warning for quality in first.values()), "a warning stands beside a result, never alone"


def test_the_default_study_shows_what_was_published_for_its_model():
    texts = {s: quality_of(strategy_named(s, SHAPE), MODEL) for s in STRATEGIES}
    assert texts["swift_kv"].text == "0.986 (published, distilled)"
    assert texts["swift_kv:group=4"].text == "0.970 (published, distilled)"
    assert texts["dense"].text == "1.000"
    assert texts["skip_decode:speedup=2"] is None
    assert texts["ffn_skip:share=0.25"] is None, "Llama-2-13B's figure is not this model's"


def test_evidence_says_whose_it_is():
    plans = [strategy_named(s, SHAPE) for s in STRATEGIES]
    frame = quality_frame(plans, MODEL)
    assert dict(frame.schema) == FRAME
    own = frame.filter(pl.col("evidence") == "quality")
    assert set(own["measured_model"]) == {MODEL}
    assert set(frame.filter(pl.col("evidence") == "small model")["measured_model"]).isdisjoint({MODEL})
    warned = frame.filter((pl.col("evidence") == "same plan") & (pl.col("benchmark") == "IFEval"))
    assert warned["quality"].to_list() == [pytest.approx(0.589 / 0.796)]
    far = frame.filter((pl.col("evidence") == "other setting") & (pl.col("strategy") == "ffn_skip:share=0.25"))
    assert set(far["measured_model"]) == {"llama-2-13b"}
    nearest = [pytest.approx(6.16 / 8.46), pytest.approx(8.04 / 8.28)]
    assert far["quality"].to_list() == nearest, "the setting that is nearest in share, all its benchmarks"
    said = dict(phrases(frame))
    assert (
        "0.728 published, untrained (other setting: llama-2-13b, ffn_skip:run_length=12" in said["ffn_skip:share=0.25"]
    )
    assert "(small model: cpu-llama, skip_decode 2x, 1 warm-up)" in said["skip_decode:speedup=2"]


def rows(*values: tuple[str, float | None, int | None, float | None]) -> pl.DataFrame:
    names = ("strategy", "quality", "gpus", "dollars_per_million_output_tokens")
    kinds = (pl.String, pl.Float64, pl.Int64, pl.Float64)
    frame = pl.DataFrame(values, schema=dict(zip(names, kinds)), orient="row")
    none = pl.lit(None, dtype=pl.Float64)
    return frame.with_columns(
        none.alias("quality_low"), none.alias("quality_high"), pl.lit("published").alias("quality_how"),
        (100 / pl.col("gpus")).alias("max_qps_per_gpu"),
    )  # fmt: skip


def test_a_floor_leaves_out_what_is_below_or_unknown():
    frame = rows(("dense", 1.0, 5, 1.0), ("swift_kv", 0.986, 3, 0.6), ("skip_decode", None, 4, 0.8))
    assert "Dense, 5 GPUs" in recommendation(frame, 0.99)
    assert "SwiftKV (0.986), SkipDecode (not measured)" in recommendation(frame, 0.99).replace(" 50%", "")
    assert "3 GPUs, quality 0.986 (published)" in recommendation(frame, 0.98)
    assert recommendation(frame, None) == ""
    assert recommendation(frame.filter(pl.col("quality").is_null()), 0.5).startswith("no strategy")
    assert cell(0.986, "published", 0.99) == "0.986 ✗ (published)"
    assert cell(0.986, "published", 0.9) == "0.986 (published)"
    assert cell(None, None, 0.99) == f"{NOT_MEASURED} ✗"
    assert cell(None, None, None) == NOT_MEASURED
    assert keeps(None, 0.9) is False
    assert keeps(0.1, None) is None


@pytest.mark.parametrize("floor", [0.0, -1.0, 1.01, float("nan")])
def test_a_floor_is_a_share(floor):
    with pytest.raises(InputError, match="--quality-floor"):
        check_floor(floor)


shares = st.sampled_from([0.5, 0.8, 0.9, 1.0])


@given(st.lists(st.tuples(st.none() | shares, st.none() | shares), max_size=8))
def test_the_front_is_what_nobody_beats(points):
    frame = pareto(rows(*((f"s{i}", quality, 1, cost) for i, (quality, cost) in enumerate(points))))
    known = [(q, c) for q, c in points if q is not None and c is not None]
    assert len(frame) == len(known)
    front = frame.filter("unbeaten")
    assert bool(len(front)) == bool(known)
    for q, c, free in frame.select("quality", "dollars_per_million_output_tokens", "unbeaten").iter_rows():
        assert free == (not any(a >= q and b <= c and (a, b) != (q, c) for a, b in known))
