"""Tiny random models with tokenizers, as Hugging Face folders: for tests, demonstrations and first steps offline."""

from pathlib import Path
from typing import Any, get_args

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from sim.errors import InputError, UnknownName
from sim.plans.model import Family

FAMILIES = get_args(Family)
STD = 0.2  # wide enough that logits are not flat
CORPUS = (
    "The quick brown fox jumps over the lazy dog. A layer that is skipped is the identity on the residual stream.",
    "Weights are shared traffic, keys and values are private traffic. Prompts run the lower layers, tokens run all.",
    "0123456789 ! ? ( ) [ ] { } + - * / = < > : ; ' \" def return import for while if else print",
)


def make_tiny(folder: Path, family: str = "llama", *, seed: int = 0, layers: int = 8, **changes: Any) -> Path:
    """The folder of a new random model: config.json, model.safetensors, tokenizer.json; about 0.3 M parameters.

    `changes` are fields of the family's transformers config. Raises UnknownName for a family that is not known.
    """
    if family not in FAMILIES:
        raise UnknownName("family", family, FAMILIES)
    tokenizer = _tokenizer()
    fields = _fields(family, layers) | {"vocab_size": len(tokenizer)} | changes
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields))  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # biases of zero and norms of one would hide that one is forgotten or another's
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise InputError(f"{folder}: cannot be made ({cause.strerror}); name a folder that can be written") from cause
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _fields(family: str, layers: int) -> dict[str, Any]:
    common = {
        "num_hidden_layers": layers,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    if family == "opt":
        return common | {"ffn_dim": 128, "word_embed_proj_dim": 64, "init_std": STD}
    llama = {"intermediate_size": 128, "num_key_value_heads": 2, "initializer_range": STD}
    return common | llama | ({"sliding_window": None} if family == "mistral" else {})


def _tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few sentences: every text can be written, few texts are short."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<pad>", "<eos>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>"
    )
