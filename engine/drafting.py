"""Self-speculation's drafts: the plan's first layers guess a few tokens ahead, the whole model then checks them.

Drafts are lossless (LayerSkip, arXiv 2404.16710, section 4.3): what the whole model draws counts, a right guess only
saves an iteration. Noise belongs to a request's step, so that holds for sampled tokens as for greedy ones.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.batch import Piece, batch_of

if TYPE_CHECKING:
    from engine.loop import Engine


def drafts_of(engine: "Engine", pieces: Sequence[Piece]) -> list[list[int]]:
    """Tokens guessed for each decoding row, as many as the scheduler made room for."""
    rule = engine.plan.draft
    assert rule is not None
    drafts: list[list[int]] = [[] for _ in pieces]
    wanted = engine.state.row_tokens[: len(pieces)] - np.array([len(p.tokens) for p in pieces])
    for step in range(int(wanted.max())):
        rows = np.flatnonzero(wanted > step).tolist()
        heads = []
        for i in rows:
            p, last = pieces[i], drafts[i][-1] if drafts[i] else pieces[i].tokens[-1]
            heads.append(Piece(p.request, p.prompt_tokens, p.start + step, [last], 1))
        batch = batch_of(heads, engine.plan, engine.cache, engine.device, until=rule.exit_layer)
        outcome = engine.forward(batch)
        engine.metrics.note(batch, outcome, draft=True)
        for i, guess in zip(rows, outcome.logits.argmax(-1).tolist()):
            drafts[i].append(guess)
    return drafts


def verified(piece: Piece, draft: list[int]) -> Piece:
    """The piece with its drafts behind it; each of them gets logits too."""
    if not draft:
        return piece
    return Piece(piece.request, piece.prompt_tokens, piece.start, [*piece.tokens, *draft], 1 + len(draft))
