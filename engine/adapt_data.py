"""Texts as training and scoring see them: padded token ids, where the prompt ends, which tokens count."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sim.errors import InputError

Example = tuple[Sequence[int], Sequence[int]]  # prompt, answer


@dataclass(frozen=True)
class Texts:
    """Known texts of one width; padding stands behind them."""

    tokens: Tensor  # int64 [rows, positions]
    prompt: Tensor  # int64 [rows], tokens of each prompt
    counted: Tensor  # bool [rows, positions], tokens whose prediction counts

    @property
    def targets(self) -> Tensor:
        """The counted tokens, row after row, [counted]; `predicting` picks the streams that predict them."""
        return self.tokens[self.counted]

    @property
    def fed(self) -> Tensor:
        """Counted tokens that are fed back to predict another one, bool [rows, positions]: all but each last."""
        fed = self.counted.clone()
        fed[:, :-1] &= self.counted[:, 1:]
        fed[:, -1] = False
        return fed

    def predicting(self, streams: Tensor) -> Tensor:
        """Of streams [rows, positions, hidden] those one position before each counted token, [counted, hidden]."""
        return streams[:, :-1][self.counted[:, 1:]]

    def to(self, device: torch.device) -> "Texts":
        """The same on a device."""
        return Texts(self.tokens.to(device), self.prompt.to(device), self.counted.to(device))


def texts_of(examples: Sequence[Example], *, width: int | None = None) -> Texts:
    """Examples side by side; the tokens of answers count.

    Raises InputError for no examples, an empty prompt or answer, or one that is wider than `width`.
    """
    if not examples:
        raise InputError("there is no text to train or score on; the set is empty")
    widest = max(len(p) + len(a) for p, a in examples)
    if width is not None and widest > width:
        raise InputError(f"a text has {widest} tokens; at most {width} fit, shorten it or raise the context")
    width = width or widest
    tokens = torch.zeros(len(examples), width, dtype=torch.int64)
    counted = torch.zeros(len(examples), width, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(examples):
        if not len(prompt) or not len(answer):
            has = f"a prompt of {len(prompt)} and an answer of {len(answer)} tokens"
            raise InputError(f"text {row} has {has}; both need one")
        end = len(prompt) + len(answer)
        tokens[row, :end] = torch.tensor([*prompt, *answer])
        counted[row, len(prompt) : end] = True
    return Texts(tokens, torch.tensor([len(p) for p, _ in examples]), counted)


def read_jsonl(file: Path, tokenizer: Any, *, max_tokens: int) -> list[Example]:
    """(prompt, answer) ids of each line: {"prompt": …, "completion": …}, or {"text": …} cut in the middle.

    Longer texts are cut into pieces of `max_tokens`; of a prompt with its completion the completion's end goes first.
    Raises InputError naming file and line for what is neither, and for a file without a usable line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as UTF-8 text ({error})") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    examples = [e for number, line in numbered for e in _line(file, number, line, tokenizer, max_tokens)]
    if not examples:
        raise InputError(f'{file}: holds no text; give lines like {{"text": "…"}}')
    return examples


def _line(file: Path, number: int, line: str, tokenizer: Any, most: int) -> Iterator[Example]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}: line {number}, column {error.colno}: not JSON ({error.msg})") from error
    kinds = fields if isinstance(fields, dict) else {}
    if isinstance(kinds.get("text"), str):
        ids = tokenizer(kinds["text"])["input_ids"]
        for start in range(0, len(ids) - 1, most):
            piece = ids[start : start + most]
            if len(piece) > 1:
                yield piece[: len(piece) // 2], piece[len(piece) // 2 :]
        return
    if not (isinstance(kinds.get("prompt"), str) and isinstance(kinds.get("completion"), str)):
        raise InputError(f'{file}: line {number}: needs "text", or "prompt" and "completion", as strings')
    prompt = tokenizer(kinds["prompt"])["input_ids"]
    answer = tokenizer(kinds["completion"], add_special_tokens=False)["input_ids"]
    if not prompt or not answer or len(prompt) >= most:
        raise InputError(
            f"{file}: line {number}: a prompt of {len(prompt)} and a completion of {len(answer)} tokens; both need one,"
            f" and {most} tokens must hold the prompt and more"
        )
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    yield prompt, [*answer, *end][: most - len(prompt)]
