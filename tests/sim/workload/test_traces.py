"""Trace readers: the public files, every format on a row of its own, and conservation of rows."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.workload.arrivals import Offline, Poisson
from sim.workload.traces import read_trace
from tests.data import shared

PUBLIC = {
    "AzureLLMInferenceTrace_code.csv": (8_819, 2_047.85, 27.88),
    "AzureLLMInferenceTrace_conv.csv": (19_366, 1_154.70, 211.13),
    "mooncake_conversation.jsonl": (12_031, None, None),
    "mooncake_synthetic.jsonl": (3_993, None, None),
    "BurstGPT_v1v2.readme_rows.csv": (3, 658.67, 174.67),
    "BurstGPT_v3.readme_rows.csv": (4, None, None),
    "sharegpt-llama-3.1-8b-300-sps10.lengths.jsonl": (300, None, None),
    "splitwise_test_trace.csv": (3, 8192 / 3, 56 / 3),
    "vidur_arxiv_summarization.csv": (28_257, 2_588.08, 291.43),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_traces_are_read_whole(name):
    rows, prompt, output = PUBLIC[name]
    w = read_trace(shared(f"traces/{name}"), arrivals=Poisson(2.0))
    assert len(w) == rows
    assert w.failed == 0
    assert w.arrival_ns[0] == 0
    if prompt:
        assert w.prompt_tokens.mean() == pytest.approx(prompt, abs=0.01)
        assert w.output_tokens.mean() == pytest.approx(output, abs=0.01)


def test_azure_ticks_are_exact():
    w = read_trace(shared("traces/AzureLLMInferenceTrace_conv.csv"))
    assert w.arrival_ns[1] == 4_314_579_000  # 18:15:50.9951690 - 18:15:46.6805900
    assert (w.prompt_tokens[1], w.output_tokens[1]) == (396, 109)


@pytest.mark.parametrize("name", ["mooncake_conversation.jsonl", "mooncake_synthetic.jsonl"])
def test_mooncake_blocks_are_dense_and_keep_their_identity(name):
    path = shared(f"traces/{name}")
    w = read_trace(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert np.array_equal(w.arrival_ns, [(r["timestamp"] - rows[0]["timestamp"]) * 10**6 for r in rows])
    used = np.unique(w.hash_ids)
    assert np.array_equal(used, np.arange(used.size))
    pairs = {(a, b) for row, ids in zip(rows, w.hashes()) for a, b in zip(row["hash_ids"], ids.tolist())}
    assert len(pairs) == used.size == len({a for a, _ in pairs})


ROWS = {  # format name: header, two rows one and a half seconds apart, both (30, 7) then (40, 8)
    "Azure 2023/2024": (
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:17:03.9799600,30,7\r\n2023-11-16 18:17:05.4799600,40,8",
    ),
    "Azure 2023/2024 zone": (
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2024-05-12 00:00:10+00:00,30,7\n2024-05-12 02:00:11.500+02:00,40,8",
    ),
    "Azure 2023/2024 ISO": (
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2024-05-12T00:00:10.25Z,30,7\n2024-05-12T00:00:11.75Z,40,8",
    ),
    "Azure 2025 multimodal": (
        "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens",
        "2025-01-01 00:00:00,2,30,7\n2025-01-01 00:00:01.5,0,40,8",
    ),
    "BurstGPT v1/v2": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,ChatGPT,30,7,37,API log\n6.5,GPT-4,40,8,48,API log",
    ),
    "BurstGPT v3": (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "19440110.0,a-b,43,GPT-4,30,7,37,Conversation log\n19440111.5,,1,GPT-4,40,8,48,API log",
    ),
    "splitwise": (
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size",
        "0,2,0,1.25,1,30,7\n1,2,0,2.75,1,40,8",
    ),
    "Vidur": ("arrived_at,num_prefill_tokens,num_decode_tokens", "0.0,30,7\n1.5,40,8"),
    "generic": ("input_tokens,output_tokens,arrival", "30,7,1e-3\n40,8,1.501"),
    "generic aliases": ("arrival_ms,output_len,prompt_len", "0,7.0,30.0\n1500,8.0,40.0"),
    "generic us": ("arrival_us,completion_tokens,prompt_tokens", "7,7,30\n1500007,8,40"),
    "generic quoted": ('"arrival_ns","isl", osl', '"1","30","7"\n"1500000001"," 40 ","8"\n\n'),
    "generic BOM": ("\ufeffarrival,isl,osl", "0,30,7\n\n1.5,40,8"),
    "Mooncake": (
        '{"timestamp": 100, "input_length": 30, "output_length": 7, "hash_ids": [18446744073709551615]}',
        '{"timestamp": 1600, "input_length": 40, "output_length": 8, "hash_ids": [3]}',
    ),
    "LLMServingSim": (
        '{"input_toks": 30, "output_toks": 7, "arrival_time_ns": 46926808}',
        '\n{"input_toks": 40, "output_toks": 8, "arrival_time_ns": 1546926808}\n',
    ),
    "LLMServingSim log": (
        '{"request_id": "b-0", "input_toks": 30, "output_toks": 7, "arrival_time": 1787267980.25}',
        '{"request_id": "b-1", "input_toks": 40, "output_toks": 8, "arrival_time": 1787267981.75}',
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_format_is_recognised_and_read(tmp_path, name):
    path = tmp_path / "trace.txt"  # the suffix says nothing: content and columns do
    path.write_text("\n".join(ROWS[name]), newline="")
    w = read_trace(path)
    assert w.source.startswith(" ".join(name.split()[:2]) if name[0] in "AB" else name.split()[0])
    assert w.arrival_ns.tolist() == [0, 1_500_000_000]
    assert w.prompt_tokens.tolist() == [30, 40]
    assert w.output_tokens.tolist() == [7, 8]


def test_images_that_are_not_modelled_are_said(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(ROWS["Azure 2025 multimodal"]))
    assert "images are not modelled" in read_trace(path).source


def test_parquet_of_any_format_is_read(tmp_path):
    frame = pl.DataFrame({"input_tokens": [30.0, 40.0], "output_tokens": [7, 8], "arrival": [0.25, 1.75]})
    frame.write_parquet(tmp_path / "g.parquet")
    w = read_trace(tmp_path / "g.parquet")
    assert w.arrival_ns.tolist() == [0, 1_500_000_000]
    mooncake = {"timestamp": [0, 9], "input_length": [513, 5], "output_length": [1, 1], "hash_ids": [[7, 8], [7]]}
    pl.DataFrame(mooncake).write_parquet(tmp_path / "m.parquet")
    assert [list(ids) for ids in read_trace(tmp_path / "m.parquet").hashes()] == [[0, 1], [0]]


tokens = st.integers(1, 10**6)
rows_of = st.lists(st.tuples(st.integers(0, 10**18), tokens, tokens), min_size=1, max_size=30)


@given(rows_of)
def test_seconds_round_trip_to_the_nanosecond(tmp_path_factory, rows):
    rows.sort(key=lambda row: row[0])
    path = tmp_path_factory.mktemp("t") / "t.csv"
    lines = [f"{ns // 10**9}.{ns % 10**9:09d},{p},{o}" for ns, p, o in rows]
    path.write_text("arrival,input_tokens,output_tokens\n" + "\n".join(lines))
    w = read_trace(path)
    assert w.arrival_ns.tolist() == [ns - rows[0][0] for ns, _, _ in rows]
    assert w.prompt_tokens.tolist() == [p for _, p, _ in rows]
    assert w.output_tokens.tolist() == [o for _, _, o in rows]


@given(rows_of)
def test_sort_is_stable_and_loses_nothing(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    path.write_text("\n".join(json.dumps({"arrival_ns": ns % 5, "isl": p, "osl": o}) for ns, p, o in rows))
    w = read_trace(path, sort=True)
    expected = sorted(rows, key=lambda row: row[0] % 5)
    assert list(zip(w.prompt_tokens.tolist(), w.output_tokens.tolist())) == [(p, o) for _, p, o in expected]


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 3)), min_size=1, max_size=30), st.randoms())
def test_sorted_mooncake_rows_keep_their_blocks(tmp_path_factory, rows, random):
    path = tmp_path_factory.mktemp("t") / "m.jsonl"
    objects = [
        {"timestamp": i, "input_length": p, "output_length": 1, "hash_ids": [1000 * g + k for k in range(-(-p // 512))]}
        for i, (p, g) in enumerate(rows)
    ]
    path.write_text("\n".join(map(json.dumps, objects)))
    straight = read_trace(path)
    random.shuffle(objects)
    path.write_text("\n".join(map(json.dumps, objects)))
    shuffled = read_trace(path, sort=True)

    def shape(w):
        first: dict[int, int] = {}
        return [[first.setdefault(int(i), len(first)) for i in ids] for ids in w.hashes()]

    assert shape(shuffled) == shape(straight)
    assert shuffled.prompt_tokens.tolist() == straight.prompt_tokens.tolist()


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from([0, 0, 5, 9])), min_size=1, max_size=40))
def test_burstgpt_counts_failures_and_replays_the_rest(tmp_path_factory, rows):
    rows = [(1, 1), *[(max(p, 1) if o else p, o) for p, o in rows]]
    path = tmp_path_factory.mktemp("t") / "b.csv"
    lines = [f"{i},ChatGPT,{p},{o},{p + o},API log" for i, (p, o) in enumerate(rows)]
    path.write_text("\n".join(["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", *lines]))
    w = read_trace(path)
    assert len(w) + w.failed == len(rows)
    assert w.output_tokens.tolist() == [o for _, o in rows if o]
    assert w.arrival_ns.tolist() == [i * 10**9 for i, (_, o) in enumerate(rows) if o]
    assert (f"{w.failed} failed" in w.source) == bool(w.failed)


def test_failures_in_a_trace_out_of_order_stay_with_their_rows(tmp_path):
    path = tmp_path / "b.csv"
    rows = [(9, 5, 0), (7, 6, 3), (8, 7, 0), (1, 8, 2)]
    lines = [f"{t},ChatGPT,{p},{o},{p + o},API log" for t, p, o in rows]
    path.write_text("\n".join(["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", *lines]))
    w = read_trace(path, sort=True)
    assert w.prompt_tokens.tolist() == [8, 6]
    assert w.output_tokens.tolist() == [2, 3]
    assert w.arrival_ns.tolist() == [0, 6 * 10**9]
    assert w.failed == 2


def test_lengths_only_take_the_arrivals_they_are_given(tmp_path):
    path = tmp_path / "v.csv"
    path.write_text("num_prefill_tokens,num_decode_tokens\n30,7\n40,8\n50,9")
    one, two = (read_trace(path, arrivals=Poisson(2.0), seed=seed) for seed in (4, 4))
    assert np.array_equal(one.arrival_ns, two.arrival_ns)
    assert one.arrival_ns[-1] > 0
    path.write_text("input_tokens,output_tokens\n30,7\n40,8\n50,9")
    assert not read_trace(path, arrivals=Offline()).arrival_ns.any()


def test_sharegpt_needs_a_ratio_and_counts_what_nobody_answered(tmp_path):
    turns = lambda *who: {"id": "x", "conversations": [{"from": w, "value": "abcd" * 10} for w in who]}  # noqa: E731
    path = tmp_path / "s.json"
    path.write_text(json.dumps([turns("human", "gpt"), turns("gpt"), turns(), turns("gpt", "user", "assistant")]))
    w = read_trace(path, arrivals=Offline(), tokens_per_char=0.25)
    assert len(w) == 2
    assert w.failed == 2
    assert w.prompt_tokens.tolist() == [10, 10]
