"""INV-84: what may vary, and that the grid holds every combination once."""

from argparse import Namespace
from itertools import pairwise
from math import prod
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError, UnknownName
from sim.study.cli import parser
from sim.study.commands.sweep import sweep_of
from sim.study.points.axes import Choices, Range, axis_of
from sim.study.points.options import namespace_of, value_of
from sim.study.points.space import grid, parameters_of, space_of

SKIPPING = ["dense", "swift_kv:keep={keep},group={group}", "skip_decode:speedup={speedup}"]


def args_of(*argv: str) -> Namespace:
    return parser().parse_args(["sweep", *argv])


def test_a_point_has_the_defaults_of_the_capacity_command():
    of_capacity = vars(parser().parse_args(["capacity"]))
    of_point = vars(namespace_of({}))
    assert {name: value for name, value in of_point.items() if value != of_capacity.get(name)} == {"draws": 0}


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_the_grid_holds_every_combination_once(values):
    names = ["tp", "max_num_seqs", "block_tokens", "seeds"][: len(values)]
    points = list(grid(space_of(dict(zip(names, values)))))
    assert len({tuple(p.values()) for p in points}) == len(points) == prod(map(len, values))
    for name, column in zip(names, values):
        assert {p[name] for p in points} == set(column)


def test_a_parameter_varies_only_the_strategies_that_name_it():
    vary = {"strategy": SKIPPING, "keep": [8, 16], "group": [1, 4], "speedup": [1.5, 2, 3], "tp": [1, 2]}
    space = space_of(vary)
    points = list(grid(space))
    assert len(points) == 2 * (1 + 2 * 2 + 3)
    specs = [space.options_of(p)["strategy"] for p in points]
    assert len(set(specs)) == 8
    assert "swift_kv:keep=8,group=4" in specs
    assert all("{" not in spec for spec in specs)
    assert all((p["keep"] is None) == ("keep" not in p["strategy"]) for p in points)


@pytest.mark.parametrize(
    ("name", "given_", "axis"),
    [
        ("tp", "1,2", Choices((1, 2))),
        ("tp", [1, 2, 1], Choices((1, 2))),
        ("max_num_seqs", "16..64:16", Range(16, 64, 16)),
        ("max_num_seqs", "16..64:log", Range(16, 64, log=True)),
        ("slo_tpot_ms", {"low": 20, "high": 40, "step": 5}, Range(20.0, 40.0, 5.0)),
        ("keep", "8, 16", Choices((8, 16))),
        ("speedup", "1.5,2", Choices((1.5, 2))),
        ("host_overlap", "true,false", Choices((True, False))),
        ("host_overlap", [False], Choices((False,))),
        ("arrivals", "poisson,gamma:cv=2", Choices(("poisson", "gamma:cv=2"))),
        ("trace", "../a.csv,b.csv", Choices(("../a.csv", "b.csv"))),
    ],
)
def test_an_axis_reads_as_it_is_written(name, given_, axis):
    assert axis_of(name, given_) == axis


@given(st.integers(1, 50), st.integers(0, 200), st.integers(1, 30))
def test_a_range_goes_from_end_to_end_in_steps(low, more, step):
    values = Range(low, low + more + 1, step).grid("x")
    assert values[0] == low
    assert all(b - a == step for a, b in pairwise(values))
    assert low + more + 1 - step < values[-1] <= low + more + 1


def test_steps_of_a_tenth_stay_tenths():
    assert Range(0.1, 0.9, 0.1).grid("x") == tuple(i / 10 for i in range(1, 10))


@pytest.mark.parametrize(("name", "value"), [("tp", "x"), ("tp", 1.5), ("slo_tpot_ms", "soon"), ("host_overlap", 3)])
def test_a_value_that_the_command_line_would_refuse_is_refused(name, value):
    with pytest.raises(InputError, match=name):
        value_of(name, value)


@pytest.mark.parametrize(
    ("vary", "fixed", "error", "says"),
    [
        ({"gpus": ["h100"]}, {}, UnknownName, "did you mean 'gpu'"),
        ({"strategy": ["swift_kv:keep={keep}"], "kep": [8]}, {}, UnknownName, "did you mean 'keep'"),
        ({"tp": [1]}, {"max-num-sqs": 8}, UnknownName, "did you mean 'max_num_seqs'"),
        ({"tp": []}, {}, InputError, "tp: no values"),
        ({"tp": 2}, {}, InputError, "to hold it fixed"),
        ({}, {"tp": 2}, InputError, "nothing varies"),
        ({"tp": [1, 2]}, {"tp": 1}, InputError, "held at 1 and varied"),
        ({"strategy": ["swift_kv:keep={keep}"]}, {}, InputError, "nothing varies it; add --vary keep="),
        ({"strategy": ["swift_kv:keep={keep"]}, {}, InputError, "expected '}'"),
        ({"strategy": ["swift_kv:keep={}"]}, {}, InputError, "no name for a parameter"),
        ({"strategy": ["swift_kv:keep={tp}"], "tp": [8]}, {}, InputError, "no name for a parameter"),
        ({"tp": {"low": 1}}, {}, InputError, "low and high"),
        ({"tp": {"low": 4, "high": 1}}, {}, InputError, "empty range"),
        ({"tp": {"low": 1, "high": 4, "stp": 1}}, {}, UnknownName, "did you mean 'step'"),
        ({"tp": {"low": 1, "high": 4, "step": 0.5}}, {}, InputError, "whole number"),
        ({"tp": {"low": "a", "high": 4}}, {}, InputError, "low='a' is not a number"),
        ({"gpu": {"low": 1, "high": 4}}, {}, InputError, "takes no numbers"),
        ({"tp": {"low": 1, "high": 4, "step": 1, "log": True}}, {}, InputError, "logarithmic"),
    ],
)
def test_a_space_that_cannot_be_is_refused_with_the_remedy(vary, fixed, error, says):
    with pytest.raises(error, match=says):
        space_of(vary, fixed)


def test_a_grid_needs_steps_and_an_end():
    with pytest.raises(InputError, match="a grid needs a step"):
        list(grid(space_of({"tp": "1..8"})))
    with pytest.raises(InputError, match="--search"):
        list(grid(space_of({"seed": "0..1999:1", "max_num_seqs": "1..1000:1"})))


def test_a_file_and_the_command_line_describe_the_same_sweep(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text(
        'search = 20\nobjective = "gpus"\n[fixed]\nslo-tpot-ms = 30\nrequests = 500\n[vary]\ngpu = ["h100"]\n'
        'strategy = ["dense", "swift_kv"]\n[prices]\nh100 = 2\n'
    )
    of_file = sweep_of(args_of("--space", str(file), "--requests", "900"))
    of_line = sweep_of(
        args_of("--vary", "gpu=h100", "--strategy", "dense", "--strategy", "swift_kv", "--slo-tpot-ms", "30",
                "--requests", "900", "--search", "20", "--objective", "gpus", "--price", "h100=2")
    )  # fmt: skip
    assert dict(of_file.space.axes) == dict(of_line.space.axes)
    assert of_file.space.fixed == of_line.space.fixed == {"slo_tpot_ms": 30.0, "requests": 900}
    assert (of_file.search, of_file.aim, of_file.prices) == (of_line.search, of_line.aim, of_line.prices)


def test_the_documented_space_is_one(tmp_path):
    page = Path(__file__).resolve().parents[3] / "docs" / "howto-sweep-on-ray.md"
    file = tmp_path / "space.toml"
    file.write_text(page.read_text().partition("```toml\n")[2].partition("```")[0])
    sweep = sweep_of(args_of("--space", str(file)))
    assert sweep.search == 200
    assert {name for spec in sweep.space.axes["strategy"].values for name in parameters_of(spec)} < set(sweep.axes)
    assert not set(sweep.space.fixed) & set(sweep.axes)
