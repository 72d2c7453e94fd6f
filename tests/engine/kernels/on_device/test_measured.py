"""What `calibration measure` times are the engine's kernels, launched as they have to be: outputs are whole."""

import pytest
import torch

from calibration.items import item
from calibration.measure_buffers import Buffers
from calibration.measure_ops import KERNELS
from engine.config import config_of
from sim.plans.model import ModelShape
from tests.engine.kernels.support import DEVICE

SHAPES = (
    ModelShape("llama", "llama", 4, 64, 4, 2, 16, 96, 128, 256, True, False),
    ModelShape("opt", "opt", 4, 64, 4, 4, 16, 96, 128, 256, False, True),
)
ITEMS = (
    item("gemm", matrix="qkv", m=3, n=128, k=64),
    item("decode_attention", rows=2, context=20),
    item("prefill_attention", new=9, context=20),
    item("mixed_attention", rows=2, context=20, new=9, prompt_context=16),
    item("norm", rows=3),
    item("norm_gate", rows=3),
    item("keys", rows=3),
    item("bulk_keys", rows=3, layers=2),
    item("activation", rows=3),
    item("embed", rows=3),
    item("sample", rows=2),
    *(item("masked_ffn", rows=rows, active=75) for rows in (2, 8, 192)),
    item("copy", bytes=256),
    item("product", side=16),
)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.family)
@pytest.mark.parametrize("one", ITEMS, ids=lambda one: one.key)
def test_every_kernel_runs_on_its_buffers(shape, one):
    config = config_of(shape)
    buffers = Buffers(config, device=torch.device(DEVICE), dtype=torch.float32, cache_bytes=4096)
    op = KERNELS[one.op](buffers, one).op
    for output in op.outputs:
        output.fill_(float("nan"))
    with torch.inference_mode():
        for i in range(min(op.sets, 2)):
            op.run(i)
    assert all(output.isfinite().all() for output in op.outputs)


def test_every_kind_of_kernel_is_here():
    assert {one.op for one in ITEMS} == set(KERNELS)
