"""Validation: every row of the table is compared or excluded with a reason, and errors are what they claim to be."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calibration import validate_report
from calibration.engines import setting_of
from calibration.exclusions import Excluded
from calibration.importers.published import COLUMNS
from calibration.importers.splitwise import read_splitwise
from calibration.page import validation_page
from calibration.points import Load, Point
from calibration.validate_errors import Compared, error_table, family, load_class, median_ape, summary
from calibration.validate_points import Case, read_public, rows_of
from calibration.validate_public import Validation, capacities, capacity_of, compare, load_share, validate_public
from calibration.validate_run import metrics_of, predict, run_point, wanted
from tests.data import shared

POINT = Point(
    "here/sweep", {"ttft_mean_ms": 20.0, "tpot_mean_ms": 4.0}, load=Load("concurrency", 4), gpu="h100", n_gpus=1, tp=1,
    model="opt-1.3b", weights_dtype="bf16", kv_dtype="bf16", engine="vllm", engine_version="0.11", isl=100, osl=20,
)  # fmt: skip


def compared(point: Point, factor: float = 1.1, *, share: float = 0.3, sd: float = 0.1) -> Compared:
    """A prediction that is off by a factor everywhere."""
    metrics = wanted(point)
    predicted = {name: value * factor for name, value in metrics.items()}
    return Compared(point, predicted, share, 0.0, {}, dict.fromkeys(metrics, sd))


def test_the_metrics_are_those_of_the_requests() -> None:
    point = replace(POINT, measured=dict.fromkeys(
        ("ttft_mean_ms", "ttft_p50_ms", "tpot_p99_ms", "itl_mean_ms", "e2e_mean_ms", "requests_per_s",
         "output_tokens_per_s", "total_tokens_per_s"), 1.0))  # fmt: skip
    setting = setting_of(point)
    _, result = run_point(point, setting)
    found = metrics_of(result, tuple(point.measured))
    frame = result.requests
    assert found["ttft_mean_ms"] == pytest.approx(frame["ttft_ms"].mean())
    assert found["ttft_p50_ms"] == pytest.approx(frame["ttft_ms"].median())
    assert found["e2e_mean_ms"] == pytest.approx(frame["e2e_ms"].mean())
    rates = [found[name] for name in ("requests_per_s", "output_tokens_per_s", "total_tokens_per_s")]
    assert rates[0] * frame["output_tokens"].mean() == pytest.approx(rates[1])  # type: ignore[operator]
    assert rates[1] < rates[2]
    assert metrics_of(result, ("requests_per_s",), 3)["requests_per_s"] == pytest.approx(3 * rates[0])


def test_a_static_batch_gives_one_prefill_and_one_step() -> None:
    point = replace(POINT, load=Load("static_batch", 8), osl=1,
                    measured={"prefill_mean_ms": 5.0, "decode_step_mean_ms": 3.0})  # fmt: skip
    simulation, result = run_point(point, setting_of(point))
    assert len(simulation.workload) == 8
    assert len(result.iterations) == 2
    found = predict(point).metrics
    assert found["prefill_mean_ms"] == pytest.approx(result.iterations["duration_ns"][0] / 1e6)
    assert found["decode_step_mean_ms"] == pytest.approx(result.iterations["duration_ns"][1] / 1e6)


def test_a_capped_client_beyond_capacity_is_a_closed_loop() -> None:
    point = replace(POINT, load=Load("qps", 5000, max_concurrency=6, arrivals="poisson"), requests=60)
    simulation, _ = run_point(point, setting_of(point))
    assert simulation.workload.concurrency == 6
    calm = replace(POINT, load=Load("qps", 1, max_concurrency=6, arrivals="poisson"), requests=20)
    assert run_point(calm, setting_of(calm))[0].workload.concurrency == 0


def test_e2e_follows_from_the_means() -> None:
    assert wanted(POINT)["e2e_mean_ms"] == pytest.approx(20 + 4 * 19)
    assert "e2e_mean_ms" not in wanted(replace(POINT, measured={"ttft_p50_ms": 20.0, "tpot_p50_ms": 4.0}))


def test_load_is_a_share_of_the_capacity_found() -> None:
    light = replace(POINT, load=Load("qps", 1.0))
    assert load_share(light, predict(light)) == pytest.approx(1.0 / capacity_of(light))
    assert math.isinf(load_share(replace(POINT, load=Load("offline", math.inf)), predict(light)))
    assert math.isnan(load_share(replace(POINT, load=Load("static_batch", 2)), predict(light)))
    closed = replace(POINT, flags={"max_num_seqs": 4})
    assert capacity_of(closed) == pytest.approx(capacity_of(POINT))  # a limit set to the load is not the server's
    assert [load_class(x) for x in (0.2, 0.7, 0.95, 1.2, math.inf, math.nan)] == [
        "below 50 %", "50-80 %", "80-100 %", "beyond", "beyond", "static",
    ]  # fmt: skip


def test_the_table_holds_errors_intervals_and_coverage() -> None:
    table = error_table([compared(POINT, 1.1, sd=0.1), compared(POINT, 1.3, sd=0.1)])
    assert table["error"].to_list() == pytest.approx([0.1] * 3 + [0.3] * 3)
    assert table["covered"].to_list() == [True] * 3 + [False] * 3
    assert (table["low"] < table["predicted"]).all()
    assert set(table.filter("derived")["metric"]) == {"e2e_mean_ms"}
    figures = summary(table, ("family",))
    assert set(figures["family"]) == {"ttft", "tpot", "e2e"}
    assert figures["median_ape"].to_list() == pytest.approx([20.0] * 3)
    assert figures["coverage_90"].to_list() == pytest.approx([50.0] * 3)
    assert median_ape(table, "ttft") == 20.0
    assert median_ape(table, "throughput") is None


def test_coverage_is_judged_by_the_held_out_error() -> None:
    one = replace(compared(POINT, 1.02, sd=0.05), held_out={"ttft_mean_ms": 0.4})
    table = error_table([one])
    row = table.row(by_predicate=pl.col("metric") == "ttft_mean_ms", named=True)
    assert row["error"] == pytest.approx(0.02)
    assert row["held_out"] == pytest.approx(math.expm1(0.4))
    assert not row["covered"]


def test_families() -> None:
    names = ("itl_mean_ms", "tpot_p50_ms", "e2e_p99_ms", "requests_per_s", "prefill_p50_ms", "decode_step_p50_ms")
    assert [family(name) for name in names] == ["tpot", "tpot", "e2e", "throughput", "prefill", "decode_step"]


def sweep(predicted: float) -> list[Compared]:
    return [
        Compared(
            replace(POINT, load=Load("qps", rate), measured={"requests_per_s": min(rate, 50.0)}),
            {"requests_per_s": min(rate, predicted)},
            rate / predicted,
            0.0,
            {},
            {},
        )
        for rate in (10.0, 40.0, 90.0)
    ]


def test_capacity_is_the_plateau_of_a_sweep() -> None:
    (row,) = capacities(sweep(55.0)).iter_rows(named=True)
    assert (row["measured"], row["predicted"]) == (50.0, 55.0)
    assert row["error"] == pytest.approx(0.1)
    assert capacities(sweep(55.0)[:2]).is_empty()  # never driven beyond


def test_a_case_that_cannot_run_says_why() -> None:
    case = Case(replace(POINT, tp=1, model="llama-3.1-70b"))
    assert "weights take" in str(compare(case, {}, []))


def table_file(folder: Path, *rows: str) -> Path:
    path = folder / "mine.csv"
    path.write_text(",".join(COLUMNS) + "\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


ROW = "mine,H100-SXM-80GB,1,1,facebook/opt-1.3b,fp16,vllm,0.11.0,100,20,concurrency=4,{},{},{}"


def test_any_table_of_that_form_can_be_validated(tmp_path: Path) -> None:
    path = table_file(
        tmp_path,
        ROW.format("ttft_mean", 20, "ms"),
        ROW.format("tpot_mean", 4, "ms"),
        ROW.format("joules", 4, "J"),
        ROW.replace("H100-SXM-80GB", "TPU v6e").format("tpot_mean", 4, "ms"),
    )
    found = validate_public(path, workers=1)
    assert (found.rows_used, len(found.excluded)) == (2, 2)
    head = found.headline()
    assert {"tpot_median_ape", "ttft_median_ape", "e2e_median_ape", "throughput_median_ape", "capacity_ape",
            "coverage_90", "rows_used", "rows_excluded"} <= set(head)  # fmt: skip
    assert head["throughput_median_ape"] is None
    assert "TPU" in " ".join(one.reason for one in found.excluded)


def test_every_public_row_is_used_or_excluded() -> None:
    folder = shared("serving")
    rows = len((folder / "published_serving.csv").read_text(encoding="utf-8").splitlines()) - 1
    public = read_public(folder)
    logged = [case for case in public.cases if case.folder]
    assert len(logged) == 1
    beside = sum(len(p.measured) for p in read_splitwise(folder / "splitwise_perf_model.csv") if p.gpu == "h100")
    from_table = rows_of([case for case in public.cases if not case.folder])
    in_log = rows + beside - from_table - len(public.excluded)
    assert in_log == 7  # the RTX 4090 rows, replayed from their request log instead
    assert all(one.reason for one in public.excluded)


def test_the_record_is_written_and_drawn(tmp_path: Path) -> None:
    found = Validation(error_table([compared(POINT), *sweep(55.0)]), capacities(sweep(55.0)),
                       (Excluded("there", 3, "ttft", "no GPU"),), 2)  # fmt: skip
    validate_report.write(found, tmp_path)
    facts = json.loads((tmp_path / "public.json").read_text())
    assert facts["headline"]["rows_excluded"] == 1
    text = (tmp_path / "public.md").read_text()
    assert "no GPU" in text
    assert "## By load" in text
    page = validation_page(found)
    assert page.count("<figure>") == 3
    assert "here/sweep" in page


def test_the_committed_record_meets_its_own_claims() -> None:
    if not (Path(__file__).parents[2] / "calibration" / "data" / "validation" / "public.json").is_file():
        pytest.skip("no validation record is committed yet: calibration validate --public writes it")
    path = validate_report.FOLDER / "public.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    head = facts["headline"]
    assert head["tpot_median_ape"] <= 5.0
    assert head["e2e_median_ape"] <= 6.0
    assert head["ttft_below_80_median_ape"] <= 15.0
    assert head["capacity_ape"] <= 5.0
    assert 85 <= head["coverage_90"] <= 95
    assert sum(row["rows"] for row in facts["excluded"]) == head["rows_excluded"]
    assert np.isfinite([row["median_ape"] for row in facts["by_source"]]).all()
