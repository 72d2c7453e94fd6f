"""A sweep that cannot be gets one line that names the value and the remedy, and exit status 2, before it computes."""

import re
import sys

import pytest

from sim.study import cli

SPACES = {
    "broken.toml": "[vary\n",
    "unknown.toml": "[varry]\ntp = [1]\n",
    "flat.toml": "vary = 3\n",
    "kind.toml": 'search = "many"\n[vary]\ntp = [1, 2]\n',
    "range.toml": "[vary]\ntp = { low = 1, hgh = 4 }\n",
    "mixed.toml": '[vary]\nstrategy = ["swift_kv:keep={keep}"]\nkeep = [8, "half"]\n',
}
CASES = [
    ("sweep", "nothing varies: give --vary"),
    ("sweep --strategy swift_kv", "nothing varies"),
    ("sweep --vary gpu", "--vary gpu: write NAME=VALUE"),
    ("sweep --vary gpu=", "gpu: no values"),
    ("sweep --vary gpus=h100", "unknown option 'gpus': did you mean 'gpu'"),
    ("sweep --vary gpu=h100,h1000 --requests 60", "unknown GPU 'h1000': did you mean 'h100'"),
    ("sweep --vary tp=1 --vary tp=2", "tp is given twice"),
    ("sweep --vary tp=one,two", "tp=one: must be a whole number"),
    ("sweep --vary tp=1,2 --tp 4", "tp is held at 4 and varied"),
    ("sweep --vary strategy=dense --strategy swift_kv", "--strategy and --vary strategy both say which"),
    ("sweep --vary tp=8..2:2", "empty range"),
    ("sweep --vary tp=1..8", "a grid needs a step"),
    ("sweep --vary max-num-seqs=1..9999:1 --vary seed=0..9999:1", "the grid has .* points"),
    ("sweep --vary slo-tpot-ms=0..1:0.0000001", "take a larger step"),
    ("sweep --strategy swift_kv:keep={keep} --vary gpu=h100", "a strategy names {keep}, and nothing varies it"),
    (
        "sweep --strategy swift_kv:keep={keep} --vary keep=90,99 --requests 60",
        "no point of this space can be; .*keep=90",
    ),
    ("sweep --vary tp=1,2 --objective speed", "unknown objective 'speed'"),
    ("sweep --vary tp=1,2 --objective max-qps --qps 3", "objective max_qps is about capacities"),
    ("sweep --vary tp=1,2 --batch 4", "--batch is about a search"),
    ("sweep --vary tp=1,2 --search 0", "--search 0: must be at least 1"),
    ("sweep --vary tp=1,2 --quality-floor 98", "--quality-floor 98: must be a share"),
    ("sweep --strategy swift_kv:keep=5 --vary tp=1,2 --quality-floor 0.9", "no plan of this space is known to keep"),
    ("sweep --vary tp=1,2 --demand-qps 0", "demand is 0.0"),
    ("sweep --vary tp=1,2 --price h100=cheap", "price h100=cheap: not a number"),
    ("sweep --vary tp=1,2 --price h101=2", "unknown GPU 'h101'"),
    ("sweep --vary tp=1,2 --price h100=-2", "gpu price is -2.0"),
    ("sweep --vary tp=1,2 --workers 0", "--workers 0: must be at least 1"),
    ("sweep --vary tp=1,2 --store /proc/nowhere", "cannot keep answers in /proc/nowhere"),
    ("sweep --vary trace=a.csv,b.csv", "no point of this space can be; .*cannot read a.csv"),
    ("sweep --space FOLDER/none.toml", "none.toml: not readable as TOML .No such file"),
    ("sweep --space FOLDER/broken.toml", "broken.toml: not readable as TOML"),
    ("sweep --space FOLDER/unknown.toml", "unknown key of a space 'varry': did you mean 'vary'"),
    ("sweep --space FOLDER/flat.toml", r"vary must be a table, \[vary\]"),
    ("sweep --space FOLDER/kind.toml", "search = 'many' is of the wrong kind; it takes int"),
    ("sweep --space FOLDER/range.toml", "did you mean 'high'"),
    ("sweep --space FOLDER/mixed.toml", "keep: numbers and words are mixed"),
]
ON_RAY = [
    ("sweep --vary tp=1,2 --ray nonsense", "--ray nonsense: say auto, HOST:PORT"),
    ("sweep --vary tp=1,2 --ray 127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1 .*ray start --head"),
    ("sweep --vary tp=1,2 --ray ray://127.0.0.1:1", "no Ray cluster answers at ray://127.0.0.1:1"),
    ("sweep --vary tp=1,2 --ray 127.0.0.1:6379 --workers 2", "--workers is for a pool"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("spaces")
    for name, text in SPACES.items():
        (made / name).write_text(text)
    return made


def refused(line, says, folder, capsys):
    argv = [word.replace("FOLDER", str(folder)) for word in line.split()]
    argv += [] if "--store" in line else ["--store", str(folder / "store")]
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(says, err), err
    assert not list(folder.rglob("*.parquet"))


@pytest.mark.parametrize(("line", "says"), CASES)
def test_one_line_and_status_2(line, says, folder, capsys):
    refused(line, says, folder, capsys)


@pytest.mark.parametrize(("line", "says"), ON_RAY)
def test_a_cluster_that_is_not_there_is_told_at_once(line, says, folder, capsys):
    pytest.importorskip("ray", reason="Ray is not installed (pip install 'elide[cluster]')")
    refused(line, says, folder, capsys)


@pytest.mark.parametrize(
    ("module", "line", "extra"),
    [("ray", "sweep --vary tp=1,2 --ray auto", "cluster"), ("optuna", "sweep --vary tp=1,2 --search 3", "search")],
)
def test_what_is_not_installed_is_named_with_its_extra(module, line, extra, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    refused(line, rf"pip install 'elide\[{extra}\]'", folder, capsys)
