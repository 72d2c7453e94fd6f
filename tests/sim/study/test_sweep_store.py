"""INV-82, INV-83: answers on disk, found again under the same inputs and no others; whole or not there at all."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import InputError
from sim.study.points import identity
from sim.study.points.identity import digest_of, source_version
from sim.study.points.point import ANSWER, Point, Resolver
from sim.study.points.space import space_of
from sim.study.points.store import Store

KEY = "0123456789abcdef01234567"
ANSWERED = dict.fromkeys(ANSWER) | {"max_qps": 1 / 3, "kv_capacity_tokens": 7, "within_slo": True, "note": "ünïcode"}
TRACE = "arrival_s,input_tokens,output_tokens\n0.0,10,5\n1.0,20,5\n"
CHANGES = {
    "strategy": "swift_kv",
    "model": "llama-2-7b",
    "gpu": "h100",
    "tp": 2,
    "weights": "fp8",
    "kv": "fp8",
    "memory_utilization": 0.8,
    "num_gpu_blocks": 5000,
    "max_context": 4096,
    "source": "roofline",
    "engine": "sglang",
    "host_step_ns": 1,
    "frontend_request_ns": 1,
    "host_overlap": True,
    "policy": "prefill_first",
    "max_num_seqs": 32,
    "max_num_batched_tokens": 4096,
    "long_prefill_token_threshold": 64,
    "block_tokens": 32,
    "prefix_caching": True,
    "oversized": "refuse",
    "workload": "azure-code",
    "arrivals": "constant",
    "requests": 50,
    "slo_ttft_ms": 500,
    "slo_tpot_ms": 30,
    "slo_percentile": 99,
    "seed": 1,
    "seeds": 2,
    "tolerance": 0.1,
    "draws": 2,
    "qps": 3,
}
UNCHANGING = {"demand_qps": 7, "quality_floor": 0.5, "strategy": "swift_kv:keep=32"}


def point_of(**options: object) -> Point:
    options = {"prefix_caching": False, "host_overlap": False} | options
    return Resolver(space_of({name: [value] for name, value in options.items()})).point(options)


@pytest.mark.parametrize("option", CHANGES)
def test_every_setting_that_an_answer_depends_on_changes_its_key(option):
    assert point_of(**{option: CHANGES[option]}).key != point_of().key


@pytest.mark.parametrize("option", UNCHANGING)
def test_what_an_answer_does_not_depend_on_keeps_its_key(option):
    """A neutral plan is the dense plan; demand and floor are about what follows from an answer."""
    assert point_of(**{option: UNCHANGING[option]}).key == point_of().key


def test_a_key_is_the_same_in_another_process_and_follows_the_trace_s_content(tmp_path):
    first, same, other = (tmp_path / name for name in ("a.csv", "b.csv", "c.csv"))
    first.write_text(TRACE)
    other.write_text(TRACE.replace("20", "21"))
    (tmp_path / "sub").mkdir()
    same = tmp_path / "sub" / "a.csv"
    same.write_text(TRACE)
    keys = [point_of(trace=str(path)).key for path in (first, same, other)]
    assert keys[0] != keys[2]
    question = point_of(trace=str(first)).question
    assert digest_of(pickle.loads(pickle.dumps(question))) == keys[0]


def test_the_version_follows_source_and_data_but_not_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "ROOT", tmp_path)
    (tmp_path / "study" / "pictures").mkdir(parents=True)
    seen = set()
    for name in ("a.py", "b.toml", "study/c.json"):
        (tmp_path / name).write_text("1")
        source_version.cache_clear()
        seen.add(source_version())
        (tmp_path / name).write_text("2")
        source_version.cache_clear()
        seen.add(source_version())
    assert len(seen) == 6
    (tmp_path / "study" / "pictures" / "d.py").write_text("3")
    (tmp_path / "a.pyc").write_text("4")
    source_version.cache_clear()
    assert source_version() in seen
    source_version.cache_clear()


def test_a_value_without_content_is_refused_rather_than_ignored():
    with pytest.raises(TypeError, match="object has no content"):
        digest_of({"a": object()})


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=4), st.lists(st.integers(-5, 5), min_size=1, max_size=4))
def test_arrays_have_one_digest_if_and_only_if_they_are_equal(a, b):
    assert (digest_of(np.array(a)) == digest_of(np.array(b))) == (a == b)
    assert digest_of(np.array(a)) != digest_of(np.array(a, dtype=float))


def test_dataclasses_of_equal_fields_and_other_names_differ():
    @dataclass(frozen=True)
    class One:
        x: int

    @dataclass(frozen=True)
    class Two:
        x: int

    assert digest_of(One(1)) != digest_of(Two(1))


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said):
    return Store(tmp_path / "new" / "folder", "version", said.append)


def test_an_answer_comes_back_as_it_was(store, said):
    assert store.get(KEY) is None
    store.put(KEY, ANSWERED)
    assert store.get(KEY) == ANSWERED
    assert [path.name for path in store.folder.iterdir()] == [f"{KEY}.parquet"]
    assert said == []


def test_another_version_has_answers_of_its_own(store, tmp_path, said):
    store.put(KEY, ANSWERED)
    assert Store(tmp_path / "new" / "folder", "later", said.append).get(KEY) is None


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_file_that_is_broken_is_told_of_and_counts_as_none(store, said, keep):
    store.put(KEY, ANSWERED)
    path = store.folder / f"{KEY}.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    assert store.get(KEY) is None
    assert len(said) == 1
    assert "\n" not in said[0]
    assert str(path) in said[0]


def test_an_answer_under_another_name_is_not_taken(store, said):
    store.put(KEY, ANSWERED)
    (store.folder / f"{KEY}.parquet").rename(store.folder / f"{KEY[::-1]}.parquet")
    assert store.get(KEY[::-1]) is None
    assert "something else" in said[0]


def test_a_write_that_dies_half_way_leaves_no_answer(store, monkeypatch):
    monkeypatch.setattr("sim.study.points.store.os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.put(KEY, ANSWERED)
    assert store.get(KEY) is None


def test_an_answer_is_moved_to_its_place_not_copied(store, monkeypatch):
    """So that whoever looks finds all of it or nothing."""
    written = []
    monkeypatch.setattr("sim.study.points.store.os.fsync", lambda file: written.append(os.fstat(file).st_ino))
    store.put(KEY, ANSWERED)
    assert [path.stat().st_ino for path in store.folder.iterdir()] == written


def test_a_folder_that_cannot_be_made_is_named(said):
    with pytest.raises(InputError, match="cannot keep answers in /proc/nowhere"):
        Store(Path("/proc/nowhere"), "version", said.append)
