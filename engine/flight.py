"""What an iteration leaves behind until its tokens are read, and who may be asked about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from torch import Tensor

from engine.batch import Piece
from engine.sampler import Drawn


class FullDepth(Protocol):
    """Who says what the dense model would have said (`engine.agreement`)."""

    def wants(self, request: int, step: int) -> bool:
        """Whether this token is one of the sample."""

    def top1(self, tokens: Sequence[int]) -> int:
        """The likeliest token after these."""


@dataclass(frozen=True)
class Flight:
    """An iteration that has been given to the device."""

    pieces: list[Piece]
    drafts: list[list[int]]
    logits: Tensor  # [outputs, vocab]
    drawn: Drawn  # one token for each sampling piece
    sampling: list[int]  # numbers of those pieces
    start_ns: int
    launched_ns: int

    @cached_property
    def places(self) -> dict[int, int]:
        """Which of the drawn tokens is whose."""
        return {self.pieces[i].request: place for place, i in enumerate(self.sampling)}
