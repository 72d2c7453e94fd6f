"""From logits to tokens, per request: penalties, filters, seeded noise, logprobs, and when to stop.

A request's tokens depend on its own logits, seed and step alone, never on its row or its batch mates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engine.kernels.sample import filter_logits, sample
from sim.errors import InputError

LOST = -1  # a row without a token: its logits hold NaN or infinity


@dataclass(frozen=True)
class SamplingParams:
    """How one request is continued; the defaults are greedy."""

    max_tokens: int = 16
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None  # None: the engine's seed and the request's number
    repetition_penalty: float = 1.0  # arXiv 1909.05858
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # how many alternatives to report beside the chosen token's

    def __post_init__(self) -> None:
        ranges = {
            "max_tokens": self.max_tokens >= 1,
            "temperature": 0 <= self.temperature < float("inf"),
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": 0 < self.repetition_penalty < float("inf"),
            "logprobs": self.logprobs is None or self.logprobs >= 0,
            "seed": self.seed is None or -(2**63) <= self.seed < 2**63,
            "stop": all(self.stop),
        }
        for name, fits in ranges.items():
            if not fits:
                raise InputError(f"{name}={getattr(self, name)!r} is out of range; see SamplingParams")

    @property
    def filters(self) -> bool:
        """Whether any token may be ruled out."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


@dataclass(frozen=True)
class Draw:
    """One token to be drawn: whose, after which tokens, and the how-many-eth of its request."""

    params: SamplingParams
    seed: int
    step: int
    history: Sequence[int] = ()  # prompt and output so far, for the repetition penalty


@dataclass(frozen=True)
class Drawn:
    """Tokens, and log-probabilities where asked for."""

    tokens: list[int]
    logprobs: list[dict[int, float] | None] = field(default_factory=list)


def draw_tokens(logits: Tensor, draws: Sequence[Draw]) -> Drawn:
    """One token per row of logits [rows, vocab]; LOST where a row's logits are not numbers."""
    scores = _penalised(logits, draws)
    temperature = _column(scores, [d.params.temperature for d in draws], torch.float32)
    if any(d.params.filters for d in draws):
        scores = _filtered(scores, draws, temperature)
    seed = _column(scores, [d.seed for d in draws], torch.int64)
    step = _column(scores, [d.step for d in draws], torch.int32)
    tokens = sample(scores, temperature, seed, step).tolist()
    return Drawn(tokens, [_logprobs(logits[i], t, d.params.logprobs) for i, (t, d) in enumerate(zip(tokens, draws))])


def _column(like: Tensor, values: list[float] | list[int], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)


def _penalised(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits of tokens that occurred divided by the penalty where positive, multiplied where negative."""
    if all(d.params.repetition_penalty == 1 for d in draws):
        return logits
    out = logits.clone()
    for row, d in enumerate(draws):
        if d.params.repetition_penalty != 1 and len(d.history):
            seen = torch.tensor(sorted(set(d.history)), device=logits.device)
            x = out[row, seen]
            out[row, seen] = torch.where(x > 0, x / d.params.repetition_penalty, x * d.params.repetition_penalty)
    return out


def _filtered(scores: Tensor, draws: Sequence[Draw], temperature: Tensor) -> Tensor:
    """The scores with what a request's filters rule out at -inf; only rows that filter are sorted."""
    rows = [i for i, d in enumerate(draws) if d.params.filters]
    index = torch.tensor(rows, device=scores.device)
    some = [draws[i].params for i in rows]
    kept = filter_logits(
        scores[index],
        temperature[index],
        top_k=_column(scores, [p.top_k for p in some], torch.int32),
        top_p=_column(scores, [p.top_p for p in some], torch.float32),
        min_p=_column(scores, [p.min_p for p in some], torch.float32),
    )
    return scores.index_copy(0, index, kept.to(scores.dtype))


def _logprobs(logits: Tensor, token: int, count: int | None) -> dict[int, float] | None:
    """Log-probabilities under the model itself (no temperature, no filter) of the chosen and the likeliest tokens."""
    if count is None or token == LOST:
        return None
    logprob = logits.log_softmax(-1)
    top = logprob.topk(min(count, len(logprob)))
    chosen = {token: float(logprob[token])}
    return chosen | dict(zip(top.indices.tolist(), top.values.tolist()))
