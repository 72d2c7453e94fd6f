"""SwiftKV checkpoints in the published weight names: distilled projections are used, and only those."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.llm import LLM
from sim.errors import InputError
from sim.plans.plan import SkipPlan
from tests.engine.plain import Cache, Plain
from tests.engine.tinies import LAYERS, folder_of, greedy, hf_of, prompts_of

KEEP, GROUP, OUTPUTS = 2, 2, 6


@pytest.fixture(scope="module")
def distilled(tmp_path_factory) -> Path:
    """A checkpoint whose upper projections differ from the teacher's, which it does not hold."""
    folder = shutil.copytree(folder_of("llama-gqa"), tmp_path_factory.mktemp("swift") / "model")
    held, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(5)
    held["model.norm_swiftkv.weight"] = 1 + torch.rand(64, generator=generator)
    for layer in range(KEEP, LAYERS):
        for letter in "qkv":
            name = f"model.layers.{layer}.self_attn.{letter}_proj"
            old = held.pop(f"{name}.weight")
            if letter == "q" or (layer - KEEP) % GROUP == 0:
                held[f"{name}_swiftkv.weight"] = old + 0.2 * torch.randn(old.shape, generator=generator)
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "llama_swiftkv", "num_key_value_layers": KEEP, "key_value_group_size": GROUP}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def expected(folder: Path, prompt: list[int]) -> list[int]:
    """The transformed model of the paper, run in full for every token."""
    model = Plain(hf_of("llama-gqa"))
    model.w = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    cache: Cache = [{} for _ in range(LAYERS)]
    tokens = list(prompt)
    for position in range(len(prompt) + OUTPUTS - 1):
        x = model.embed(tokens[position])
        for layer in range(KEEP):
            x, _ = model.full(layer, x, position, cache)
        u = model.norm(x, "norm_swiftkv")
        for layer in range(KEEP, LAYERS):
            leader = layer - (layer - KEEP) % GROUP
            k, v = (model.w[f"model.layers.{leader}.self_attn.{n}_proj_swiftkv.weight"] @ u for n in "kv")
            cache[layer][position] = model.rope(k, position), v.view(model.kv_heads, -1)
        for layer in range(KEEP, LAYERS):
            name = f"model.layers.{layer}.self_attn.q_proj"
            model.w[f"{name}.weight"] = model.w[f"{name}_swiftkv.weight"]
            x = x + model.attn(layer, model.input_norm(layer, x), position, cache[layer])
            x = x + model.ffn(layer, x)
        if position >= len(prompt) - 1:
            tokens.append(int(model.logits(x).argmax()))
    return tokens[len(prompt) :]


def test_tokens_are_the_transformed_models(distilled):
    llm = LLM(distilled, device="cpu", dtype="float64")
    assert llm.plan.name == f"swift_kv:keep={KEEP},group={GROUP}"
    assert llm.notes == ()
    prompts = prompts_of(9, 14)
    done = llm.generate(prompts, greedy(OUTPUTS))
    assert [c.token_ids for c in done] == [expected(distilled, p) for p in prompts]


@pytest.mark.parametrize("plan", ["swift_kv:keep=3", "swift_kv:keep=2"])
def test_another_split_is_refused(distilled, plan):
    with pytest.raises(InputError, match=f"keep={KEEP},group={GROUP}"):
        LLM(distilled, device="cpu", plan=plan)


@pytest.mark.parametrize("plan", ["dense", "cross_layer_kv"])
def test_the_teacher_is_missing(distilled, plan):
    with pytest.raises(InputError, match="SwiftKV checkpoint"):
        LLM(distilled, device="cpu", plan=plan)


def test_it_composes(distilled):
    plan = f"swift_kv:keep={KEEP},group={GROUP}+skip_decode:speedup=1.5"
    assert isinstance(LLM(distilled, device="cpu", plan=plan).plan, SkipPlan)


def test_plain_weights_are_said_to_be_plain():
    assert "not trained" in LLM(folder_of("llama-gqa"), device="cpu", plan="swift_kv").notes[0]
