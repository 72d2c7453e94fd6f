"""Facts about invented people, learned in training: they live in the weights, nothing in the prompt tells.

After the bioS data of Physics of Language Models 3.1 (Allen-Zhu and Li, arXiv 2309.14316); FFN-SkipLLM claims that
factual questions survive FFN skipping.
"""

import numpy as np

from calibration.quality.tasks.item import Item, Split, split_of
from calibration.quality.vocabulary import ATTRIBUTES, Vocabulary


class Facts:
    """`⟨facts⟩ first last ⟨?⟩ work pet ⟨=⟩` is answered `work w pet p`; the person's values were drawn once."""

    name = "facts"

    def __init__(self, vocabulary: Vocabulary) -> None:
        world = vocabulary.world
        rng = np.random.default_rng([world.seed, 1])
        names = rng.choice(world.first_names * world.last_names, world.people, replace=False)
        self.first, self.last = np.divmod(names, world.last_names)
        self.value = rng.integers(0, world.values, (world.people, len(ATTRIBUTES)))
        self.questioned = round(world.questioned * world.people)
        self.v = vocabulary

    def draw(self, rng: np.random.Generator, split: Split) -> Item:
        """A question about some attributes, in some order; in training about the first `questioned` people only."""
        world = self.v.world
        while True:
            person = int(rng.integers(world.people))
            if split == "train" and person >= self.questioned:
                return self.biography(rng, person)
            about = [int(a) for a in rng.permutation(len(ATTRIBUTES))[: world.asked]]
            names = [f"⟨{ATTRIBUTES[a]}⟩" for a in about]
            prompt = self.v.encode("⟨facts⟩", *self._name(person), "⟨?⟩", *names, "⟨=⟩")
            if split_of(prompt) == split:
                return Item(self.name, prompt, (*self._told(person, about), self.v.end), f"person {person}")

    def biography(self, rng: np.random.Generator, person: int) -> Item:
        """All attributes of a person, in any order, without a question."""
        about = [int(a) for a in rng.permutation(len(ATTRIBUTES))]
        prompt = self.v.encode("⟨bio⟩", *self._name(person), "⟨=⟩")
        return Item("biography", prompt, (*self._told(person, about), self.v.end), f"person {person}")

    def _name(self, person: int) -> tuple[str, str]:
        return f"⟨first {self.first[person]}⟩", f"⟨last {self.last[person]}⟩"

    def _told(self, person: int, about: list[int]) -> tuple[int, ...]:
        words = [(f"⟨{ATTRIBUTES[a]}⟩", f"⟨{ATTRIBUTES[a]} {self.value[person, a]}⟩") for a in about]
        return self.v.encode(*(word for pair in words for word in pair))
