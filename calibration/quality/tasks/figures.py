"""What has to be worked out: sums with carries, and sections of a list to be extracted and counted."""

import numpy as np

from calibration.quality.tasks.item import Item, Split, split_of
from calibration.quality.vocabulary import COLOURS, Vocabulary


class Sum:
    """Two numbers and their sum, lowest digit first, so that each digit needs only what is already written."""

    name = "sum"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.v = vocabulary

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """A sum of two numbers of `digits` digits, leading zeros allowed; the facet counts the carries."""
        digits = self.v.world.digits
        while True:
            a, b = (int(n) for n in rng.integers(0, 10**digits, 2))
            prompt = self.v.encode("⟨sum⟩", _reversed(a, digits), "+", _reversed(b, digits), "⟨=⟩")
            if split_of(prompt) == split:
                answer = self.v.encode(_reversed(a + b, digits + 1))
                carries = sum((a % 10**i + b % 10**i) >= 10**i for i in range(1, digits + 1))
                return Item(self.name, prompt, (*answer, self.v.end), f"{carries} carries")


def _reversed(number: int, digits: int) -> str:
    return f"{number:0{digits}d}"[::-1]


class Tally:
    """Symbols under three headings; those of one are to be extracted in order and counted: a long input summed up."""

    name = "tally"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.v = vocabulary

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """Sections of at least one symbol, and a question about one of them; the facet is the number of symbols."""
        low, high = self.v.world.records
        while True:
            count = int(rng.integers(low, high + 1))
            symbols = [f"⟨symbol {s}⟩" for s in rng.choice(self.v.world.symbols, count, replace=False)]
            cuts = sorted(int(c) for c in rng.choice(np.arange(1, count), len(COLOURS) - 1, replace=False))
            sections = [symbols[a:b] for a, b in zip([0, *cuts], [*cuts, count])]
            order, asked = rng.permutation(len(COLOURS)), int(rng.integers(len(COLOURS)))
            listed = [word for c, section in zip(order, sections) for word in (COLOURS[c], *section)]
            prompt = self.v.encode("⟨tally⟩", *listed, "⟨?⟩", COLOURS[order[asked]], "⟨=⟩")
            if split_of(prompt) == split:
                answer = self.v.encode(*sections[asked], "⟨total⟩", *str(len(sections[asked])))
                return Item(self.name, prompt, (*answer, self.v.end), f"{count} symbols")
