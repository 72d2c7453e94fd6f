"""Traces that cannot be used: one InputError each, which says where and what."""

import gzip
import json

import pytest

from sim.errors import InputError
from sim.workload.arrivals import Offline
from sim.workload.traces import read_trace
from sim.workload.traces.formats import KNOWN

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:03.9799600,30,7\r\n{}\r\n2023-11-16 18:17:09,1,1\n"
GENERIC = "input_tokens,output_tokens,arrival\n30,7,1\n{}\n4,4,100\n"
NOTED = 'note,input_tokens,output_tokens,arrival\n"two\nlines",30,7,1\n{}\na,4,4,100\n'
MOONCAKE = '{{"timestamp": 5, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]}}\n{}\n'
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,A,3,1,4,API log\n{}\n"


def mooncake(**change):
    return json.dumps({"timestamp": 9, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]} | change)


CELLS = [  # file with a hole, the bad row, the place, the column and the value that the message must name
    (AZURE, "2023-11-16 18:17:04,abc,7", "line 3", "'ContextTokens'", "'abc'"),
    (AZURE, "2023-11-16 18:17:04,30,-4", "line 3", "'GeneratedTokens'", "'-4'"),
    (AZURE, "2023-11-16 18:17:04,0,7", "line 3", "'ContextTokens'", "'0'"),
    (AZURE, "2023-11-16 18:17:04,NaN,7", "line 3", "'ContextTokens'", "'NaN'"),
    (AZURE, "2023-11-16 18:17:04,inf,7", "line 3", "'ContextTokens'", "'inf'"),
    (AZURE, "2023-11-16 18:17:04,12.5,7", "line 3", "'ContextTokens'", "'12.5'"),
    (AZURE, "2023-11-16 18:17:04,99999999999999999999,7", "line 3", "'ContextTokens'", "'99999999999999999999'"),
    (AZURE, "2023-11-16 18:17:04,,7", "line 3", "'ContextTokens'", "no value"),
    (AZURE, "yesterday,30,7", "line 3", "'TIMESTAMP'", "'yesterday'"),
    (AZURE, "2023-02-30 18:17:04,30,7", "line 3", "'TIMESTAMP'", "'2023-02-30 18:17:04'"),
    (AZURE, "1500-01-01 00:00:00,30,7", "line 3", "'TIMESTAMP'", "'1500-01-01 00:00:00'"),
    (AZURE, "2023-11-16 18:17:04+00:00,30,7", "line 3", "'TIMESTAMP'", "'2023-11-16 18:17:04+00:00'"),
    (AZURE, "2023-11-16 18:17:03.9799599,30,7", "line 3", "'TIMESTAMP'", "'2023-11-16 18:17:03.9799599'"),
    (GENERIC, "30,7,soon", "line 3", "'arrival'", "'soon'"),
    (GENERIC, "30,7,-1", "line 3", "'arrival'", "'-1'"),
    (GENERIC, "30,7,nan", "line 3", "'arrival'", "'nan'"),
    (GENERIC, "30,7,1e400", "line 3", "'arrival'", "'1e400'"),
    (GENERIC, "30,7,1787267980082740", "line 3", "'arrival'", "'1787267980082740'"),
    (GENERIC, "30,7,0.5", "line 3", "'arrival'", "'0.5'"),
    (GENERIC, "\n\n30,x,2", "line 5", "'output_tokens'", "'x'"),
    (NOTED, "b,30,x,2", "line 4", "'output_tokens'", "'x'"),
    (GENERIC, "30,7", "line 3", "'arrival'", "no value"),
    (MOONCAKE, mooncake(input_length=-3), "line 2", "'input_length'", "'-3'"),
    (MOONCAKE, "\n" + mooncake(output_length=0), "line 3", "'output_length'", "'0'"),
    (MOONCAKE, mooncake(output_length=True), "line 2", "'output_length'", "'True'"),
    (MOONCAKE, mooncake(output_length=None), "line 2", "'output_length'", "no value"),
    (MOONCAKE, mooncake(output_length=float("nan")), "line 2", "'output_length'", "'NaN'"),
    (MOONCAKE, mooncake(timestamp=4.5), "line 2", "'timestamp'", "'4.5'"),
    (MOONCAKE, mooncake(hash_ids=[1]), "line 2", "'hash_ids'", "'[1]'"),
    (MOONCAKE, mooncake(hash_ids=[1, "x"]), "line 2", "'hash_ids'", "[1, 'x']"),
    (MOONCAKE, mooncake(hash_ids=None), "line 2", "'hash_ids'", "no value"),
    (BURST, "6,A,0,5,5,API log", "line 3", "'Request tokens'", "'0'"),
    (BURST, "6,A,-1,0,5,API log", "line 3", "'Request tokens'", "'-1'"),
]


@pytest.mark.parametrize(("text", "row", "line", "column", "value"), CELLS)
def test_a_bad_cell_is_named_with_file_line_column_and_value(tmp_path, text, row, line, column, value):
    path = tmp_path / "trace"
    path.write_text(text.format(row), newline="")
    with pytest.raises(InputError) as error:
        read_trace(path)
    message = str(error.value)
    assert "\n" not in message
    for part in (str(path), f"{line},", column, value):
        assert part in message


def test_the_remedy_for_rows_out_of_order_is_named_and_works(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(GENERIC.format("30,7,0.5"))
    with pytest.raises(InputError, match="--sort"):
        read_trace(path)
    assert read_trace(path, sort=True).arrival_ns.tolist() == [0, 500_000_000, 99_500_000_000]


FILES = [  # content, what the message says; None: it names the formats we know
    (b"", None),
    (b"\n \r\n", None),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", None),
    (gzip.compress(b"a,b"), None),
    (b"hello world\n1\n", None),
    (b"a,b,c\n1,2,3\n", None),
    (b"timestamp,input_tokens,output_tokens\n1,2,3\n", None),
    (b"1,2,3\n4,5,6\n", None),
    (b'{"date": "20261101", "backend": "vllm", "completed": 199}\n', None),
    (b"[1, 2, 3]", None),
    (b"[]", None),
    (b"[{", None),
    (b'[{"a": 1}]', None),
    (b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n", "without rows"),
    (b"TIMESTAMP,ContextTokens,GeneratedTokens", "without rows"),
    (b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04,1,1,1\n", "line 2: 4 cells"),
    (b"input_tokens,input_tokens,output_tokens\n1,2,3\n", "appears twice"),
    (b"input_tokens,isl,output_tokens\n1,2,3\n", "say the same thing"),
    (b'input_tokens,output_tokens,arrival\n"1,2,3\n4,5,6', "line 2"),
    (b"input_tokens,output_tokens,arrival\n1,2,3\n\xff,5,6\n", "line 3: byte 0xff"),
    (b"input_tokens,output_tokens\n1,2\n", "--qps"),
    (b"num_prefill_tokens,num_decode_tokens\n1,2\n", "--qps"),
    (b"PAR1 but not really", "Parquet"),
    (b'{"input_toks": 3, "output_toks": 2,\n', "line 1"),
    (b'{"isl": 3, "osl": 2, "arrival": 1}\n[1]\n', "line 2"),
    (b'{"isl": 3, "osl": 2, "arrival": 1}\n{"isl": 3,\n', "line 2"),
    (BURST.format("6,A,3,0,3,API log").replace("3,1,4", "3,0,3").encode(), "all 2 rows record failed"),
    (b'[{"conversations": [{"from": "human", "value": "hi"}]}]', "tokens_per_char"),
]


@pytest.mark.parametrize(("content", "says"), FILES)
def test_a_file_that_is_no_trace_says_so_in_one_line(tmp_path, content, says):
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_trace(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert (KNOWN if says is None else says) in message


def test_missing_files_and_folders_name_the_known_formats(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.csv"):
        with pytest.raises(InputError) as error:
            read_trace(path)
        assert KNOWN in str(error.value)
    with pytest.raises(InputError):
        read_trace("nul\0name")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"id": 1}, "entry 2"),
        ({"conversations": [{"from": "human"}]}, "entry 2"),
        ({"conversations": ["hi"]}, "entry 2"),
        ("text", "entry 2"),
    ],
)
def test_a_conversation_that_is_none_is_named(tmp_path, entry, says):
    path = tmp_path / "s.json"
    good = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}
    path.write_text(json.dumps([good, entry]))
    with pytest.raises(InputError, match=says):
        read_trace(path, arrivals=Offline(), tokens_per_char=1.0)
    path.write_text(json.dumps([{"conversations": []}]))
    with pytest.raises(InputError, match="answered"):
        read_trace(path, arrivals=Offline(), tokens_per_char=1.0)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan")])
def test_a_ratio_of_tokens_is_positive(tmp_path, ratio):
    path = tmp_path / "s.json"
    path.write_text('[{"conversations": []}]')
    with pytest.raises(InputError, match="tokens_per_char"):
        read_trace(path, arrivals=Offline(), tokens_per_char=ratio)


def test_another_block_size_is_an_option(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 40, "output_length": 2, "hash_ids": [5, 6, 7]}')
    with pytest.raises(InputError, match="hash_block_tokens"):
        read_trace(path)
    assert read_trace(path, hash_block_tokens=16).hash_ids.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="hash_block_tokens is 0"):
        read_trace(path, hash_block_tokens=0)
