"""Model shapes by name, or by the folder of a Hugging Face checkpoint.

The catalogue is data (`models.toml`); a checkpoint's shape is read from its config.json. Weights are never opened.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from sim.errors import UnknownName
from sim.plans.config_json import shape_from_config
from sim.plans.model import ModelShape

# What publishers append to the name of the same shape: Llama-2-7b-chat-hf, Mistral-7B-Instruct-v0.3.
_SUFFIX = re.compile(r"-(instruct|chat|hf|base|v0\.3)$")


def _read_catalogue() -> Mapping[str, ModelShape]:
    families = tomllib.loads(Path(__file__).with_name("models.toml").read_text(encoding="utf-8"))
    return MappingProxyType(
        {
            name: ModelShape(name=name, **{**family["shared"], **shape})
            for family in families.values()
            for name, shape in family["models"].items()
        }
    )


MODELS: Mapping[str, ModelShape] = _read_catalogue()


def catalogue_name(name: str) -> str:
    """The catalogue's spelling of a name: lower case, no organisation, no -instruct, -chat, -hf, -base, -v0.3."""
    short = name.strip().lower().rsplit("/", 1)[-1].removeprefix("meta-")
    while _SUFFIX.search(short):
        short = _SUFFIX.sub("", short)
    return short


def model_named(name: str) -> ModelShape:
    """The shape of a model of the catalogue, or of the checkpoint in a folder.

    `name` is a catalogue name or an alias of one ("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"), or the path
    of a config.json or of the folder that holds it. A path that exists wins over an alias when it has a separator;
    write ./opt-1.3b for a folder called like a model. Raises UnknownName (with the nearest name) for a name that is
    neither, InputError for a path that cannot be read as a config.json of a known family.
    """
    path = Path(name).expanduser()
    if "/" in name and path.exists():
        return shape_from_config(path)
    model = MODELS.get(catalogue_name(name))
    if model is not None:
        return model
    if path.exists() or name.startswith((".", "/", "~")) or name.endswith(".json"):
        return shape_from_config(path)
    raise UnknownName("model", catalogue_name(name), MODELS)
