"""INV-68, INV-69: sketches, days of traffic, and fleets in cells."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.cells import Cells, merged
from sim.run.cluster import Fleet, Group
from sim.run.fleet_result import FleetResult
from sim.run.sketch import ACCURACY, Exact, Sketch
from sim.study.fleet_day import through_the_day
from sim.workload.stream import DAY_S, Day

values = st.lists(st.floats(1e-3, 1e7), min_size=1, max_size=300).map(np.array)


def sketched(parts: list[np.ndarray]) -> Sketch:
    whole = Sketch()
    for part in parts:
        one = Sketch()
        one.add(part, np.arange(part.size))
        whole.merge(one)
    return whole


@given(values)
def test_a_sketch_is_within_its_accuracy(found: np.ndarray) -> None:
    """INV-68: of the order statistic at the quantile's rank."""
    spread = sketched([found]).spread()
    for q in (50, 90, 99):
        exact = np.sort(found)[int(q / 100 * (found.size - 1))]
        assert spread[f"p{q}"] == pytest.approx(exact, rel=1.01 * ACCURACY)
    assert spread["mean"] == pytest.approx(found.mean())


@given(st.lists(values, min_size=1, max_size=5))
def test_a_sketch_is_the_sum_of_its_parts(parts: list[np.ndarray]) -> None:
    """INV-68: in whatever order they are merged."""
    whole = sketched([np.concatenate(parts)]).spread()
    for order in (parts, parts[::-1]):
        assert sketched(order).spread() == pytest.approx(whole, nan_ok=True)


def test_values_that_are_none_are_left_out() -> None:
    for kind in (Sketch(), Exact()):
        assert np.isnan(kind.spread()["p50"])
        kind.add(np.array([np.nan, 0.0]), np.array([0, 1]))
        assert kind.spread()["p50"] == 0.0


def test_a_day_is_a_poisson_process_that_swings() -> None:
    day = Day("azure-conv", qps=2.0, swing=0.6, seed=5)
    assert day.expected == pytest.approx(2.0 * DAY_S)
    times = np.concatenate([work.arrival_ns for work in day.windows()])
    assert (np.diff(times) >= 0).all()
    assert abs(times.size - day.expected) < 4 * np.sqrt(day.expected)
    by_hour = np.bincount(times // (3600 * 10**9), minlength=24)
    at = np.arange(24) + 0.5
    rate = 2.0 * 3600 * (1 - 0.6 * np.cos(2 * np.pi * at / 24))
    assert (np.abs(by_hour - rate) < 5 * np.sqrt(rate) + 0.01 * rate).all()
    first = next(day.windows())
    assert np.array_equal(first.prompt_tokens, next(Day("azure-conv", 2.0, 1.0, 0.6, seed=5).windows()).prompt_tokens)


def cells_of(cells: int, router: str) -> Cells:
    model = model_named("llama-3.1-8b")
    group = Group("l4", Deployment(model, gpu_named("l4"), weights="fp8"), strategy_named("dense", model), 5)
    return Cells(Fleet([group], router=router), Day("azure-conv", qps=6.0, hours=0.1, swing=0.0, window_s=60), cells)


def figures(result: FleetResult) -> dict[str, object]:
    return {k: v for k, v in result.summary().items() if k not in ("wall_s", "ttft_ms", "tpot_ms", "e2e_ms")}


@pytest.mark.parametrize("router", ["round_robin", "random"])
def test_cells_are_one_fleet_where_the_router_does_not_look(router: str) -> None:
    """INV-69."""
    one = cells_of(1, router).run(0)
    several = cells_of(3, router)
    three = merged([several.run(i) for i in range(3)], 0.0)
    assert three.replicas.drop("gpu_hours", "down_ns", "busy_share").equals(
        one.replicas.drop("gpu_hours", "down_ns", "busy_share")
    )  # a cell's lives end with its own last request
    for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
        assert three.summary()[metric] == pytest.approx(one.summary()[metric], rel=1e-9)


def test_processes_change_nothing() -> None:
    """INV-69."""
    cells = cells_of(2, "p2c")
    assert repr(figures(through_the_day(cells, workers=2))) == repr(figures(through_the_day(cells, workers=1)))


def test_sketched_and_exact_runs_agree() -> None:
    cells = cells_of(1, "least")
    sketch = cells.run(0).summary()
    like = next(cells.day.windows())
    exact = cells.fleet.serve(cells._batches(0), like=like, exact=True).summary()
    assert sketch["completed"] == exact["completed"]
    for metric in ("ttft_ms", "tpot_ms"):
        for q in ("p50", "p90"):
            assert sketch[metric][q] == pytest.approx(exact[metric][q], rel=0.02)  # type: ignore[index]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Day("azure-conv", qps=0.0), "qps"),
        (lambda: Day("azure-conv", qps=1.0, swing=2.0), "swing"),
        (lambda: cells_of(9, "random"), "9 cells for 5 replicas"),
    ],
)
def test_what_no_day_can_be_is_refused(make, says) -> None:
    with pytest.raises(InputError, match=says):
        make()
