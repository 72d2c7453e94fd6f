"""Self-speculation's drafts: the plan's first layers guess a few tokens ahead, the whole model then checks them.

Drafts are lossless (LayerSkip, arXiv 2404.16710, section 4.3): what the whole model draws counts, a right guess only
saves an iteration. Noise belongs to a request's step, so that holds for sampled tokens as for greedy ones.
"""

from collections.abc import Callable, Sequence

import numpy as np

from engine.batch import Piece
from sim.serving.columns import Ints


def drafts_of(pieces: Sequence[Piece], row_tokens: Ints, guess: Callable[[list[Piece]], list[int]]) -> list[list[int]]:
    """Tokens guessed for each decoding row, as many as the scheduler made room for in its `row_tokens`.

    `guess` runs the first layers over one token of each of some rows and says the likeliest next one.
    """
    drafts: list[list[int]] = [[] for _ in pieces]
    wanted = row_tokens - np.array([len(p.tokens) for p in pieces])
    for step in range(int(wanted.max())):
        rows = np.flatnonzero(wanted > step).tolist()
        heads = []
        for i in rows:
            p, last = pieces[i], drafts[i][-1] if drafts[i] else pieces[i].tokens[-1]
            heads.append(Piece(p.request, p.prompt_tokens, p.start + step, [last], 1))
        for i, token in zip(rows, guess(heads)):
            drafts[i].append(token)
    return drafts


def verified(piece: Piece, draft: list[int]) -> Piece:
    """The piece with its drafts behind it; each of them gets logits too."""
    if not draft:
        return piece
    return Piece(piece.request, piece.prompt_tokens, piece.start, [*piece.tokens, *draft], 1 + len(draft))
