"""INV-44. A fleet's intervals: draws never move a figure, more doubt is no less width, and none drawn says so."""

import json

import numpy as np
import pytest

from sim.study import cli
from sim.study.fleet_intervals import LATENCIES, POLICIES, RATES
from sim.study.fleet_traffic import Whole, traffic_again, traffic_of
from sim.study.html import heading_of
from tests.sim.study.test_cli import assert_documented

SMALL = ["fleet", "--requests", "300", "--qps", "40", "--replicas", "2", "--json"]
WAYS = [
    [],
    ["--autoscale", "load=10", "--startup-s", "2"],
    ["--disaggregate", "1:1", "--strategy", "swift_kv"],
    ["--group", "good=1:dense", "--group", "fast=1xh100:swift_kv", "--mtbf-h", "0.01", "--repair-s", "1"],
    ["--policy", "degrade", "--rung", "dense", "--rung", "swift_kv", "--climb", "5", "--descend", "1"],
    ["--hours", "0.003", "--cells", "2"],
]


@pytest.fixture
def fleet(capsys):
    """Runs the command, which must succeed; returns its answer."""

    def run(*argv):
        assert cli.main([*SMALL, *argv]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def plain(answer):
    """The answer without intervals, and without what a clock measured."""
    if isinstance(answer, dict):
        ends = ("_low", "_high", "_shares")
        return {k: plain(v) for k, v in answer.items() if not k.endswith(ends) and k not in ("draws", "wall_s")}
    return [plain(one) for one in answer] if isinstance(answer, list) else answer


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0] if way else "plain")
def test_draws_widen_and_never_move_a_figure(fleet, way):
    none, some = (fleet(*way, "--draws", draws) for draws in "02")
    assert (none["draws"], some["draws"]) == (0, 2)
    assert plain(none) == plain(some) == plain(fleet(*way, "--draws", "3"))
    assert "_low" not in json.dumps(none)
    assert_documented("fleet", some)
    of_latencies = [(some[f"{m}_ms"], q) for m in LATENCIES for q in ("p50", "p90", "mean")]
    of_policies = [(row, name) for row in some.get("policies", ()) for name in POLICIES]
    for figures, name in [*((some, rate) for rate in RATES), *of_latencies, *of_policies]:
        assert figures[f"{name}_low"] <= figures[name] * (1 + 1e-9), name
        assert figures[f"{name}_high"] >= figures[name] * (1 - 1e-9), name
    for figures, name in of_latencies:  # servers scatter in all of them
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"], name
        assert sum(figures[f"{name}_shares"].values()) == pytest.approx(1)
        assert min(figures[f"{name}_shares"].values()) > 0


def test_replicas_that_stay_are_as_many_under_every_draw(fleet):
    answer = fleet("--draws", "2")
    assert [answer[f"mean_gpus{end}"] for end in ("_low", "", "_high")] == pytest.approx([2, 2, 2])


@pytest.mark.parametrize(("draws", "says"), [("0", "No intervals are given"), ("2", "90 % intervals, from 2 draws")])
def test_the_page_and_the_terminal_say_how_well_figures_are_known(draws, says, capsys, tmp_path):
    page = tmp_path / "fleet.html"
    argv = [part for part in SMALL if part != "--json"]
    assert cli.main([*argv, "--draws", draws, "--html", str(page)]) == 0
    assert says in capsys.readouterr().out
    assert says in page.read_text()
    assert heading_of("mean_gpus") in page.read_text()


def test_intervals_come_unasked_where_there_are_few_requests(fleet, monkeypatch):
    monkeypatch.setattr("sim.study.fleet_intervals.DRAWS", 2)
    assert fleet()["draws"] == 2
    monkeypatch.setattr("sim.study.fleet_intervals.MOST", 300)
    assert fleet()["draws"] == 0


@pytest.mark.parametrize("draws", ["1", "-1"])
def test_a_number_of_draws_that_makes_no_interval_is_one_clear_line(draws, capsys):
    assert cli.main([*SMALL, "--draws", draws]) == 2
    assert capsys.readouterr().err.startswith(f"error: draws={draws}")


def test_a_recorded_trace_is_drawn_again_in_blocks_at_its_own_rate(tmp_path):
    trace = tmp_path / "trace.csv"
    times = np.cumsum(np.random.default_rng(7).exponential(0.1, 400))
    lines = [f"{time:.6f},{100 + number},{1 + number % 50}" for number, time in enumerate(times)]
    trace.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *lines]))
    args = cli.parser().parse_args(["fleet", "--trace", str(trace)])
    first = traffic_of(args)
    args.seed = 5
    again, once_more = traffic_again(args, first), traffic_again(args, first)
    assert isinstance(first, Whole)
    assert isinstance(again, Whole)
    assert again.work.prompt_tokens.tolist() == once_more.work.prompt_tokens.tolist()  # type: ignore[union-attr]
    assert again.work.prompt_tokens.tolist() != first.work.prompt_tokens.tolist()
    assert set(again.work.prompt_tokens) <= set(first.work.prompt_tokens)
    assert len(again.work) == len(first.work)
    assert again.lasts_s == pytest.approx(first.lasts_s)
