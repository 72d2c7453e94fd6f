"""Python to be continued: the standard library's source, read from the interpreter that runs this, never copied out."""

import sysconfig
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from calibration.quality.tasks.item import Item, Split
from calibration.quality.vocabulary import Vocabulary
from sim.errors import InputError

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "encodings", "__pycache__"}


class Code:
    """Windows of source files; whole files are kept for calibrating and testing."""

    name = "code"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.v = vocabulary
        self._corpora: dict[Split, NDArray[np.int16]] = {}

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """A window of known characters: its first half is the prompt."""
        window, corpus = self.v.world.window, self.corpus(split)
        while True:
            start = int(rng.integers(0, len(corpus) - window + 1))
            piece = corpus[start : start + window - 1]
            if piece.min() >= 0:
                tokens = [int(t) for t in piece]
                half = window // 2 - 1
                prompt = self.v.encode("⟨code⟩") + tuple(tokens[:half])
                return Item(self.name, prompt, tuple(tokens[half:]), prose=True)

    def corpus(self, split: Split) -> NDArray[np.int16]:
        """Ids of a split's files one after the other; -1 where a character has none, and between files."""
        if split not in self._corpora:
            table = self.v.of_character
            parts = []
            for name, data in library():
                if split_of_file(name) == split:
                    codes = np.frombuffer(data, dtype=np.uint8)
                    parts += [table[np.where(codes < 128, codes, 0)], np.array([-1], dtype=np.int16)]
            if not parts:
                raise InputError(f"the standard library's source has no file for the split {split!r}; install it")
            self._corpora[split] = np.concatenate(parts)
        return self._corpora[split]


def split_of_file(name: str) -> Split:
    """Where a source file belongs, by its path in the library."""
    bucket = crc32(name.encode()) % 20
    return "test" if bucket == 0 else "calibrate" if bucket == 1 else "train"


@cache
def library() -> tuple[tuple[str, bytes], ...]:
    """(path, bytes) of the standard library's modules, in order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.rglob("*.py") if not LEFT_OUT & set(p.relative_to(root).parts))
    return tuple((p.relative_to(root).as_posix(), p.read_bytes()) for p in files)
