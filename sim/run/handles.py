"""Many replicas at hand of one function, compiled or not.

Interpreted, `Members` is a list of seats. A compiled function can neither hold a list of replicas whose plans differ
nor afford one crossing from Python for every look at one of them (some hundred columns: 50 µs). For it each seat is
written down as a row of words: address and shape of every column, value of every scalar; `sim.run.compiled_dispatch`
puts the seat together again, which costs loads of what is used of it. Whoever keeps the words must keep the seats.
"""

from collections.abc import Sequence
from struct import pack, unpack

import numpy as np

from sim.run.loop import advance
from sim.run.seat import Seat
from sim.serving.columns import Ints

Members = Sequence[Seat]


def seat_at(members: Members, i: int) -> Seat:
    """The seat of one of the members."""
    return members[i]


def step_to(seat: Seat, until_ns: int) -> int:
    """`sim.run.loop.advance` on a seat."""
    return advance(seat.replica, seat.flow, until_ns)


def words_of(value: object) -> list[int]:
    """The words of a seat: 64 bits each, in the order of its fields."""
    if isinstance(value, tuple):
        return [word for part in value for word in words_of(part)]
    if isinstance(value, np.ndarray):
        assert value.flags.c_contiguous
        return [value.ctypes.data, *value.shape]
    if isinstance(value, float):
        return [int(unpack("<q", pack("<d", value))[0])]
    assert isinstance(value, (int, np.integer))
    return [int(value)]


class Handles:
    """The words of all members, a row each; rows are written again when a seat's columns move."""

    def __init__(self) -> None:
        self.words: Ints = np.zeros((0, 0), dtype=np.int64)

    def write(self, i: int, seat: Seat) -> None:
        """Write down member i, an old one or the next."""
        row = np.array(words_of(seat), dtype=np.int64)
        if i == self.words.shape[0]:
            more = np.zeros((max(8, 2 * i), row.size), dtype=np.int64)
            more[:i] = self.words if i else more[:0]
            self.words = more
        self.words[i] = row
