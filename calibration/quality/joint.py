"""What a batch saves of an FFN gate: a layer's weights stay unread only where all its rows skip it at once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.quality.similarity import Watched

BATCHES = (1, 2, 4, 8, 16, 32, 64)
DRAWS = 4000
QUORUM = 0.5


def joint_rates(seen: Watched, *, warmup_tokens: int, seed: int) -> list[dict[str, Any]]:
    """Per batch size: the share of FFN reads saved, measured against rows that were independent, and a vote's price.

    `measured` draws rows at the same generated index (a batch that started together), `phases` rows at any index
    (continuous batching); `independent` is the mean over layers of p^B with p the layer's own rate. `vote` is the
    share of FFNs that all rows would leave out if half of them want to, `forced` the rows that this overrules. `aged`
    and `mixed` are `measured` and `phases` by layer, which `ffn_skip:profile=FILE` prices.
    """
    rng = np.random.default_rng([seed, 11])
    after = seen.place >= warmup_tokens
    skipped, place = seen.skipped[after], seen.place[after]
    out = []
    for batch in BATCHES:
        same = np.stack([skipped[_same_place(place, batch, rng)] for _ in range(DRAWS)])  # [draws, B, L]
        mixed = skipped[rng.integers(0, len(skipped), (DRAWS, batch))]
        wants = same.mean(axis=1)
        vote = wants >= QUORUM
        against = np.where(vote, 1 - wants, wants)
        out.append(
            {
                "rows": batch,
                "independent": _rounded((skipped.mean(axis=0) ** batch).mean()),
                "measured": _rounded(same.all(axis=1).mean()),
                "phases": _rounded(mixed.all(axis=1).mean()),
                "aged": [_rounded(x) for x in same.all(axis=1).mean(axis=0)],
                "mixed": [_rounded(x) for x in mixed.all(axis=1).mean(axis=0)],
                "vote": _rounded(vote.mean()),
                "forced": _rounded(against.mean()),
            }
        )
    return out


def _same_place(place: NDArray[np.int64], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of tokens at one generated index, drawn with replacement; indices as often as they occur."""
    at = place[rng.integers(len(place))]
    return rng.choice(np.flatnonzero(place == at), batch)


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 6)
