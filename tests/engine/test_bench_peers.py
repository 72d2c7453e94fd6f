"""transformers beside the engine, on shapes of the catalogue's kind."""

import pytest
import torch

from engine.bench import Bench, rows_of
from engine.bench_peers import peers_of
from sim.plans.model import ModelShape
from sim.serving.config import SchedulerConfig


def shape_of(family: str) -> ModelShape:
    kv = 4 if family == "opt" else 2
    return ModelShape("toy", family, 2, 64, 4, kv, 16, 96, 128, 128, family != "opt", tied_embeddings=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["opt", "llama", "qwen2", "mistral"])
def test_peers_run_a_shape_with_random_weights(family):
    peers = peers_of(shape_of(family), device=torch.device("cpu"), dtype=torch.float32)
    assert all(run([[2, 3, 4], [5, 6, 7]], 3) > 0 for run in peers.values())


def test_a_shape_is_benched_as_a_folder_is():
    bench = Bench(
        model=shape_of("llama"), strategies=("swift_kv",), prompts=2, prompt_tokens=4, max_tokens=3, repeats=1,
        device="cpu", dtype="float32", scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16),
        kv_blocks=16, transformers=False,
    )  # fmt: skip
    assert [row["system"] for row in rows_of(bench, note=print)] == ["dense", "swift_kv"]
