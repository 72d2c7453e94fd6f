"""Between text and tokens: a folder's tokenizer, text that grows token by token, stop strings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from sim.errors import InputError
from sim.plans.model import Family

UNFINISHED = "\ufffd"  # what a decoder shows for the first bytes of a character


def read_tokenizer(folder: Path, family: Family | None = None) -> Any | None:
    """The folder's tokenizer, or None where it has none; nothing is downloaded, remote code is not run.

    `family` stands in for the folder's model type where transformers does not know that one (llama_swiftkv).
    """
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
        return None
    try:
        config = AutoConfig.for_model(family) if family else None
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder}: its tokenizer cannot be read ({error})") from error


class GrowingText:
    """The text of a growing list of tokens, decoded in short windows.

    A token's text may depend on the ones just before it (spaces, multi-byte characters), never on far ones: the window
    starts two steps back, and text is held while it ends in an unfinished character.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.text = ""
        self._window = 0  # first token of the window
        self._read = 0  # tokens whose text is out

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether a stop string has appeared; the text then ends before it. `tokens` are all so far."""
        before = self._decode(tokens[self._window : self._read])
        now = self._decode(tokens[self._window :])
        if len(now) > len(before) and not now.endswith(UNFINISHED):
            self.text += now[len(before) :]
            self._window, self._read = self._read, len(tokens)
        return self._cut()

    @property
    def settled(self) -> str:
        """The text but for an end that the next token may make a stop string of."""
        starts = (n for stop in self.stop for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return self.text[: len(self.text) - max(starts, default=0)]

    def finish(self, tokens: Sequence[int]) -> str:
        """The whole text, unfinished characters included."""
        before = self._decode(tokens[self._window : self._read])
        self.text += self._decode(tokens[self._window :])[len(before) :]
        self._window = self._read = len(tokens)
        self._cut()
        return self.text

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _cut(self) -> bool:
        places = [place for place in (self.text.find(stop) for stop in self.stop) if place >= 0]
        if places:
            self.text = self.text[: min(places)]
            self.stop = ()  # once is enough: what comes after is not text of this request
        return bool(places)
