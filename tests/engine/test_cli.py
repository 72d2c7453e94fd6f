"""The command: text with every strategy on the CPU, tables and JSON."""

import json

import pytest
import torch

from engine.__main__ import main
from engine.roofline import Ceilings, Kernel, ceilings, kernels, timed
from sim.plans.strategies import STRATEGIES
from tests.engine.tinies import folder_of, llm_of

SPECS = {"ffn_skip": "ffn_skip:run_length=2,cold_layers=1,warmup_tokens=1,threshold=0.7"}


def run(capsys, *arguments: str) -> str:
    assert main(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("variant", ["llama-gqa", "opt"])
def test_generate(capsys, strategy, variant):
    model = str(folder_of(variant))
    options = ("--model", model, "--strategy", SPECS.get(strategy, strategy), "--max-tokens", "6", "--ignore-eos")
    out = run(capsys, "generate", *options, "--prompt", "The quick", "--prompt", "A layer")
    assert "The quick" in out
    assert "A layer" in out
    assert len(out) > len("The quick\nA layer\n")


def test_generate_streams_what_it_prints(capsys):
    options = ("generate", "--model", str(folder_of("llama-gqa")), "--prompt", "The quick", "--max-tokens", "9")
    sampled = (*options, "--temperature", "1.2", "--top-k", "30", "--top-p", "0.9", "--min-p", "0.01", "--seed", "3")
    for command in (options, sampled):
        assert run(capsys, *command, "--stream") == run(capsys, *command)


def test_generate_json(capsys):
    out = run(capsys, "generate", "--model", str(folder_of("qwen2")), "--prompt", "x", "--max-tokens", "3", "--json")
    told = json.loads(out)
    assert len(told["completions"][0]["token_ids"]) <= 3
    assert told["metrics"]["tokens"] > 0


def test_bench(capsys):
    small = ("--prompts", "2", "--prompt-tokens", "8", "--max-tokens", "3", "--repeats", "1")
    model = ("--model", str(folder_of("llama-gqa")), "--device", "cpu")
    plans = ("--strategy", "swift_kv", "--strategy", "skip_decode:schedule_tokens=2")
    assert main(("bench", *model, *small, *plans, "--agreement", "1", "--json")) == 0
    told = capsys.readouterr()
    assert "needs a GPU" in told.err
    rows = json.loads(told.out)["rows"]
    peers = ["transformers generate", "transformers generate_batch"]
    assert [row["system"] for row in rows] == ["dense", *plans[1::2], *peers]
    assert rows[0]["speedup"] == rows[0]["agreement_top1"] == 1.0
    assert rows[1]["skip_requested"] > 0
    assert all(row["output_tokens_per_s"] > 0 for row in rows)
    table = run(capsys, "bench", *model, *small, *plans, "--no-transformers")
    assert "swift_kv" in table


def test_every_kernel_of_the_roofline_runs():
    """Its times mean nothing on a CPU; that the kernels can be called at any shape does."""
    shape, device = llm_of("llama-gqa").config.shape, torch.device("cpu")
    for kernel in kernels(shape, rows=3, context=21, device=device, dtype=torch.float32):
        assert timed(kernel.run, device) > 0
        assert kernel.bytes_moved > 0
    limits = Ceilings(bytes_per_s=100.0, flops_per_s=10.0)
    assert limits.share(Kernel("bound by bytes", lambda: None, 200.0, 10.0), 4.0) == 0.5
    assert limits.share(Kernel("bound by products", lambda: None, 100.0, 30.0), 4.0) == 0.75
    assert ceilings(device, elements=1 << 10, side=16).flops_per_s > 0


def test_tiny(capsys, tmp_path):
    run(capsys, "tiny", str(tmp_path / "m"), "--family", "mistral", "--layers", "2")
    assert run(capsys, "generate", "--model", str(tmp_path / "m"), "--prompt", "Prompts", "--max-tokens", "2")
    assert main(["tiny", str(tmp_path), "--family", "gpt"]) == 2
    (tmp_path / "file").write_text("")
    assert main(["tiny", str(tmp_path / "file" / "m")]) == 2
    assert "cannot be made" in capsys.readouterr().err
