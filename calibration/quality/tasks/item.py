"""One question with its one right answer, and which split it belongs to."""

from dataclasses import dataclass
from typing import Literal, Protocol
from zlib import crc32

import numpy as np

Split = Literal["train", "calibrate", "test"]
Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """A prompt and its answer, which ends with the end token unless it is prose."""

    task: str
    prompt: Tokens
    answer: Tokens
    facet: str = ""  # what varies inside the task: the distance of a recalled pair, the constraints of an order
    prose: bool = False  # text to be continued: every token is worth predicting, no answer is the right one


class Task(Protocol):
    """A source of items."""

    name: str

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """An item of the split."""


def split_of(tokens: Tokens) -> Split:
    """Where a prompt belongs, for ever: a tenth each is kept for calibrating and for testing."""
    bucket = crc32(np.asarray(tokens, dtype=np.int32).tobytes()) % 10
    return "test" if bucket == 0 else "calibrate" if bucket == 1 else "train"
