"""Operations one by one: their counts are the model's, their times lie under the roofline that they are drawn on."""

import polars as pl
import pytest

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.times import times_for
from sim.plans.catalogue import model_named
from sim.study.operations import ATTENTION, CONTEXT, GEMM, operations


@pytest.mark.parametrize(("model", "gpu", "tp"), [("llama-3.1-8b", "h200", 1), ("llama-2-7b", "a100-80", 2),
                                                  ("opt-1.3b", "l40s", 1)])  # fmt: skip
def test_counts_are_those_of_the_model(model: str, gpu: str, tp: int) -> None:
    shape = model_named(model)
    frame = operations(Deployment(shape, gpu_named(gpu), tp=tp), times_for(gpu))
    one = frame.filter(pl.col("rows") == 1, pl.col("kind") == GEMM)
    head = pl.col("operation") == "LM head"
    layer = one.filter(~head)["flops"].sum() * tp
    assert layer == pytest.approx(2 * shape.p_layer)
    assert one.filter(head)["flops"].item() * tp == pytest.approx(2 * shape.p_head, rel=tp / shape.vocab)
    decode = frame.filter(pl.col("kind") == ATTENTION, pl.col("operation").str.starts_with("decode"))
    per_row = (decode["bytes"] / decode["rows"]).unique()
    assert len(per_row) == 1  # keys and values are private traffic
    assert per_row.item() * tp == pytest.approx(CONTEXT * shape.kv_bytes_per_token_layer(), rel=0.01)


def test_no_operation_beats_the_roofline_that_prices_it() -> None:
    gpu = gpu_named("l40s")
    frame = operations(Deployment(model_named("llama-3.1-8b"), gpu), times_for("l40s", source="roofline"))
    least_ns = pl.max_horizontal(pl.col("bytes") / gpu.bandwidth_bytes_per_s, pl.col("flops") / gpu.flops("bf16")) * 1e9
    assert frame.filter(pl.col("ns") < 0.999 * least_ns, pl.col("kind") == GEMM).is_empty()
    assert not frame["measured"].any()


def test_measured_products_stay_within_the_datasheet() -> None:
    gpu = gpu_named("h200")
    frame = operations(Deployment(model_named("llama-3.1-8b"), gpu), times_for("h200")).filter(pl.col("kind") == GEMM)
    assert (frame["flops"] / frame["ns"] * 1e9).max() < gpu.flops("bf16")
    assert frame["ns"].min() > 0
