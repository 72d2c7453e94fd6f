"""`fleet`: exit status, JSON that is documented, files that are written, and one clear line for what makes no sense."""

import json

import polars as pl
import pytest

from sim.study import cli
from tests.browser import ask
from tests.sim.study.test_cli import assert_documented

SMALL = ["fleet", "--requests", "200", "--qps", "30", "--replicas", "2"]


@pytest.fixture
def fleet(capsys):
    """Runs the command, which must succeed; returns what it wrote on standard output."""

    def run(*argv):
        status = cli.main([*SMALL, *argv])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out

    return run


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--disaggregate", "1:1", "--strategy", "swift_kv"],
        ["--group", "good=1:dense", "--group", "fast=1xh100:swift_kv", "--class", "paid=0.5:good",
         "--class", "free=0.5:fast>good", "--spill", "20", "--shed", "90", "--class-slo", "paid=500/30"],
        ["--autoscale", "load=10", "--startup-s", "2", "--fail", "2:0:1", "--drain", "3:1", "--mtbf-h", "0.01"],
        ["--hours", "0.01", "--cells", "2", "--router", "p2c"],
    ],
)  # fmt: skip
def test_fleet_says_what_is_documented(fleet, options):
    answer = json.loads(fleet("--json", *options))
    assert_documented("fleet", answer)
    total = sum(answer[name] for name in ("completed", "refused", "shed", "unserved"))
    assert answer["requests"] == total > 0


def test_degrading_is_compared_and_reported(fleet, tmp_path):
    page, requests = tmp_path / "fleet.html", tmp_path / "requests.parquet"
    answer = json.loads(
        fleet("--json", "--policy", "degrade", "--rung", "dense", "--rung", "swift_kv", "--climb", "5", "--descend",
              "1", "--quality", "dense=1", "--quality", "swift_kv=0.98", "--html", str(page), "--requests-out",
              str(requests), "--replicas-out", str(tmp_path / "replicas.parquet"))
    )  # fmt: skip
    assert_documented("fleet", answer)
    assert [row["policy"] for row in answer["policies"]] == ["dense", "swift_kv:keep=16", "degrade"]
    dense, swift, degrade = answer["policies"]
    assert (dense["mean_quality"], swift["mean_quality"]) == (1.0, pytest.approx(0.98))
    assert 0.98 <= degrade["mean_quality"] <= 1.0
    assert sum(row["requests"] for row in answer["served"]) == answer["completed"] == 200
    assert "Is it worth skipping only under load?" in page.read_text()
    assert len(pl.read_parquet(requests)) == 200


@pytest.mark.parametrize(
    "options",
    [
        ["--autoscale", "load=10", "--startup-s", "2"],
        ["--policy", "degrade", "--rung", "dense", "--rung", "swift_kv", "--climb", "5", "--descend", "1"],
    ],
)
def test_the_page_draws_without_a_complaint(fleet, options, tmp_path):
    page = tmp_path / "fleet.html"
    fleet(*options, "--draws", "0", "--html", str(page))
    script = "return document.querySelectorAll('.plot .main-svg').length"
    drawn, problems = ask(page.read_text(), script, tmp_path)
    assert problems == []
    assert drawn > 0


def test_fleet_says_its_answer_in_words(fleet):
    out = fleet("--policy", "degrade", "--rung", "dense", "--rung", "swift_kv")
    assert "one policy against the other" in out
    assert "not measured" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--router", "rr"], "unknown router 'rr'"),
        (["--group", "four"], "--group four: write NAME=N"),
        (["--class", "a=x"], "the share is 'x'"),
        (["--class", "a=1:nobody"], "unknown group of class 'a': 'nobody'"),
        (["--class", "a=1:all>all"], "--spill"),
        (["--class-slo", "b=1/2"], "no --class declares"),
        (["--autoscale", "load"], "the target is ''"),
        (["--autoscale", "speed=3"], "unknown autoscaling signal"),
        (["--fail", "3"], "--fail 3: write AT_S:REPLICA"),
        (["--fail", "3:9"], "outage of replica 9"),
        (["--disaggregate", "1"], "--disaggregate 1: write P:D"),
        (["--disaggregate", "1:1", "--fail", "1:0"], "failures of disaggregated replicas"),
        (["--policy", "degrade", "--rung", "dense"], "at least two rungs"),
        (["--policy", "degrade", "--rung", "dense", "--rung", "dense"], "two rungs of the ladder are one plan"),
        (["--policy", "degrade", "--climb", "1", "--descend", "2"], "down < up"),
        (["--hours", "1", "--trace", "x.csv"], "--hours draws its own traffic"),
        (["--cells", "2"], "--cells divides a day of traffic"),
        (["--replicas", "0"], "at least one replica"),
        (["--shed", "0"], "--shed 0"),
        (["--quality", "dense=good"], "--quality dense=good"),
        (["--quality", "swift_kv=1"], "no replica runs that"),
        (["--link-gb-per-s", "0", "--disaggregate", "1:1"], "link of 0"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(options, says, capsys):
    assert cli.main([*SMALL, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
