"""Fits recover planted kernels, cannot fall, and reproduce the committed files; the importer says what is broken."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.cli import main
from calibration.fit_attention import fit_decode, fit_prefill
from calibration.fit_gemm import fit_gemm
from calibration.fit_kernels import fit_kernels, to_text
from calibration.fit_links import fit_all_reduce, fit_elementwise
from calibration.importers.aiconfigurator import read_all_reduce, read_attention, read_gemm, where
from calibration.monotone import hinges, never_falling, relative_nnls
from sim.cost.attention_times import DecodeTimes, PrefillTimes
from sim.cost.gemm_times import GemmTimes
from sim.cost.hardware import gpu_named
from sim.cost.measured import FOLDER, Measured
from sim.errors import InputError
from tests.data import shared

SIDES = (512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)


def noisy(ns: np.ndarray, noise: float = 0.02) -> np.ndarray:
    return ns * np.random.default_rng(5).normal(1.0, noise, ns.shape)


def planted_gemm(m: np.ndarray, n: np.ndarray, k: np.ndarray) -> np.ndarray:
    """A GPU of 100 SMs: 2 us, weights at 3 TB/s, tiles of 128 x 256 at 4 ns per step of k after 500 ns."""
    waves = np.ceil(np.ceil(m / 128) * np.ceil(n / 256) / 100)
    return 2000 + 2 * n * k / 3000 + waves * (500 + 4 * k)


def test_planted_gemm_is_recovered():
    m, n, k = (x.ravel().astype(float) for x in np.meshgrid(ROWS, SIDES, SIDES, indexing="ij"))
    ns = planted_gemm(m, n, k)
    table = fit_gemm(pl.DataFrame({"m": m, "n": n, "k": k, "ns": noisy(ns)}), sms=100)
    assert table["residuals"]["held_out"]["median"] < 0.03
    fitted = GemmTimes.read(table)
    unseen = np.array([3.0, 80.0, 300.0, 1500.0, 6000.0])
    for wide, deep in ((4608, 4096), (9216, 3584)):
        truth = planted_gemm(unseen, np.full(5, float(wide)), np.full(5, float(deep)))
        assert fitted(unseen, wide, deep)[0] == pytest.approx(truth, rel=0.08)


def test_planted_prefill_is_recovered_with_the_rate_for_context():
    """A GPU of 100 SMs on which each key step takes 1,500 ns after 9 us."""
    new, heads = (x.ravel() for x in np.meshgrid([1, 64, 256, 1024, 4096, 16384], [4, 8, 16, 32, 64], indexing="ij"))
    blocks = new / 128
    ns = 9000 + 1500 * np.maximum(blocks + 1, heads * blocks * (blocks + 1) / 2 / 100)
    rows = pl.DataFrame(
        {"rows": 1, "new": new, "context": 0, "heads": heads, "kv_heads": heads // 4, "head_dim": 128, "ns": noisy(ns)}
    )
    table = fit_prefill(rows, sms=100, splits=True)
    assert table["step_ns"] == pytest.approx(1500, rel=0.1)
    fitted = PrefillTimes.read(table)
    chunk = fitted(np.array([4096.0]), np.array([12800.0]), 32, 8, 128)[0][0]
    alone = fitted(np.array([4096.0]), np.array([0.0]), 32, 8, 128)[0][0]
    waves = np.ceil(8 * 4096 * 4 / 128 / 100)
    assert chunk - alone == pytest.approx(1500 * 100 * waves, rel=0.1)


def planted_decode(pairs: np.ndarray, context: np.ndarray) -> np.ndarray:
    return 8000 + 20 * pairs + 512 * pairs * context / 3000


def decode_rows(warm: bool) -> pl.DataFrame:
    """bf16, width 128, 50 MB of L2 from which a warm cache is read at 12 bytes per ns more."""
    count, kv, context = (
        x.ravel() for x in np.meshgrid(2 ** np.arange(0, 10), [1, 2, 4, 8], 2 ** np.arange(3, 17) - 1, indexing="ij")
    )
    ns = planted_decode(count * kv, context)
    moved = 512 * count * kv * context
    ns = np.where(warm & (moved < 50e6), ns - moved / 3000 + moved / 12000, ns)
    frame = {"rows": count, "new": 1, "context": context, "heads": 4 * kv, "kv_heads": kv, "head_dim": 128}
    return pl.DataFrame({**frame, "ns": noisy(ns)}).filter(pl.Series(moved < 4e9))


@pytest.mark.parametrize("warm", [False, True])
def test_planted_decode_is_recovered_cold_even_where_the_benchmark_was_warm(warm):
    table = fit_decode(decode_rows(warm), kv_bytes=2, l2_bytes=50e6)
    assert table["cold_bytes_per_ns"] == pytest.approx(3000, rel=0.1)
    fitted = DecodeTimes.read(table)
    rows, context = np.array([1.0, 12.0, 100.0, 500.0]), np.array([5000.0, 3000.0, 900.0, 4000.0])
    assert fitted(rows, context, 32, 8, 128)[0] == pytest.approx(planted_decode(rows * 8, context), rel=0.06)


def test_planted_all_reduce_and_addition_are_recovered(tmp_path):
    size = 2.0 ** np.arange(7, 30)
    frame = pl.DataFrame({"tp": 4, "message_bytes": size.astype(int), "ns": noisy(5000 + size / 300)})
    table = fit_all_reduce(frame)["4"]
    assert np.interp([2e4, 5e7], table["knots"], table["ns"]) == pytest.approx([5067, 171667], rel=0.05)
    tokens = np.arange(1, 4097, 64)
    path = tmp_path / "mlp.csv"
    add_ms = noisy(1500 + tokens * 4096 * 6 / 2000) / 1e6
    pl.DataFrame({"num_tokens": tokens, "n_embd": 4096, "time_stats.add.median": add_ms}).write_csv(path)
    found = fit_elementwise(path)
    assert found["ns_per_byte"] == pytest.approx(1 / 2000, rel=0.03)
    assert found["floor_ns"] == pytest.approx(2500, rel=0.1)


@given(st.lists(st.lists(st.floats(1, 1e6), min_size=4, max_size=4), min_size=2, max_size=6))
def test_a_grid_comes_back_never_falling_and_a_rising_one_unchanged(rows):
    grid = never_falling(np.array(rows))
    for axis in (0, 1):
        assert (np.diff(grid, axis=axis) >= 0).all()
    assert never_falling(grid) == pytest.approx(grid)
    assert grid.min() >= np.min(rows)
    assert grid.max() <= np.max(rows)


@given(st.lists(st.floats(0.1, 100), min_size=6, max_size=6), st.integers(0, 1000))
def test_hinges_carry_any_rising_line_exactly(steps, seed):
    knots = [1.0, 2.0, 8.0, 64.0, 100.0, 101.0]
    x = np.random.default_rng(seed).uniform(1, 101, 200)
    truth = np.interp(x, knots, np.cumsum(steps))
    found = relative_nnls(hinges(x, knots), truth, np.ones(x.shape))
    assert hinges(x, knots) @ found == pytest.approx(truth, rel=0.02)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("gpu", ["a100", pytest.param("h100", marks=SLOW), pytest.param("h200", marks=SLOW)])
def test_the_committed_coefficients_come_from_the_data_beside_us(gpu):
    """A refit answers like the committed file; coefficients themselves may differ between BLAS libraries."""
    committed = json.loads((FOLDER / f"{gpu}.json").read_text(encoding="utf-8"))
    again = json.loads(to_text(fit_kernels(gpu, shared("kernels"), date=committed["fitted"])))
    assert {k: v for k, v in again.items() if k != "ops"} == {k: v for k, v in committed.items() if k != "ops"}
    new, old = (Measured.of(facts, gpu=gpu_named(gpu)) for facts in (again, committed))
    m = np.array([1, 48, 200, 512, 2048, 8192])
    for dtype in old.gemms:
        for n, k in ((6144, 4096), (4096, 14336), (1024, 8192)):
            assert new.gemm(m, n, k, dtype)[0] == pytest.approx(old.gemm(m, n, k, dtype)[0], rel=0.05)
    for dtype in old.prefill:
        for ask in ("prefill_attention", "decode_attention"):
            ours, theirs = (getattr(times, ask)(m, 3000, 32, 8, 128, dtype)[0] for times in (new, old))
            assert ours == pytest.approx(theirs, rel=0.02)
    assert new.all_reduce(m * 8192, 4)[0] == pytest.approx(old.all_reduce(m * 8192, 4)[0], rel=0.02)
    assert new.pointwise["ns_per_byte"] == pytest.approx(old.pointwise["ns_per_byte"], rel=0.01)


def test_readers_against_the_real_tables():
    root = shared("kernels/aiconfigurator")
    files = where(root, "h200_sxm", "0.24.0")
    gemms = read_gemm(files["gemm"])
    assert set(gemms["dtype"].unique()) == {"bf16", "fp8", "fp8_block"}
    assert 2_000 < gemms["ns"].min() < 3_000
    assert read_attention(files["prefill"])["context"].max() == 0
    assert set(read_all_reduce(files["reduce"])["tp"].unique()) == {2, 4, 8}


def test_a_table_that_ignores_the_query_heads_is_refused():
    root = shared("kernels/aiconfigurator")
    with pytest.raises(InputError, match=r"0\.40 times as much with four times the query heads"):
        read_attention(where(root, "h200_sxm", "0.19.0")["prefill"])
    assert read_attention(where(root, "h100_sxm", "0.19.0")["prefill"]).height > 10_000


def test_the_folder_of_another_version_is_not_there(tmp_path, capsys):
    (tmp_path / "h200_sxm" / "vllm-0.1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no such folder; known: h200_sxm/vllm-0.1"):
        where(tmp_path, "h200_sxm", "0.2")
    assert main(["fit-kernels", "--gpu", "b100"]) == 2
    assert "unknown GPU with kernel tables 'b100'" in capsys.readouterr().err


def good(**changes) -> pl.DataFrame:
    frame = {"version": ["1"], "device": ["x"], "gemm_dtype": ["fp8"], "m": [1], "n": [2], "k": [3], "latency": [0.5]}
    return pl.DataFrame({name: value for name, value in {**frame, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"latency": None}, "lacks column latency; it has version, device"),
        ({"latency": [0.0]}, r"1 latencies are not positive, the first is 0.0 ms"),
        ({"latency": [float("nan")]}, "1 latencies are not positive"),
        ({"gemm_dtype": ["int3"]}, "1 rows of an unknown dtype; known: bfloat16, fp8"),
        ({"m": [0]}, "m = 0 must be at least 1"),
    ],
)
def test_broken_tables_are_named_with_what_is_wrong(tmp_path, changes, why):
    path = tmp_path / "gemm_perf.parquet"
    good(**changes).write_parquet(path)
    with pytest.raises(InputError, match=f"gemm_perf.parquet: {why}"):
        read_gemm(path)


def test_empty_and_truncated_files(tmp_path):
    path = tmp_path / "gemm_perf.parquet"
    good().clear().write_parquet(path)
    with pytest.raises(InputError, match="holds no rows"):
        read_gemm(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_gemm(path)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_gemm(tmp_path / "absent.parquet")


def test_points_measured_twice_become_their_median(tmp_path):
    path = tmp_path / "gemm_perf.parquet"
    pl.concat([good(latency=[x]) for x in (1.0, 2.0, 9.0)]).write_parquet(path)
    assert read_gemm(path)["ns"].to_list() == [2e6]
