"""One request as its client sees it: what was asked, the tokens so far, how it ended; and why some never start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from engine.sampler import LOST, Draw, SamplingParams, Token
from sim.serving.config import Knobs

StopText = Callable[[list[int]], bool]


@dataclass
class Stream:
    """One request: its tokens, how it is sampled, how it ended."""

    prompt: list[int]
    params: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    stop_text: StopText | None = None  # told the new tokens; whether a stop string has appeared
    tokens: list[int] = field(default_factory=list)  # generated
    logprobs: list[dict[int, float]] = field(default_factory=list)
    finish: str | None = None  # stop | length | abort | error
    error: str | None = None

    @classmethod
    def of(cls, tokens: list[int], params: SamplingParams, *, seed: int, eos: Sequence[int], **text: Any) -> "Stream":
        """A new one; `seed` and `eos` are what holds where the parameters say nothing else."""
        stop = {*params.stop_token_ids, *(() if params.ignore_eos else eos)}
        return cls(tokens, params, seed if params.seed is None else params.seed, frozenset(stop), **text)

    @property
    def known(self) -> int:
        """Tokens that the host has seen, the prompt's included."""
        return len(self.prompt) + len(self.tokens)

    def part(self, start: int, end: int) -> list[int]:
        """Tokens at positions start..end-1, as far as they are known."""
        n = len(self.prompt)
        return self.prompt[start : min(end, n)] + self.tokens[max(0, start - n) : max(0, end - n)]

    def draw(self, late: Tensor | None = None, *, checked: bool = False) -> Draw:
        """The next token to be drawn; `late` is one before it that only the device knows yet, [1]."""
        penalised = self.params.repetition_penalty != 1
        history = [*self.prompt, *self.tokens] if penalised else []
        step = len(self.tokens) + (late is not None)
        return Draw(self.params, self.seed, step, history, late, checked)

    def take(self, drawn: Token) -> bool:
        """Whether the request has ended with this token."""
        if drawn.token == LOST:
            self.finish, self.error = "error", "the model's logits are not numbers (NaN or infinity)"
            return True
        self.tokens.append(drawn.token)
        if drawn.logprobs is not None:
            self.logprobs.append(drawn.logprobs)
        if drawn.token in self.stop_ids or (self.stop_text is not None and self.stop_text(self.tokens)):
            self.finish = "stop"
        elif len(self.tokens) == self.params.max_tokens:
            self.finish = "length"
        return self.finish is not None

    @property
    def drawn(self) -> int:
        """Tokens that were drawn for it, one that was lost included."""
        return len(self.tokens) + (self.finish == "error")


def unusable(tokens: list[int], vocab: int) -> str | None:
    """What is wrong with a prompt, or None."""
    if not tokens:
        return "the prompt is empty; give at least one token"
    bad = [token for token in tokens if not 0 <= token < vocab]
    return f"token {bad[0]} is not in the vocabulary of {vocab}" if bad else None


def refusal(knobs: Knobs, prompt: int, output: int) -> str:
    """Why the scheduler does not take a request of so many tokens."""
    asks = f"a prompt of {prompt} tokens and max_tokens={output}"
    if prompt + output > knobs.max_context:
        return f"{asks} exceed the context of {knobs.max_context}; shorten the prompt or lower max_tokens"
    held = knobs.total_units // knobs.full_units * knobs.block_tokens
    return f"{asks} never fit into KV memory of {held} tokens; raise kv_blocks or lower max_tokens"
