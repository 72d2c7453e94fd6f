"""A model's shape from the config.json of a Hugging Face checkpoint, read with json alone."""

import json
from pathlib import Path
from typing import Any

from sim.errors import InputError
from sim.plans.model import Family, ModelShape

_FAMILIES: dict[str, Family] = {
    "opt": "opt",
    "llama": "llama",
    "llama_swiftkv": "llama",
    "qwen2": "qwen2",
    "mistral": "mistral",
}


class _Config:
    """The fields of one config.json; every complaint names the file and the field."""

    def __init__(self, file: Path, fields: dict[str, Any]) -> None:
        self.file = file
        self.fields = fields

    def count(self, field: str, default: int | None = None) -> int:
        """A whole number ≥ 1; a missing field or null takes the default, and is an error without one."""
        value = self.fields.get(field)
        if value is None:
            if default is None:
                raise InputError(f"{self.file}: field {field!r} is missing; add it, or use a name of the catalogue")
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.file}: field {field!r} is {value!r}; it must be a whole number ≥ 1")
        return value

    def flag(self, field: str, *, default: bool) -> bool:
        """True or false; a missing field takes the default."""
        value = self.fields.get(field, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.file}: field {field!r} is {value!r}; it must be true or false")
        return value

    def head_dim(self, hidden: int, heads: int) -> int:
        """`head_dim` where given, else hidden / heads."""
        if self.fields.get("head_dim") is None and hidden % heads:
            raise InputError(
                f"{self.file}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}; give 'head_dim'"
            )
        return self.count("head_dim", hidden // heads)


def shape_from_config(path: Path) -> ModelShape:
    """The shape in a config.json, or in the config.json of a folder; the model is called after the folder.

    Known values of model_type: opt, llama, llama_swiftkv, qwen2, mistral. Ignored: norms, biases, OPT-350m's
    word_embed_proj_dim (embeddings half as wide as the stream, with a projection: the head is over-counted twofold).
    A sliding window bounds `max_context`: inside it attention is the full attention that is priced. Raises
    InputError naming the file and the field when the file is missing or broken, or a field is missing or unusable.
    """
    file = path / "config.json" if path.is_dir() else path
    config = _Config(file, _read(file))
    kind = config.fields.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise InputError(f"{file}: field 'model_type' is {kind!r}; known are {', '.join(_FAMILIES)}")
    family = _FAMILIES[kind]
    opt = family == "opt"
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    return ModelShape(
        name=file.resolve().parent.name,
        family=family,
        layers=config.count("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        # Only OPT and the first Llama configs leave it out, and mean one KV head per head; the default of the other
        # two families is a constant of the library, not of the checkpoint.
        kv_heads=heads if opt else config.count("num_key_value_heads", heads if family == "llama" else None),
        head_dim=config.head_dim(hidden, heads),
        ffn=config.count("ffn_dim" if opt else "intermediate_size"),
        vocab=config.count("vocab_size"),
        max_context=_context(config, family),
        gated_ffn=not opt,
        tied_embeddings=config.flag("tie_word_embeddings", default=opt),
        source=str(file),
    )


def _context(config: _Config, family: Family) -> int:
    positions = config.count("max_position_embeddings")
    windowed = family == "mistral" or (family == "qwen2" and config.flag("use_sliding_window", default=False))
    return min(positions, config.count("sliding_window", positions)) if windowed else positions


def _read(file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or "unreadable"
        raise InputError(f"{file}: cannot be read ({why}); give a config.json or the folder of one") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text (byte {error.start}); give a config.json") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: line {error.lineno}, column {error.colno}: not JSON ({error.msg})") from error
    if not isinstance(fields, dict):
        raise InputError(f"{file}: holds a {type(fields).__name__}, not an object with the model's fields")
    return fields
