"""What cannot be used is refused in one clear line, at load or for the one request; nobody else is harmed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.__main__ import main
from engine.llm import LLM
from engine.sampler import SamplingParams
from sim.errors import InputError, PlanError, UnknownName
from sim.plans.plan import plan_of
from tests.engine.tinies import assert_idle, folder_of, greedy, hf_greedy, llm_of, prompts_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(folder_of("llama-gqa"), tmp_path / "model")


def edit(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def tensors(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    held = load_file(file)
    change(held)
    save_file({k: v.contiguous() for k, v in held.items()}, file, {"format": "pt"})


def refused(folder: Path, *words: str, **options) -> None:
    with pytest.raises((InputError, PlanError)) as error:
        LLM(folder, device="cpu", **options)
    text = str(error.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_missing_tensor(folder):
    tensors(folder, lambda held: held.pop("model.layers.3.mlp.up_proj.weight"))
    refused(folder, "model.layers.3.mlp.up_proj.weight", "missing")


def test_misshapen_tensor(folder):
    tensors(folder, lambda held: held.update({"model.norm.weight": torch.ones(63)}))
    refused(folder, "model.norm.weight", "[63]", "[64]", "model.safetensors")


def test_quantised_tensor(folder):
    name = "model.layers.0.self_attn.o_proj.weight"
    tensors(folder, lambda held: held.update({name: torch.zeros(64, 64, dtype=torch.int8)}))
    refused(folder, name, "int8")


def test_truncated_file(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(folder, str(file), "truncated")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no *.safetensors")


def test_pickles_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    refused(folder, "pytorch_model.bin", "pickle")


def test_sharded_checkpoint(folder):
    held = load_file(folder / "model.safetensors")
    names = sorted(held)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({n: held[n] for n in some}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {n: file for file, some in parts.items() for n in some}}))
    prompt = prompts_of(7)[0]
    assert LLM(folder, device="cpu").generate([prompt], greedy(5))[0].token_ids == hf_greedy(
        "llama-gqa", tuple(prompt), 5
    )
    (folder / "b.safetensors").unlink()
    refused(folder, "b.safetensors", "missing")
    save_file({names[1]: held[names[1]]}, folder / "b.safetensors", {"format": "pt"})
    refused(folder, names[3], "missing")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "gpt2"}, ("model_type", "gpt2", "llama")),
        ({"auto_map": {"AutoModel": "x.Y"}}, ("auto_map", "remote code")),
        ({"hidden_act": "gelu"}, ("hidden_act", "gelu")),
        ({"num_hidden_layers": None}, ("num_hidden_layers", "missing")),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, ("rope_type", "yarn")),
        ({"num_hidden_layers": 7}, ("model.layers.6", "missing")),
        ({"model_type": "llama_swiftkv", "num_key_value_layers": 9}, ("num_key_value_layers", "9")),
        (
            {"model_type": "llama_swiftkv", "num_key_value_layers": 3, "key_value_group_size": 2},
            ("key_value_group_size", "2"),
        ),
    ],
)
def test_config(folder, fields, words):
    edit(folder, **fields)
    refused(folder, *words)


def test_plan_of_another_depth(folder):
    refused(folder, "5 layers", "6", plan=plan_of(5, name="other"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", -1), ("seed", 2**31), ("kv_blocks", 0), ("kv_blocks", -1), ("max_context", 0), ("max_context", 513)],
)
def test_numbers_out_of_range(folder, name, value):
    refused(folder, f"{name}={value}", **{name: value})


def test_unknown_names(folder):
    for options in ({"plan": "swiftkv"}, {"device": "tpu"}, {"dtype": "int4"}):
        with pytest.raises(UnknownName):
            LLM(folder, **options)
    with pytest.raises(InputError, match="no folder"):
        LLM("/nowhere/at/all")


@pytest.mark.parametrize(
    "field",
    [
        {"max_tokens": 0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1e-39},
        {"temperature": 1e39},
        {"max_tokens": 2**63},
        {"top_k": -1},
        {"top_p": 0.0},
        {"min_p": 1.5},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": 1e-300},
        {"logprobs": -1},
        {"stop": ("",)},
    ],
)
def test_sampling_parameters(field):
    with pytest.raises(InputError, match=next(iter(field))):
        SamplingParams(**field)


def test_bad_requests_carry_their_error_and_leave_the_others_alone():
    llm = llm_of("llama-gqa", kv_blocks=10, prefix_caching=True)
    good = prompts_of(9, 5)
    bad = {
        "context": ([5] * 500, greedy(100)),
        "never fit": ([5] * 30, greedy(30)),
        "empty": ([], greedy(3)),
        "vocabulary": ([5, 10**6], greedy(3)),
        "token 1180591620717411303424": ([5, 2**70, 5, 5, 5], greedy(3)),
    }
    prompts = [good[0], *(prompt for prompt, _ in bad.values()), good[1]]
    params = [greedy(6), *(p for _, p in bad.values()), greedy(6)]
    done = llm.generate(prompts, params)
    assert [c.token_ids for c in (done[0], done[-1])] == [hf_greedy("llama-gqa", tuple(p), 6) for p in good]
    for word, completion in zip(bad, done[1:-1]):
        assert completion.finish == "error"
        assert word in str(completion.error)
    assert_idle(llm)


@pytest.mark.parametrize("plan", ["dense", "swift_kv:keep=3", "self_speculative"])
def test_nan_logits_end_one_request(plan):
    llm = llm_of("llama-gqa", plan)
    poison, good = 77, prompts_of(9, 5, vocab=70)
    llm.model.embedding[poison] = float("nan")
    done = llm.generate([good[0], [3, poison, 4], good[1]], greedy(6))
    assert [c.finish for c in done] == ["length", "error", "length"]
    assert "NaN" in str(done[1].error)
    assert done[1].token_ids == []
    alone = llm_of("llama-gqa", plan)
    assert [done[i].token_ids for i in (0, 2)] == [c.token_ids for c in alone.generate(good, greedy(6))]
    assert_idle(llm)


def test_text_without_a_tokenizer(folder):
    for file in folder.glob("token*"):
        file.unlink()
    llm = LLM(folder, device="cpu")
    assert llm.generate([[5, 6]], greedy(3))[0].text == ""
    with pytest.raises(InputError, match="tokenizer"):
        llm.add("text")
    with pytest.raises(InputError, match="tokenizer"):
        llm.add([5, 6], SamplingParams(stop=("x",)))


def test_a_refused_call_leaves_nobody_waiting():
    llm = llm_of("llama-gqa")
    llm.tokenizer = None
    with pytest.raises(InputError, match="tokenizer"):
        llm.generate([[3, 4, 5], "text"], greedy(4))
    llm.step()
    assert_idle(llm)


@pytest.mark.parametrize("request_number", [-1, 1, 10**6])
def test_a_request_that_never_was(request_number):
    llm = llm_of("llama-gqa")
    llm.add([3, 4, 5], greedy(2))
    for ask in (llm.abort, llm.result):
        with pytest.raises(InputError, match=f"request {request_number}: there are 1 so far"):
            ask(request_number)


def test_command_line_errors_are_one_line(folder, capsys):
    assert main(["generate", "--model", str(folder), "--strategy", "swiftkv", "--prompt", "x"]) == 2
    assert main(["generate", "--model", str(folder), "--prompt", "x" * 2000]) == 2
    assert main(["bench", "--model", str(folder / "no")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") for line in lines)
