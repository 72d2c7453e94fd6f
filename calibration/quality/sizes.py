"""How large a model is trained, on how much, for how long."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calibration.quality.world import LARGE, SMALL, World
from sim.errors import InputError, UnknownName

Family = Literal["llama", "opt"]
TRAINING = "training.json"


@dataclass(frozen=True)
class Size:
    """A model and the recipe that trains it."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int  # of the gated FFN; OPT's two matrices get half as much again
    context: int
    world: World
    mix: Mapping[str, int]  # rows of each task per step
    widths: tuple[int, ...]  # row widths that texts are padded to
    batch_tokens: int  # padded tokens of one forward pass
    steps: int
    lr: float = 0.02
    adam_lr: float = 5e-3
    adapt_share: float = 1.0  # of the mix's rows, in a step of adapting
    note: str = ""

    @property
    def adapt_mix(self) -> Mapping[str, int]:
        """Rows of each task per step of adapting."""
        return {task: max(1, round(self.adapt_share * rows)) for task, rows in self.mix.items()}

    def config(self, family: Family, vocabulary: int) -> dict[str, Any]:
        """Fields of the Hugging Face config."""
        common = {
            "vocab_size": vocabulary,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "bos_token_id": None,
            "eos_token_id": 1,
        }
        if family == "opt":
            opt = {"ffn_dim": self.ffn * 3 // 2, "word_embed_proj_dim": self.hidden, "dropout": 0.0}
            return common | opt | {"attention_dropout": 0.0, "activation_function": "relu", "init_std": 0.02}
        llama = {"intermediate_size": self.ffn, "num_key_value_heads": self.kv_heads, "rms_norm_eps": 1e-5}
        return common | llama | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}


_ROWS = {"facts": 32, "recall": 40, "copy": 16, "resume": 16, "sum": 32, "tally": 24, "order": 16, "code": 8}
CPU = Size(
    name="cpu",
    layers=8,
    hidden=96,
    heads=4,
    kv_heads=4,
    ffn=192,
    context=256,
    world=SMALL,
    mix=_ROWS,
    widths=(16, 24, 36, 64),
    batch_tokens=8192,
    steps=800,
    note="CPU-size model: ranking may transfer, magnitudes do not",
)
H200 = Size(
    name="h200",
    layers=24,
    hidden=640,
    heads=10,
    kv_heads=2,
    ffn=1728,
    context=1024,
    world=LARGE,
    mix={"facts": 768, "recall": 240, "copy": 128, "resume": 128, "sum": 512, "tally": 192, "order": 128, "code": 128},
    widths=(24, 64, 128, 256, 512),
    batch_tokens=32768,
    steps=450,
    adam_lr=3e-3,
    adapt_share=0.25,
    note="100M-parameter model on synthetic tasks and code: ranking may transfer, magnitudes do not",
)
SIZES = {"cpu": CPU, "h200": H200}


def size_of(folder: Path) -> Size:
    """The size that a model's folder was trained at. Raises InputError where its `training.json` does not say."""
    file = folder / TRAINING
    try:
        return size_named(json.loads(file.read_text(encoding="utf-8"))["recipe"]["size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: does not say how the model was trained ({error}); give --text") from error


def size_named(name: str) -> Size:
    """A size by name. Raises UnknownName."""
    if name not in SIZES:
        raise UnknownName("size", name, SIZES)
    return SIZES[name]
