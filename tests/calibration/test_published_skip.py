"""Published results of skip strategies: what the simulator, fitted to none of them, must get right."""

import numpy as np
import pytest

from calibration.published_skip import Compared, adaskip_plan, author_ci, comparisons, skip_decode_reproduction
from sim.plans.catalogue import model_named


@pytest.fixture(scope="module")
def author() -> dict[str, Compared]:
    return {one.figure: one for one in author_ci()}


def test_swift_kv_gains_throughput_at_load(author: dict[str, Compared]) -> None:
    assert author["SwiftKV gain"].predicted == pytest.approx(1.37, rel=0.1)
    assert author["dense total tokens/s"].error_percent == pytest.approx(0, abs=15)


def test_swift_kv_loses_tpot_and_gains_ttft_on_a_single_stream(author: dict[str, Compared]) -> None:
    """The loss is launches: a decode step runs every layer, half of them without graphs."""
    ratio = {
        what: author[f"SwiftKV {what}, one stream (ms)"].predicted / author[f"dense {what}, one stream (ms)"].predicted
        for what in ("TTFT", "TPOT")
    }
    assert ratio["TTFT"] < 0.85
    assert 1.05 < ratio["TPOT"] < 1.6


def test_skip_decode_reproduced() -> None:
    four, eight = skip_decode_reproduction()
    assert four.predicted == pytest.approx(1.07, rel=0.03)
    assert eight.predicted == pytest.approx(1.15, rel=0.03)


def test_what_no_layer_takes_decides_skip_decodes_gain() -> None:
    """The published gain lies between those with little and with much of generate's Python between two steps."""
    fast, slow = (skip_decode_reproduction(step_ms)[1].predicted for step_ms in (1.0, 4.0))
    assert fast > 1.15 > slow


def test_adaskips_budget_starts_one_layer_down_and_rounds_down() -> None:
    plan = adaskip_plan(model_named("llama-3.1-8b"), 8)
    layers = (plan.decode > 0).sum(axis=1)
    layers = np.concatenate([layers, np.full(512 - layers.size, layers[-1])])  # the table's last row stays
    assert layers[0] == 31
    assert layers[-1] == 24
    assert (np.diff(layers) <= 0).all()
    assert layers.mean() == pytest.approx(27, abs=0.05)
    assert (plan.prompt > 0).all()


def test_every_deviation_is_explained() -> None:
    rows = comparisons()
    assert len(rows) >= 18
    assert all(row.why for row in rows)
    assert all(row.published > 0 and row.predicted > 0 for row in rows)
