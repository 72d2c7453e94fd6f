"""transformers beside the engine, on shapes of the catalogue's kind; what a bench leaves behind."""

import gc
import weakref

import pytest
import torch

from engine.bench import Bench, rows_of
from engine.bench_peers import peers_of
from engine.llm import LLM
from engine.loading import free_memory
from sim.plans.model import ModelShape
from sim.serving.config import SchedulerConfig
from sim.serving.trace import Run


def shape_of(family: str) -> ModelShape:
    kv = 4 if family == "opt" else 2
    return ModelShape("toy", family, 2, 64, 4, kv, 16, 96, 128, 128, family != "opt", tied_embeddings=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["opt", "llama", "qwen2", "mistral"])
def test_peers_run_a_shape_with_random_weights(family):
    peers = peers_of(shape_of(family), device=torch.device("cpu"), dtype=torch.float32)
    assert all(run([[2, 3, 4], [5, 6, 7]], 3) > 0 for run in peers.values())


def test_a_shape_is_benched_as_a_folder_is():
    bench = Bench(
        model=shape_of("llama"), strategies=("swift_kv",), prompts=2, prompt_tokens=20, max_tokens=3, repeats=1,
        device="cpu", dtype="float32",
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16, prefix_caching=True),
        kv_blocks=16, transformers=False,
    )  # fmt: skip
    traced: list[Run] = []
    assert [row["system"] for row in rows_of(bench, note=print, traced=traced)] == ["dense", "swift_kv"]
    read = [run.iterations["prompt_tokens"].sum() for run in traced]
    assert read == [2 * 20] * 2, "the recorded run reads its prompts, as the timed ones do"


def test_a_gpu_gets_back_what_an_engine_that_is_gone_held(monkeypatch):
    """Its parts refer to each other: without the collector the next engine finds no room for its own cache."""
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(pages() is None))
    gc.disable()
    try:
        llm = LLM(shape_of("llama"), device="cpu", kv_blocks=8, graphs=True)
        pages = weakref.ref(llm.engine.cache)
        del llm
        free_memory(torch.device("cuda"))
    finally:
        gc.enable()
    assert emptied == [True]
