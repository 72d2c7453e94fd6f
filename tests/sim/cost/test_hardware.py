"""The catalogue of GPUs: names, sources, and what a broken file says."""

import dataclasses
from pathlib import Path

import pytest

from sim.cost.hardware import FIGURES, GPUS, Gpu, gpu_named, read_gpus
from sim.errors import InputError, UnknownName

WANTED = {"a100-40", "a100-80", "h100", "h200", "b200", "l40s", "l4", "rtx-4090"}
WANTED |= {"gh200", "h100-nvl", "h100-pcie", "h20", "a100-pcie", "rtx-pro-6000"}


def test_every_figure_of_every_gpu_has_a_source():
    assert set(GPUS) == WANTED
    for gpu in GPUS.values():
        assert set(gpu.sources) == set(FIGURES)
        assert all(len(text) > 10 for text in gpu.sources.values()), gpu.name


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("H100-SXM-80GB", "h100"),
        ("h100", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("H200-SXM-141GB", "h200"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("A100", "a100-80"),
        ("a100_40", "a100-40"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA L4", "l4"),
        ("L40S", "l40s"),
        ("GH200-96GB", "gh200"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("A100-PCIE-80GB", "a100-pcie"),
        ("RTX PRO 6000", "rtx-pro-6000"),
    ],
)
def test_names_as_people_and_drivers_write_them(asked, name):
    assert gpu_named(asked).name == name


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown GPU 'h300'.*did you mean 'h[12]00'.*known: a100-40"):
        gpu_named("h300")


def test_figures_are_of_their_kind():
    """Bytes, bytes per second, FLOP/s and watts cannot be mistaken for one another, nor labels for dense rates."""
    for gpu in GPUS.values():
        assert 20e9 < gpu.memory_bytes < 200e9
        assert 2e11 < gpu.bandwidth_bytes_per_s < 1e13
        assert 1e14 < gpu.flops_bf16 < 3e15
        assert gpu.flops_fp8 == 0 or gpu.flops_fp8 == pytest.approx(2 * gpu.flops_bf16, rel=0.02)
        assert 3e10 <= gpu.nvlink_bytes_per_s < 1e12
        assert 50 < gpu.power_w <= 1000


def test_fp8_without_fp8_cores_computes_in_bf16():
    a100, h100 = gpu_named("a100"), gpu_named("h100")
    assert a100.flops("fp8") == a100.flops("bf16") == 312e12
    assert h100.flops("fp8") == 1978.9e12
    with pytest.raises(UnknownName, match="unknown dtype 'int4'"):
        h100.flops("int4")


@pytest.mark.parametrize("figure", [name for name in FIGURES if name != "flops_fp8"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_figure_must_be_positive(figure, value):
    facts = {f.name: getattr(GPUS["h100"], f.name) for f in dataclasses.fields(Gpu)}
    with pytest.raises(InputError, match=f"{figure} = "):
        Gpu(**{**facts, figure: value})


def test_a_broken_catalogue_says_which_figure_is_missing(tmp_path: Path):
    path = tmp_path / "gpus.toml"
    path.write_text('[x1]\nmemory_bytes = { value = 1, source = "nowhere" }\n')
    with pytest.raises(InputError, match=r"\[x1\] lacks bandwidth_bytes_per_s"):
        read_gpus(path)
    path.write_text("[x1\n")
    with pytest.raises(InputError, match="not readable as TOML"):
        read_gpus(path)


def test_two_gpus_cannot_share_an_alias(tmp_path: Path):
    body = "".join(f'{name} = {{ value = 1.0, source = "made up for the test" }}\n' for name in FIGURES)
    path = tmp_path / "gpus.toml"
    path.write_text(f'[one]\naliases = ["same"]\n{body}[two]\naliases = ["Same"]\n{body}')
    with pytest.raises(InputError, match="alias 'Same' of 'two' already means 'one'"):
        read_gpus(path)
