"""ShareGPT conversations: text without token counts and without times.

A conversation becomes one request: the first human turn that is answered, and the answer. Characters become tokens
only by a ratio that the caller states: it depends on the tokenizer and on the language.
"""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np

from sim.errors import InputError
from sim.workload.traces.formats import KNOWN
from sim.workload.traces.table import decoded
from sim.workload.workload import Column

_ASKERS = {"human", "user"}
_ANSWERERS = {"gpt", "assistant", "chatgpt", "bing", "bard"}


def conversation_lengths(path: Path, data: bytes, tokens_per_char: float | None) -> tuple[Column, Column, int]:
    """Prompt tokens and output tokens, [n] each, and how many conversations hold no answered question.

    Raises InputError without a ratio, and for entries that are not conversations, naming their number.
    """
    try:
        entries = json.loads(decoded(path, data))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: starts like a JSON list but is none ({error}); {KNOWN}") from None
    if not entries or not isinstance(entries[0], dict) or "conversations" not in entries[0]:
        raise InputError(f"{path}: a JSON list, but not of objects with 'conversations'; {KNOWN}")
    if tokens_per_char is None:
        raise InputError(
            f"{path}: ShareGPT holds text, not token counts; state the ratio of your tokenizer (tokens_per_char=0.25 is"
            " 4 characters a token), or give a file of lengths with input_tokens and output_tokens"
        )
    if not (np.isfinite(tokens_per_char) and tokens_per_char > 0):
        raise InputError(f"tokens_per_char is {tokens_per_char}; it must be a positive number")
    pairs = [_answered(path, number, entry) for number, entry in enumerate(entries, start=1)]
    chars = np.array([pair for pair in pairs if pair is not None], dtype=np.int64).reshape(-1, 2)
    tokens = np.maximum(np.rint(chars * tokens_per_char), 1).astype(np.int64)
    return tokens[:, 0], tokens[:, 1], len(pairs) - len(chars)


def _answered(path: Path, number: int, entry: object) -> tuple[int, int] | None:
    """Characters of the first answered question and of its answer; None where there is none."""
    turns = entry.get("conversations") if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        raise InputError(f"{path}, entry {number}: no list of 'conversations' in {str(entry)[:60]!r}")
    for turn in turns:
        if not isinstance(turn, dict) or not all(isinstance(turn.get(key), str) for key in ("from", "value")):
            raise InputError(f"{path}, entry {number}: a turn needs 'from' and 'value' as text, not {str(turn)[:60]!r}")
    for question, answer in pairwise(turns):
        if question["from"] in _ASKERS and answer["from"] in _ANSWERERS and question["value"] and answer["value"]:
            return len(question["value"]), len(answer["value"])
    return None
