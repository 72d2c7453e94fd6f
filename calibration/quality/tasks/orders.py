"""Orders whose obedience can be checked one constraint at a time, as instruction-following benchmarks do."""

import numpy as np

from calibration.quality.tasks.item import Item, Split, split_of
from calibration.quality.vocabulary import END, Vocabulary

SEPARATORS = "-,/"


class Order:
    """`⟨say⟩ cat ⟨times⟩ 3 ⟨upper⟩ - ⟨=⟩` is answered `CAT-CAT-CAT`: word, number, case, separator are constraints."""

    name = "order"

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.v = vocabulary

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """An order; the facet spells it for `obeyed`."""
        while True:
            word = "".join(chr(97 + c) for c in rng.integers(0, 26, int(rng.integers(2, 5))))
            times = int(rng.integers(1, self.v.world.repeats + 1))
            case = ("⟨upper⟩", "⟨lower⟩")[rng.integers(2)]
            separator = SEPARATORS[rng.integers(len(SEPARATORS))]
            prompt = self.v.encode("⟨say⟩", word, "⟨times⟩", str(times), case, separator, "⟨=⟩")
            if split_of(prompt) == split:
                said = separator.join([word.upper() if case == "⟨upper⟩" else word] * times)
                facet = f"{word} {times} {case[1:-1]} {separator}"
                return Item(self.name, prompt, (*self.v.encode(said), self.v.end), facet)


def obeyed(item: Item, said: str) -> dict[str, bool]:
    """Which constraints of an order a text meets; it is right when it meets all and ends."""
    word, times, case, separator = item.facet.split(" ")
    text = said.removesuffix(END)
    pieces = text.split(separator)
    letters = [c for c in text if c.isalpha()]
    return {
        "word": all(piece.lower() == word for piece in pieces),
        "times": len(pieces) == int(times),
        "case": bool(letters) and all(c.isupper() == (case == "upper") for c in letters),
        "separator": set(text) & set(SEPARATORS) <= {separator},
        "ends": said.endswith(END),
    }
