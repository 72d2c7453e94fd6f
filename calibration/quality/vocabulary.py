"""Tokens of the tasks: characters for text and digits, one token for every name, key, value and sign."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from calibration.quality.world import World

PAD, END, UNKNOWN = "⟨pad⟩", "⟨end⟩", "⟨unknown⟩"
SIGNS = ("⟨facts⟩", "⟨bio⟩", "⟨recall⟩", "⟨copy⟩", "⟨resume⟩", "⟨sum⟩", "⟨say⟩", "⟨tally⟩", "⟨code⟩", "⟨?⟩", "⟨=⟩",
         "⟨times⟩", "⟨upper⟩", "⟨lower⟩", "⟨total⟩")  # fmt: skip
ATTRIBUTES = ("town", "work", "year", "pet")
COLOURS = ("⟨red⟩", "⟨green⟩", "⟨blue⟩")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


class Vocabulary:
    """Token ids of a world; a word is written in brackets ⟨like this⟩, everything else is a character."""

    def __init__(self, world: World) -> None:
        self.world = world
        words = [PAD, END, UNKNOWN, *CHARACTERS, *SIGNS, *COLOURS]
        words += [f"⟨{name}⟩" for name in ATTRIBUTES]
        words += [f"⟨{name} {i}⟩" for name in ATTRIBUTES for i in range(world.values)]
        words += [f"⟨first {i}⟩" for i in range(world.first_names)]
        words += [f"⟨last {i}⟩" for i in range(world.last_names)]
        words += [f"⟨key {i}⟩" for i in range(world.keys)]
        words += [f"⟨symbol {i}⟩" for i in range(world.symbols)]
        self.words = tuple(words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each token."""
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.ids[END]

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, *words: str) -> tuple[int, ...]:
        """Ids of tokens; what has no brackets is spelled out."""
        return tuple(self.ids[w] for word in words for w in ([word] if word.startswith("⟨") else word))

    def text(self, tokens: list[int]) -> str:
        """The text of ids, as the tokenizer would give it."""
        return "".join(self.words[token] for token in tokens)

    @cached_property
    def of_character(self) -> NDArray[np.int16]:
        """Id of each code point below 128, -1 where it has none."""
        table = np.full(128, -1, dtype=np.int16)
        for character in CHARACTERS:
            table[ord(character)] = self.ids[character]
        return table

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and what transformers needs beside it."""
        made = Tokenizer(models.WordLevel(self.ids, unk_token=UNKNOWN))
        made.pre_tokenizer = pre_tokenizers.Split(Regex(r"⟨[^⟩]*⟩|[\s\S]"), behavior="isolated")
        made.decoder = decoders.Fuse()
        fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=made, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
        )
        fast.save_pretrained(folder)
