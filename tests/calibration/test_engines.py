"""From a measured point to what it ran on: facts of the point win, the engine's defaults fill in, gaps are named."""

from dataclasses import replace
from typing import Any

import pytest

from calibration.engines import obstacle, profile_of, setting_of
from calibration.points import Load, Point
from sim.cost.deployment import Frontend
from sim.errors import InputError

POINT = Point(
    source="here",
    measured={"tpot_mean_ms": 8.0},
    load=Load("concurrency", 16),
    gpu="h100",
    n_gpus=2,
    tp=2,
    model="llama-3.1-8b",
    weights_dtype="bf16",
    engine="vllm",
    engine_version="0.11.0",
    isl=1000,
    osl=100,
)


def test_the_engines_defaults_fill_in_what_the_point_does_not_say() -> None:
    setting = setting_of(POINT)
    assert setting.profile.name == "vllm-0.10"
    assert setting.deployment.host == setting.profile.host
    assert setting.deployment.frontend == setting.profile.frontend
    assert setting.config.max_num_batched_tokens == 8192
    assert (setting.deployment.kv, setting.deployment.tp, setting.replicas) == ("bf16", 2, 1)


def test_flags_of_the_point_win() -> None:
    flags = {
        "max_num_seqs": 77, "max_num_batched_tokens": 2048, "prefix_caching": False, "num_gpu_blocks": 999,
        "gpu_memory_utilization": 0.5, "strategy": "swift_kv", "async_scheduling": True, "block_size": 32,
    }  # fmt: skip
    setting = setting_of(replace(POINT, flags=flags))
    config = setting.config
    assert (config.max_num_seqs, config.max_num_batched_tokens, config.block_tokens) == (77, 2048, 32)
    assert not config.prefix_caching
    assert (setting.deployment.kv_blocks, setting.deployment.memory_utilization) == (999, 0.5)
    assert setting.plan.name.startswith("swift_kv")
    assert setting.deployment.host.overlap
    assert not setting_of(POINT).deployment.host.overlap


def test_gpus_beyond_tp_are_replicas() -> None:
    assert setting_of(replace(POINT, n_gpus=8)).replicas == 4


def test_offline_and_static_runs_have_no_frontend() -> None:
    for load in (Load("static_batch", 4), Load("offline", float("inf"))):
        assert setting_of(replace(POINT, load=load)).deployment.frontend == Frontend()
    static = setting_of(replace(POINT, load=Load("static_batch", 4))).config
    assert (static.policy, static.max_num_seqs, static.max_num_batched_tokens) == ("static", 4, 4000)


def test_a_share_of_free_memory_counts_after_the_weights() -> None:
    point = replace(POINT, engine="trtllm", engine_version="0.17", tp=1, n_gpus=1)
    setting = setting_of(replace(point, flags={"kv_cache_free_gpu_mem_fraction": 0.5}))
    d, c = setting.deployment, setting.config
    activations = setting.profile.scheduler["activations"] * d.activation_bytes_per_gpu(
        c.max_num_batched_tokens, c.max_num_seqs
    )
    used = d.weight_bytes_per_gpu(setting.plan) + activations
    blocks = d.kv_capacity_blocks(
        setting.plan, block_tokens=16, max_num_batched_tokens=c.max_num_batched_tokens, max_num_seqs=c.max_num_seqs
    )
    assert blocks * d.kv_bytes_per_block(setting.plan, 16) == pytest.approx(0.5 * (d.gpu.memory_bytes - used), rel=1e-3)


@pytest.mark.parametrize(
    ("engine", "version", "profile"),
    [
        ("vllm", "2023", "vllm-0.2"),
        ("vllm(modified)", "2023", "vllm-0.2"),
        ("vllm+arctic-inference", "0.11.0", "vllm-0.10"),
        ("trtllm", "1.0.0rc3", "trtllm-1.0rc"),
        ("trtllm", ">=1.1", "trtllm-1.0"),
        ("sglang", None, "sglang-0.5"),
        ("vllm(fork)", "0.6.x", "vllm-0.6"),
        ("lmdeploy", "0.7", "pooled"),
    ],
)
def test_spellings_of_engines(engine: str, version: str | None, profile: str) -> None:
    assert profile_of(replace(POINT, engine=engine, engine_version=version)).name == profile


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gpu": None, "weights_dtype": None}, "--gpu, --weights"),
        ({"load": None}, "--concurrency or --qps"),
        ({"flags": {"speculative": True}}, "speculative"),
        ({"flags": {"disaggregated": True}}, "disaggregated"),
        ({"weights_dtype": "fp4"}, "fp4"),
        ({"engine": None}, "--engine"),
    ],
)
def test_what_stands_in_the_way_is_said(changes: dict[str, Any], said: str) -> None:
    point = replace(POINT, **changes)
    assert said in obstacle(point)
    with pytest.raises(InputError, match="here"):
        setting_of(point)
