"""Model shapes: by name, by alias, by config.json; and what is said when one cannot be had."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim.errors import InputError, UnknownName
from sim.plans.catalogue import MODELS, catalogue_name, model_named
from sim.plans.model import ModelShape

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
OPT: dict[str, Any] = {
    "model_type": "opt",
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "ffn_dim": 8192,
    "vocab_size": 50272,
    "max_position_embeddings": 2048,
    "word_embed_proj_dim": 2048,
}
NUMBERS = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_context", "gated_ffn")


def folder(tmp_path: Path, config: object, name: str = "checkpoint") -> Path:
    """A folder with that config.json; text is written as it is."""
    path = tmp_path / name
    path.mkdir()
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


def numbers(model: ModelShape) -> list[object]:
    return [getattr(model, field) for field in (*NUMBERS, "tied_embeddings")]


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-405B", "llama-3.1-405b"),
        ("Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("facebook/opt-6.7b", "opt-6.7b"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        (" opt-1.3b ", "opt-1.3b"),
    ],
)
def test_publishers_names_resolve(alias: str, name: str) -> None:
    assert model_named(alias) is MODELS[name]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_catalogue_agrees_with_itself(name: str) -> None:
    model = MODELS[name]
    assert model.name == name == catalogue_name(model.source)
    if name != "qwen3-32b":
        assert model.d_q == model.hidden, "true of all others; a slip in heads or head_dim breaks it"
    assert model.gated_ffn == (model.family != "opt")


def test_a_checkpoint_reads_as_the_catalogue_has_it(tmp_path: Path) -> None:
    llama, opt = folder(tmp_path, LLAMA, "llama"), folder(tmp_path, OPT, "opt")
    assert numbers(model_named(str(llama))) == numbers(MODELS["llama-3.1-8b"])
    assert numbers(model_named(str(opt / "config.json"))) == numbers(MODELS["opt-1.3b"])
    assert model_named(str(llama)).name == "llama"
    assert model_named(str(llama)).source == str(llama / "config.json")


def test_a_folder_wins_over_an_alias_when_written_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path, {**LLAMA, "num_hidden_layers": 5}, "opt-1.3b")
    assert model_named("./opt-1.3b").layers == 5
    assert model_named("opt-1.3b") is MODELS["opt-1.3b"]


def test_families_differ_in_what_they_may_leave_out(tmp_path: Path) -> None:
    def read(name: str, **fields: object) -> ModelShape:
        config = {**LLAMA, **fields}
        return model_named(str(folder(tmp_path, {k: v for k, v in config.items() if v is not None}, name)))

    assert read("a", num_key_value_heads=None).kv_heads == 32
    assert read("b", model_type="llama_swiftkv", num_key_value_layers=16).family == "llama"
    assert read("c", head_dim=64).head_dim == 64
    assert read("d", model_type="mistral", sliding_window=4096).max_context == 4096
    assert read("e", model_type="mistral").max_context == 131072
    assert read("f", model_type="qwen2", sliding_window=4096).max_context == 131072
    assert read("g", model_type="qwen2", sliding_window=4096, use_sliding_window=True).max_context == 4096
    assert read("h", tie_word_embeddings=True).tied_embeddings
    with pytest.raises(InputError, match="'num_key_value_heads' is missing"):
        read("i", model_type="qwen2", num_key_value_heads=None)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**LLAMA, "model_type": "mixtral"}, "'model_type' is 'mixtral'; known are opt, llama"),
        ({**LLAMA, "model_type": ["llama"]}, "'model_type' is"),
        ({}, "'model_type' is None"),
        ({k: v for k, v in LLAMA.items() if k != "intermediate_size"}, "'intermediate_size' is missing"),
        ({**LLAMA, "vocab_size": 0}, "'vocab_size' is 0; it must be a whole number"),
        ({**LLAMA, "vocab_size": True}, "'vocab_size' is True"),
        ({**LLAMA, "vocab_size": "128256"}, "'vocab_size' is '128256'"),
        ({**LLAMA, "hidden_size": 4095}, "hidden_size 4095 is not a multiple of num_attention_heads 32"),
        ({**LLAMA, "tie_word_embeddings": 1}, "'tie_word_embeddings' is 1; it must be true or false"),
        ({**LLAMA, "num_key_value_heads": 5}, "32 heads do not share 5 KV heads evenly"),
        ('{"model_type": "llama",', "line 1, column 24: not JSON"),
        ("[]", "holds a list, not an object"),
        ("", "line 1, column 1: not JSON"),
    ],
)
def test_a_bad_config_names_file_and_field(tmp_path: Path, config: object, message: str) -> None:
    path = folder(tmp_path, config)
    with pytest.raises(InputError, match=message) as caught:
        model_named(str(path))
    assert "checkpoint" in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*cannot be read \(No such file"):
        model_named(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"config\.json: cannot be read"):
        model_named(str(tmp_path))
    with pytest.raises(InputError, match=r"gone\.json: cannot be read"):
        model_named("gone.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        model_named(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "nearest"), [("llama-9-8b", "llama-3.1-8b"), ("llama3.1-8b", "llama-3.1-8b"), ("org/opt-6b", "opt-66b")]
)
def test_an_unknown_name_gets_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown model .*did you mean '(.*)'\? known: .*opt-125m") as caught:
        model_named(name)
    assert f"did you mean '{nearest}'" in str(caught.value)
