"""Bad input gets one line that names the value and the remedy, and exit status 2; never a traceback."""

import json
import pickle
import re
import subprocess
import sys

import pytest

from sim.errors import UnknownName
from sim.study import cli

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
FILES = {
    "letters.csv": AZURE + "2023-11-16 18:17:03.97,abc,5\n",
    "nan.csv": AZURE + "2023-11-16 18:17:03.97,NaN,5\n",
    "zero.csv": AZURE + "2023-11-16 18:17:03.97,5,0\n",
    "empty.csv": "",
    "header.csv": AZURE,
    "negative.jsonl": '{"timestamp": 0, "input_length": -3, "output_length": 5, "hash_ids": []}\n',
    "unsorted.csv": AZURE + "2023-11-16 18:17:04.0,10,5\n2023-11-16 18:17:03.0,10,5\n",
    "other.csv": "name,age\nann,3\n",
    "huge.csv": AZURE + "2023-11-16 18:17:03.0,200000,5\n",
    "other.json": '{"engine": "vllm", "versions": []}',
    "timeless.csv": "input_tokens,output_tokens\n10,5\n20,5\n",
}
CASES = [
    ("study --workers 0 --requests 100", "--workers 0: must be at least 1"),
    ("simulate --model llama-9-8b", r"unknown model 'llama-9-8b': did you mean 'llama-\S+8b'"),
    ("simulate --model ./nowhere", "nowhere"),
    ("simulate --gpu h1000", "did you mean 'h100'"),
    ("simulate --gpu h999", "unknown GPU 'h999': .*known: a100-40"),
    ("simulate --strategy warp_drive", "unknown strategy 'warp_drive'"),
    ("simulate --strategy swiftkv", "did you mean 'swift_kv'"),
    ("simulate --strategy skip_decode:max_budget=33", "max_budget=33 must be a whole number in 2..32"),
    ("simulate --strategy swift_kv:keep=0", "keep=0 must be a whole number in 1..32"),
    ("simulate --strategy swift_kv:group=3", "group=3 must divide the 16 layers"),
    ("simulate --strategy skip_decode:speed=2", "speedup"),
    ("simulate --policy fifo", "unknown policy 'fifo'"),
    ("simulate --source magic", "unknown source of kernel times 'magic'"),
    ("simulate --gpu l4 --source measured", "no measured kernel times for l4"),
    ("simulate --tp 3", "tp=3"),
    ("simulate --weights int4", "unknown weights dtype 'int4'"),
    ("simulate --memory-utilization 1.5", "memory_utilization=1.5"),
    ("simulate --max-num-seqs 0", "max_num_seqs=0"),
    ("simulate --max-num-batched-tokens 8 --max-num-seqs 9", "max_num_batched_tokens=8 is below max_num_seqs=9"),
    ("simulate --max-num-batched-tokens 0", "max_num_batched_tokens=0"),
    ("simulate --max-num-batched-tokens -8", "max_num_batched_tokens=-8"),
    ("simulate --engine vlm", "unknown engine 'vlm': did you mean 'vllm'"),
    ("simulate --engine vllm:0.11", "engine 'vllm:0.11': write name-version"),
    ("simulate --engine FOLDER/none.json", "none.json: not an engine profile"),
    ("simulate --engine FOLDER/other.json", "other.json: not an engine profile"),
    ("simulate --frontend-request-ns -1", "request_ns=-1"),
    ("simulate --host-step-ns -1", "step_ns=-1"),
    ("simulate --requests 0", "requests is 0"),
    ("simulate --requests many", "invalid int value: 'many'"),
    ("simulate --qps -1", "qps is -1.0"),
    ("simulate --qps nan", "qps is nan"),
    ("simulate --prompt-tokens 0 --output-tokens 5", "length 0"),
    ("simulate --prompt-tokens -4 --output-tokens 5", "length -4"),
    ("simulate --prompt-tokens 100", "--prompt-tokens and --output-tokens come together"),
    ("simulate --prompt-tokens 10 --output-tokens 5 --range-ratio 2", "range ratio 2"),
    ("simulate --workload azure-chat", "unknown workload 'azure-chat': did you mean 'azure-c"),
    ("simulate --workload azure-conv --trace x.csv", "--trace and --workload both say what is asked"),
    ("simulate --arrivals weekly", "unknown arrival process 'weekly'"),
    ("simulate --arrivals gamma", "write gamma:cv=NUMBER"),
    ("simulate --concurrency 0", "concurrency is 0"),
    ("simulate --concurrency 2 --qps 3", "--concurrency is a closed loop"),
    ("simulate --seed -1", "--seed -1"),
    ("simulate --limit 5", "--limit and --sort are about a --trace"),
    ("simulate --oversized drop", "--oversized drop: say error or refuse"),
    ("simulate --slo-ttft-ms 0", "ttft_ms=0.0: must be positive"),
    ("simulate --slo-tpot-ms nan", "tpot_ms=nan"),
    ("simulate --slo-percentile 0", "percentile=0.0"),
    ("simulate --prompt-tokens 131000 --output-tokens 100", "exceeds the context of 131072 tokens"),
    ("simulate --model llama-3.1-70b", "leaves no KV memory; raise --tp"),
    ("simulate --num-gpu-blocks 10", "exceeds KV memory, which holds 160 tokens"),
    ("simulate --html /proc/nowhere/x.html --requests 20", "cannot write /proc/nowhere/x.html"),
    ("simulate --requests-out /proc/nowhere/x --requests 20", "cannot write /proc/nowhere/x"),
    ("simulate --modell x", "unrecognized arguments: --modell"),
    ("simulate --trace FOLDER/letters.csv", "letters.csv, line 2, column 'ContextTokens', value 'abc'"),
    ("simulate --trace FOLDER/nan.csv", "nan.csv, line 2, .*value 'NaN'"),
    ("simulate --trace FOLDER/zero.csv", "zero.csv, line 2, .*value '0'"),
    ("simulate --trace FOLDER/empty.csv", "empty.csv is empty"),
    ("simulate --trace FOLDER/header.csv", "at least one request"),
    ("simulate --trace FOLDER/negative.jsonl", "negative.jsonl, line 1, .*value '-3'"),
    ("simulate --trace FOLDER/unsorted.csv", "--sort"),
    ("simulate --trace FOLDER/other.csv", "no trace format has these columns: name, age"),
    ("simulate --trace FOLDER/huge.csv", "exceeds the context"),
    ("simulate --trace FOLDER/timeless.csv", "need a rate; give --qps"),
    ("simulate --trace FOLDER/none.csv", "cannot read .*none.csv"),
    ("simulate --trace FOLDER", "is a directory"),
    ("simulate --trace FOLDER/binary", "binary"),
    ("simulate --trace FOLDER/letters.csv --limit 0", "letters.csv"),
    ("capacity --requests 60 --slo-ttft-ms 1 --slo-tpot-ms 1", "no load meets TTFT ≤ 1 ms and TPOT ≤ 1 ms"),
    ("capacity --requests 60 --demand-qps 0", "demand is 0.0"),
    ("capacity --requests 60 --seeds 0", "--seeds 0: must be 1 to 10"),
    ("capacity --requests 60 --tolerance 0", "tolerance is 0.0"),
    ("capacity --requests 60 --arrivals offline", "has no rate to search for"),
    ("capacity --requests 60 --draws 1", "draws=1: an interval needs 2 or more"),
    ("simulate --requests 60 --draws -2", "draws=-2"),
    ("study --requests 60 --workers 1 --draws 1", "draws=1"),
    (
        "capacity --requests 2000 --slo-percentile 99.99 --slo-ttft-ms 200",
        r"no load meets TTFT ≤ 200 ms .* for 99.99 % of requests: .* \(p99.99\) for a request alone",
    ),
    ("study --requests 60 --gpu-price -2", "gpu price is -2.0"),
    ("study --requests 60 --demand-qps nan", "demand is nan"),
    ("study --requests 60 --strategy nonsense", "unknown strategy 'nonsense'"),
    ("study --requests 60 --workers 1 --slo-ttft-ms 1 --slo-tpot-ms 1", "no load meets"),
    ("plan --model nobody", "unknown model 'nobody'"),
    ("plan --strategy swift_kv+", "unknown strategy ''"),
    ("report FOLDER", "holds no saved study"),
    ("report", "the following arguments are required: DIR"),
    ("", "COMMAND"),
    ("dance", "invalid choice: 'dance'"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bad")
    for name, text in FILES.items():
        (made / name).write_text(text)
    (made / "binary").write_bytes(bytes(range(256)) * 40)
    return made


@pytest.mark.parametrize(("line", "says"), CASES)
def test_one_line_and_status_2(line, says, folder, capsys):
    status = cli.main([word.replace("FOLDER", str(folder)) for word in line.split()])
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(says, err), err


@pytest.mark.parametrize(
    "line", ["simulate --gpu h999", "simulate --trace FOLDER/letters.csv --json", "simulate --tp x"]
)
def test_the_same_from_a_shell(line, folder):
    argv = [word.replace("FOLDER", str(folder)) for word in line.split()]
    done = subprocess.run([sys.executable, "-m", "sim", *argv], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_saved_study_that_is_broken_is_named(folder, capsys):
    (folder / "study.json").write_text(json.dumps({}))
    assert cli.main(["report", str(folder)]) == 2
    assert "save it again" in capsys.readouterr().err
    (folder / "study.json").unlink()


def test_an_unknown_name_survives_the_way_from_a_worker():
    error = UnknownName("GPU", "h999", ["h100", "h200"])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is UnknownName
    assert str(again) == str(error)
