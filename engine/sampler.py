"""From logits to tokens, per request: penalties, filters, seeded noise, logprobs, and when to stop.

A request's tokens depend on its own logits, seed and step alone, never on its row or its batch mates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.kernels.sample import filter_logits, sample
from engine.transfer import Landing, move
from sim.errors import InputError

MOST_TOKENS = 2**31 - 1
LEAST, MOST = 1e-6, 1e6  # what logits can be divided by and still be float32 numbers
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
            "max_tokens": 1 <= self.max_tokens <= MOST_TOKENS,
            "temperature": self.temperature == 0 or LEAST <= self.temperature <= MOST,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": LEAST <= self.repetition_penalty <= MOST,
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
    late: Tensor | None = None  # [1], the last token of that history if only the device knows it yet
    checked: bool = False  # whether the likeliest token is wanted too


@dataclass(frozen=True)
class Token:
    """What was drawn, as the host reads it."""

    token: int  # or LOST
    logprobs: dict[int, float] | None = None
    top1: int | None = None  # the likeliest token, where asked for


@dataclass(frozen=True)
class Drawn:
    """Tokens on the device, int64 [rows], and on their way to the host with what else was asked for."""

    tokens: Tensor
    counts: list[int | None]  # [rows] alternatives whose log-probabilities are reported
    checked: list[bool]
    landing: Landing

    def read(self) -> list[Token]:
        """One per row; waits until they are there."""
        tokens, *more = self.landing.wait()
        chosen, top, value, likeliest = (part.tolist() for part in more) if more else ([[]] * 4)
        out = []
        for row, token in enumerate(tokens.tolist()):
            logprobs, count = None, self.counts[row]
            if count is not None and token != LOST:
                logprobs = {token: chosen[row]} | dict(zip(top[row][:count], value[row][:count]))
            out.append(Token(token, logprobs, likeliest[row] if self.checked[row] else None))
        return out


def draw_tokens(logits: Tensor, draws: Sequence[Draw]) -> Drawn:
    """One token per row of logits [rows, vocab], LOST where they are not numbers; nothing waits for the device."""
    counts, checked = [d.params.logprobs for d in draws], [d.checked for d in draws]
    if not draws:
        none = torch.empty(0, dtype=torch.int64, device=logits.device)
        return Drawn(none, counts, checked, Landing([none], logits.device))
    scores = _penalised(logits, draws)
    temperature = _column(scores, [d.params.temperature for d in draws], torch.float32)
    if any(d.params.filters for d in draws):
        scores = _filtered(scores, draws, temperature)
    seed = _column(scores, [d.seed for d in draws], torch.int64)
    step = _column(scores, [d.step for d in draws], torch.int32)
    tokens = sample(scores, temperature, seed, step)
    asked = any(checked) or any(count is not None for count in counts)
    more = _logprobs(logits, tokens, max(c or 0 for c in counts)) if asked else []
    return Drawn(tokens, counts, checked, Landing([tokens, *more], logits.device))


def _column(like: Tensor, values: Sequence[float] | Sequence[int], dtype: torch.dtype) -> Tensor:
    return move(torch.tensor(values, dtype=dtype), like.device)


def _penalised(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits of tokens that occurred divided by the penalty where positive, multiplied where negative."""
    if all(d.params.repetition_penalty == 1 for d in draws):
        return logits
    out = logits.clone()
    for row, d in enumerate(draws):
        if d.params.repetition_penalty != 1:
            seen = _column(logits, sorted(set(d.history)), torch.int64)
            if d.late is not None:
                seen = torch.cat([seen, d.late.clamp_min(0)])  # twice is once: both write the same value
            x = out[row, seen]
            out[row, seen] = torch.where(x > 0, x / d.params.repetition_penalty, x * d.params.repetition_penalty)
    return out


def _filtered(scores: Tensor, draws: Sequence[Draw], temperature: Tensor) -> Tensor:
    """The scores with what a request's filters rule out at -inf; only rows that filter are sorted."""
    rows = [i for i, d in enumerate(draws) if d.params.filters]
    index = _column(scores, rows, torch.int64)
    some = [draws[i].params for i in rows]
    kept = filter_logits(
        scores[index],
        temperature[index],
        top_k=_column(scores, [min(p.top_k, scores.shape[1]) for p in some], torch.int32),
        top_p=_column(scores, [p.top_p for p in some], torch.float32),
        min_p=_column(scores, [p.min_p for p in some], torch.float32),
    )
    return scores.index_copy(0, index, kept.to(scores.dtype))


def _logprobs(logits: Tensor, tokens: Tensor, count: int) -> list[Tensor]:
    """Log-probabilities under the model itself (no temperature, no filter), on the device.

    Of the chosen tokens [rows], of the `count` likeliest as entries and values [rows, count]; the likeliest [rows].
    """
    logprob = logits.log_softmax(-1)
    top = logprob.topk(min(count, logprob.shape[1]))
    chosen = logprob.gather(1, tokens.clamp_min(0)[:, None])[:, 0]
    return [chosen, top.indices, top.values, logits.argmax(-1)]
