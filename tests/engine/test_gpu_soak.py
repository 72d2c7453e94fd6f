"""The GPU's soak, dry on a CPU and in full where there is one."""

import pytest

from engine.graphs import BUCKETS
from tests import gpu_soak
from tests.engine.tinies import folder_of


@pytest.mark.parametrize("plan", [gpu_soak.PLANS[0], gpu_soak.PLANS[3]])
def test_dry(plan):
    folder = folder_of("llama-gqa")
    gpu_soak.replay(folder, plan, rows=3, device="cpu")
    assert gpu_soak.soak(folder, plan, steps=25, device="cpu") > 3


def test_greedy_parity_dry():
    gpu_soak.greedy_parity(folder_of("llama-gqa"), device="cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("plan", gpu_soak.PLANS)
def test_soak(plan):
    gpu_soak.soak(folder_of("llama-gqa"), plan, steps=10_000, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("rows", BUCKETS)
@pytest.mark.parametrize("plan", gpu_soak.PLANS)
def test_replay_is_eager(plan, rows):
    gpu_soak.replay(folder_of("llama-gqa"), plan, rows=rows, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["llama-gqa", "opt", "qwen2"])
def test_greedy_parity(variant):
    gpu_soak.greedy_parity(folder_of(variant), device="cuda")
