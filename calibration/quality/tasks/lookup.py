"""What only the keys and values of the prompt can answer: recall at a distance, copying, resuming a sequence."""

import numpy as np

from calibration.quality.tasks.item import Item, Split, split_of
from calibration.quality.vocabulary import Vocabulary

ASKED = 2  # keys in one question


class Recall:
    """Keys with two symbols each; `⟨?⟩ k3 k1 ⟨=⟩` is answered `k3 x y k1 u v`. The facet is the distance of k3."""

    name = "recall"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.v = vocabulary

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """A question about two pairs; distance is counted in pairs from the end of the list."""
        world = self.v.world
        while True:
            count = int(rng.integers(world.pairs[0], world.pairs[1] + 1))
            keys = [f"⟨key {k}⟩" for k in rng.choice(world.keys, count, replace=False)]
            values = [
                (f"⟨symbol {a}⟩", f"⟨symbol {b}⟩") for a, b in rng.choice(world.symbols, (count, 2), replace=False)
            ]
            asked = [int(i) for i in rng.choice(count, ASKED, replace=False)]
            listed = [word for key, value in zip(keys, values) for word in (key, *value)]
            prompt = self.v.encode("⟨recall⟩", *listed, "⟨?⟩", *(keys[i] for i in asked), "⟨=⟩")
            if split_of(prompt) == split:
                answer = self.v.encode(*(word for i in asked for word in (keys[i], *values[i])))
                return Item(self.name, prompt, (*answer, self.v.end), f"{count - asked[0]} pairs back")


class Copy:
    """Distinct symbols, to be repeated."""

    name = "copy"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.v = vocabulary

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """A sequence that comes back whole."""
        while True:
            listed = _symbols(self.v, rng)
            prompt = self.v.encode("⟨copy⟩", *listed, "⟨=⟩")
            if split_of(prompt) == split:
                return Item(self.name, prompt, (*self.v.encode(*listed), self.v.end), f"{len(listed)} symbols")


class Resume:
    """Distinct symbols, then two of them in a row: what followed there must follow here (an induction head's work)."""

    name = "resume"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.v = vocabulary

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """A sequence to be taken up from anywhere in its first half."""
        while True:
            listed = _symbols(self.v, rng)
            at = int(rng.integers(0, len(listed) // 2))
            prompt = self.v.encode("⟨resume⟩", *listed, "⟨=⟩", *listed[at : at + 2])
            if split_of(prompt) == split:
                answer = self.v.encode(*listed[at + 2 :])
                return Item(self.name, prompt, (*answer, self.v.end), f"{len(listed)} symbols")


def _symbols(vocabulary: Vocabulary, rng: np.random.Generator) -> list[str]:
    world = vocabulary.world
    count = int(rng.integers(world.copied[0], world.copied[1] + 1))
    return [f"⟨symbol {s}⟩" for s in rng.choice(world.symbols, count, replace=False)]
