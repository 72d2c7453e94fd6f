"""Scores of known answers, token by token: each is predicted from the right tokens before it (teacher forcing)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.quality.tasks.item import Item
from engine.adapt_data import texts_of
from engine.adapt_model import Seen, Twin
from sim.plans.plan import SkipPlan

TOKENS = 8192  # padded, of one forward pass


@dataclass(frozen=True)
class Forced:
    """What a model made of each answer token of an item, [answer]."""

    best: NDArray[np.int64]  # the likeliest token
    logprob: NDArray[np.float64]  # of the right token
    right: NDArray[np.bool_]


@torch.no_grad()
def forced(
    twin: Twin, items: Sequence[Item], plan: SkipPlan, *, vote: int = 0, watch: Callable[[Seen], None] | None = None
) -> list[Forced]:
    """One entry per item, in order; answers are fed as generated tokens, so the plan's decode rows hold for them.

    With `vote` items are drawn into batches of so many, which decide together what a gate leaves out. Raises PlanError
    for a plan of another depth, InputError for no items.
    """
    order = sorted(range(len(items)), key=lambda i: len(items[i].prompt) + len(items[i].answer))
    if vote:
        order = np.random.default_rng(vote).permutation(len(items)).tolist()
    out: dict[int, Forced] = {}
    chunks = _chunks(order, [len(i.prompt) + len(i.answer) for i in items])
    for part in [order[i : i + 8 * vote] for i in range(0, len(order), 8 * vote)] if vote else chunks:
        texts = texts_of([(items[i].prompt, items[i].answer) for i in part]).to(twin.device)
        live = texts.fed if vote else None
        schedule = twin.schedule(plan, texts.prompt, texts.tokens.shape[1], vote=vote, live=live)
        streams = twin(texts.tokens, schedule, watch)
        logprob = twin.logits(texts.predicting(streams)).log_softmax(-1)
        best, of_right = logprob.argmax(-1), logprob.gather(1, texts.targets[:, None])[:, 0]
        ends = np.cumsum([len(items[i].answer) for i in part])[:-1]
        columns = (best.cpu().numpy(), of_right.double().cpu().numpy(), (best == texts.targets).cpu().numpy())
        for i, *values in zip(part, *(np.split(column, ends) for column in columns)):
            out[i] = Forced(*values)
    return [out[i] for i in range(len(items))]


def _chunks(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Items in order of length, cut so that a padded batch stays below TOKENS."""
    chunks: list[list[int]] = []
    for i in order:
        if chunks and lengths[i] * (len(chunks[-1]) + 1) <= TOKENS:
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks or [[]]


def perplexity(scores: Sequence[Forced]) -> float:
    """exp of the mean negative log-probability per token."""
    return float(np.exp(-np.concatenate([s.logprob for s in scores]).mean()))
