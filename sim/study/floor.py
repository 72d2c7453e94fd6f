"""A floor under quality: which strategies keep it, which one to take, and which none beats in both cost and quality."""

import polars as pl

from sim.errors import InputError
from sim.study.numerals import percent
from sim.study.pictures.style import label
from sim.study.quality import NOT_MEASURED, said


def check_floor(floor: float | None) -> float | None:
    """The floor; raises InputError for what is no share of the dense model's score."""
    if floor is not None and not 0 < floor <= 1:
        raise InputError(f"--quality-floor {floor:g}: must be a share of dense's score, above 0 and at most 1")
    return floor


def keeps(quality: float | None, floor: float | None) -> bool | None:
    """Whether a quality is at or above the floor; one that nobody measured is not. None without a floor."""
    return None if floor is None else quality is not None and quality >= floor


def cell(quality: float | None, how: str | None, floor: float | None) -> str:
    """The quality for a table, with a ✗ where it does not keep the floor: "0.970 ✗ (published, distilled)"."""
    mark = " ✗" if keeps(quality, floor) is False else ""
    if quality is None:
        return NOT_MEASURED + mark
    figure, bracket, rest = said(quality, how).partition(" (")
    return figure + mark + bracket + rest


def recommendation(rows: pl.DataFrame, floor: float | None) -> str:
    """One sentence: the strategy with the fewest GPUs that keeps the floor, and what was left out; "" without a floor.

    Of strategies that need equally many GPUs it is the one with the larger capacity.
    """
    if floor is None:
        return ""
    able = rows.drop_nulls("gpus").sort("gpus", "max_qps_per_gpu", descending=[False, True])
    kept = able.filter(pl.col("quality").is_not_null() & (pl.col("quality") >= floor))
    out = rows.filter(pl.col("quality").is_null() | (pl.col("quality") < floor))
    left = ", ".join(f"{label(r['strategy'])} ({said(r['quality'], None)})" for r in out.iter_rows(named=True))
    tail = f"; left out: {left}" if left else ""
    if kept.is_empty():
        return f"no strategy with a capacity keeps {percent(floor)} of the dense model's quality{tail}"
    best = kept.row(0, named=True)
    quality = said(best["quality"], best["quality_how"])
    return (
        f"with at least {percent(floor)} of the dense model's quality: {label(best['strategy'])},"
        f" {best['gpus']} GPUs, quality {quality}{tail}"
    )


def pareto(rows: pl.DataFrame) -> pl.DataFrame:
    """Strategies with a cost and a quality, cheapest first; `unbeaten` where none is both cheaper and as good.

    Columns: strategy, dollars_per_million_output_tokens, max_qps_per_gpu, quality, quality_low, quality_high,
    quality_how, unbeaten. What is equally cheap and good does not beat.
    """
    cost = "dollars_per_million_output_tokens"
    known = rows.drop_nulls(["quality", cost]).select(
        "strategy", cost, "max_qps_per_gpu", "quality", "quality_low", "quality_high", "quality_how"
    )
    points = list(zip(known[cost].to_list(), known["quality"].to_list()))
    beaten = [any((c <= x and q >= y) and (c < x or q > y) for c, q in points) for x, y in points]
    return known.with_columns(pl.Series("unbeaten", [not b for b in beaten], dtype=pl.Boolean)).sort(cost)
