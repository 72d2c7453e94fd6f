"""Pictures of a fleet: every replica that is there is drawn once, in its strategy's look; no label is cut off."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from sim.study.fleet_policies import DEGRADE
from sim.study.pictures.fleet import LADDER, fleet_timeline, policy_map
from sim.study.pictures.style import styles

STRATEGIES = {"good": "dense", "fast": "swift_kv:keep=16", "last": "swift_kv+skip_decode:speedup=2"}
COUNTS = st.lists(st.tuples(*[st.integers(0, 5)] * 6), min_size=1, max_size=8)


@given(COUNTS)
def test_layers_add_up_to_the_replicas_that_are_there(looks: list[tuple[int, ...]]) -> None:
    rows = [
        (float(t), group, look[2 * i], look[2 * i + 1], 3, 1)
        for t, look in enumerate(looks)
        for i, group in enumerate(STRATEGIES)
    ]
    names = ["time_s", "group", "serving", "changing", "outstanding", "waiting"]
    watch = pl.DataFrame(rows, schema=names, orient="row")
    figure = fleet_timeline(watch, STRATEGIES)
    layers = [trace for trace in figure.data if trace.stackgroup]
    there = [sum(look) for look in looks]
    assert [sum(column) for column in zip(*(layer.y for layer in layers))] == (there if any(there) else [])
    looked = styles(STRATEGIES.values())
    for group, strategy in STRATEGIES.items():
        drawn = [layer for layer in layers if layer.name.startswith(f"{group}:")]
        assert len(drawn) == bool(watch.filter(group=group)["serving"].sum())
        assert all(layer.fillcolor == looked[strategy].colour for layer in drawn)
    shapes = [layer.fillpattern.shape for layer in layers if layer.name != "starting or draining"]
    assert len(set(shapes)) == len(shapes)  # told apart without colours


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=3))
def test_policies_lie_within_the_axes_with_room_for_their_figures(places: list[tuple[float, float]]) -> None:
    policies = pl.DataFrame(
        {
            "policy": [*list(STRATEGIES.values())[:2], DEGRADE],
            "skipped_share": [x for x, _ in places],
            "slo_met_share": [y for _, y in places],
        }
    )
    figure = policy_map(policies)
    (left, right), (low, high) = figure.layout.xaxis.range, figure.layout.yaxis.range
    for trace, (x, y) in zip(figure.data, places):
        assert left < x <= right - 0.1 * (right - left)
        assert low < y < high
        assert (trace.x[0], trace.y[0]) == (x, y)
    assert figure.data[-1].name == LADDER
