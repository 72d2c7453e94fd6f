"""A study: its table against single runs, serial against parallel, saved against fresh."""

import math
from dataclasses import replace

import polars as pl
import pytest

from sim.errors import CapacityError
from sim.run.metrics import Slo
from sim.study.capacity import capacity_of, replicas_for
from sim.study.loads import NamedLoad
from sim.study.outcome import FRAMES, load_outcome
from sim.study.rows import SCHEMA
from sim.study.study import COMMON, Study

QUICK = Study(
    load=NamedLoad("azure-conv", 400),
    strategies=("swift_kv", "skip_decode"),
    seeds=(0, 1),
    draws=2,
    workers=1,
    batching=False,
)


@pytest.fixture(scope="module")
def study():
    QUICK.run()
    return QUICK


def test_the_table_has_every_column_and_strategy(study):
    rows = study.run()
    assert dict(rows.schema) == SCHEMA
    assert rows["strategy"].to_list() == ["dense", "swift_kv:keep=16", "skip_decode:speedup=2"]
    assert rows["plan_digest"].n_unique() == 3


def test_the_dense_row_is_the_dense_capacity(study):
    rows, dense = study.run(), study.services[0]
    found = capacity_of(dense, study.slo, seeds=study.seeds, draws=study.draws)
    assert rows["max_qps_per_gpu"][0] == found.qps
    assert rows["gain"][0] == 1.0
    assert rows["compared_at_qps"].to_list() == [COMMON * found.qps] * 3
    at = dense.at(COMMON * found.qps, 0).summary()
    assert rows["ttft_p90_ms"][0] == at["ttft_ms"]["p90"]
    assert rows["tpot_p50_ms"][0] == at["tpot_ms"]["p50"]
    assert rows.select("flops_saved", "weight_bytes_saved", "kv_capacity_saved").row(0) == (0.0, 0.0, 0.0)


def test_gpus_carry_the_demand_and_the_interval_is_in_order(study):
    for row in study.run().iter_rows(named=True):
        assert row["gpus"] * row["max_qps_per_gpu"] >= study.demand_qps
        assert row["gpus_low"] <= row["gpus"] <= (row["gpus_high"] or math.inf)
        for name in ("gain", "ttft_p90_ms", "tpot_p50_ms", "dollars_per_million_output_tokens"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        assert row["max_qps_low"] <= row["max_qps_per_gpu"] <= row["max_qps_high"]
        assert sum(row["max_qps_shares"].values()) == pytest.approx(1)


def test_skipping_pays_less_than_it_promises(study):
    gain = dict(zip(*study.run().select("strategy", "gain").get_columns()))
    assert 1.1 < gain["swift_kv:keep=16"] < 1.9
    assert 1.0 < gain["skip_decode:speedup=2"] < 1.5


def test_waterfalls_end_at_the_gain_of_the_table(study):
    rows, steps = study.run(), study.outcome.frames["steps"]
    results = steps.filter(pl.col("kind") == "result")
    for strategy, value in results.select("strategy", "value").iter_rows():
        gain = rows.filter(pl.col("strategy") == strategy)["gain"].item()
        assert value == pytest.approx(1 - 1 / gain)


def own_answers(study):
    """Capacity of a replica by strategy, where the report's sliders stand when it opens."""
    here = {"slo_ttft_ms": study.slo.ttft_ms, "slo_tpot_ms": study.slo.tpot_ms, "strength": 1.0}
    return dict(study.outcome.frames["whatif"].filter(**here).select("strategy", "max_qps").iter_rows())


def test_sliders_and_table_agree_at_the_studys_own_question(study):
    """INV-43. GPUs, capacities and gains: one seed beside the search over two."""
    answers, tp = own_answers(study), study.deployment.tp
    for row in study.run().iter_rows(named=True):
        qps = answers.pop(row["strategy"])
        assert tp * replicas_for(study.demand_qps, qps) == row["gpus"]
        assert qps == tp * row["max_qps_per_gpu"]
        assert qps / own_answers(study)["dense"] == row["gain"]
    assert not answers


def test_points_within_the_slo_lie_below_the_capacity(study):
    rows, points = study.run(), study.outcome.frames["points"]
    for strategy, most in rows.select("strategy", "max_qps_high").iter_rows():
        mine = points.filter(pl.col("strategy") == strategy, pl.col("within_slo"))
        assert mine["qps"].max() <= most
    assert points["ttft_p90_ms"].null_count() == 0


def test_workers_change_nothing(study):
    ticks = []
    parallel = replace(QUICK, workers=2, tick=lambda *what: ticks.append(what))
    for name in FRAMES:
        assert parallel.outcome.frames[name].equals(study.outcome.frames[name]), name
    assert [done for _, done, _ in ticks] == list(range(1, ticks[-1][2] + 1))


def test_batching_adds_its_frames_and_sections():
    full = replace(QUICK, batching=True, seeds=(0,), strategies=("swift_kv",))
    assert set(full.outcome.frames["depth"]["model"]) == {"llama-3.1-8b", "llama-2-7b"}
    assert "What does batching do to FFN skipping?" in full.html()
    assert "What does batching do to FFN skipping?" not in QUICK.html()


def test_a_saved_study_comes_back_and_the_same_study_saves_the_same_bytes(study, tmp_path):
    study.outcome.save(tmp_path / "a")
    replace(QUICK).outcome.save(tmp_path / "b")
    for name in FRAMES:
        assert (tmp_path / "a" / f"{name}.parquet").read_bytes() == (tmp_path / "b" / f"{name}.parquet").read_bytes()
    assert load_outcome(tmp_path / "a").html() == study.html()


def test_a_neutral_strategy_is_the_dense_model_and_counts_once():
    services = replace(QUICK, strategies=("dense", "swift_kv:keep=32", "skip_decode:speedup=1")).services
    assert len(services) == 1
    assert services[0].plan.is_dense


def test_a_strategy_that_cannot_meet_the_slo_is_a_row_with_the_reason():
    """Half of the requests within 17 ms: out of reach for the dense model even alone, not for SwiftKV."""
    tight = replace(QUICK, engine=None, slo=Slo(17.0, 50.0, 50.0), strategies=("swift_kv",), seeds=(0,))
    rows = tight.run()
    assert rows["max_qps_per_gpu"].to_list()[0] is None
    assert "no load meets TTFT" in rows["note"][0]
    assert rows["max_qps_per_gpu"][1] > 0
    assert own_answers(tight) == dict(rows.select("strategy", "max_qps_per_gpu").iter_rows())
    assert "no load meets" in tight.html()


def test_a_study_without_any_capacity_is_an_error():
    with pytest.raises(CapacityError, match="no load meets"):
        replace(QUICK, slo=Slo(1, 1, 90), seeds=(0,)).run()


def test_pictures_and_report_come_from_the_same_names(study):
    assert len(study.figure().data) > 0
    assert study.html().startswith("<!DOCTYPE html>")
