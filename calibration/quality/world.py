"""What a model is asked about: how many people, pairs, digits. Its folder says, so that the tasks can be remade."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sim.errors import InputError

FILE = "quality.json"


@dataclass(frozen=True)
class World:
    """The extent of the tasks; the same world and seed give the same questions and answers everywhere."""

    seed: int = 2026
    first_names: int = 12
    last_names: int = 12
    people: int = 96
    values: int = 12  # per attribute
    asked: int = 3  # attributes in one question
    questioned: float = 1.0  # share of people with questions in training; the others have biographies only
    keys: int = 24
    pairs: tuple[int, int] = (3, 8)  # of a recall prompt, each a key with two symbols
    symbols: int = 24
    copied: tuple[int, int] = (4, 10)
    digits: int = 3
    repeats: int = 4
    records: tuple[int, int] = (5, 12)  # symbols of a tally
    window: int = 64  # characters of code; the first half is the prompt

    def __post_init__(self) -> None:
        if self.people > self.first_names * self.last_names:
            raise InputError(f"people={self.people}: there are {self.first_names * self.last_names} different names")
        most = max(2 * self.pairs[1], self.copied[1], self.records[1])
        if self.pairs[1] > self.keys or most > self.symbols:
            raise InputError("a prompt draws keys and symbols without repeating any; raise keys or symbols")

    def write(self, folder: Path) -> None:
        """Put the world into a model's folder."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


SMALL = World()
LARGE = replace(
    SMALL,
    first_names=72,
    last_names=72,
    people=2000,
    values=48,
    keys=128,
    pairs=(8, 64),
    symbols=128,
    copied=(8, 64),
    digits=4,
    repeats=8,
    records=(16, 96),
    window=512,
)


def read_world(folder: Path) -> World:
    """The world that a model was trained in. Raises InputError where the folder does not say."""
    file = folder / FILE
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return World(**known)
    except OSError as error:
        raise InputError(f"{file}: cannot be read; `python -m calibration quality train` writes one") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: is no description of tasks ({error!r})") from error
