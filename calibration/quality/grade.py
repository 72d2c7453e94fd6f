"""From answers to numbers: exact match with its interval, paired differences to the dense model, collapse."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError

Z = 1.959963984540054  # 95 %
RESAMPLES = 4000
PERIODS = range(1, 5)  # lengths of a repeated phrase, in tokens
EXCESS = 6  # tokens of repetition beyond the right answer's own that count as collapse


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927). Raises InputError for no items."""
    if n < 1:
        raise InputError("no items were answered; an empty evaluation set has no score")
    p, z2 = right / n, Z * Z
    centre, half = p + z2 / (2 * n), Z * sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return low if right else 0.0, high if right < n else 1.0


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided exact p-value that as many items were lost as gained (McNemar 1947, binomial)."""
    n = lost + gained
    if n == 0:
        return 1.0
    tail = sum(comb(n, k) for k in range(min(lost, gained) + 1)) / 2**n
    return min(1.0, 2 * tail)


@dataclass(frozen=True)
class Paired:
    """The same items under a plan and dense: items whose answer was lost, gained, or stayed right or wrong."""

    n: int
    lost: int
    gained: int

    @property
    def difference(self) -> float:
        """Share of right answers under the plan minus dense."""
        return (self.gained - self.lost) / self.n

    def resampled(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Bootstrap differences over items, [RESAMPLES]; only the two counts matter, so they are drawn directly."""
        shares = np.array([self.lost, self.gained, self.n - self.lost - self.gained]) / self.n
        drawn = rng.multinomial(self.n, shares, RESAMPLES)
        return np.asarray((drawn[:, 1] - drawn[:, 0]) / self.n, dtype=np.float64)


def paired(plan: Sequence[bool], dense: Sequence[bool]) -> Paired:
    """The comparison of two runs over the same items. Raises InputError where they are not, or there are none."""
    if len(plan) != len(dense) or not plan:
        raise InputError(f"{len(plan)} answers against {len(dense)}: the runs are not over the same, non-empty items")
    mine, theirs = np.asarray(plan, dtype=bool), np.asarray(dense, dtype=bool)
    return Paired(len(plan), int((~mine & theirs).sum()), int((mine & ~theirs).sum()))


def interval(samples: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of bootstrap samples."""
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)


def repeated(tokens: Sequence[int]) -> int:
    """The longest stretch of tokens each equal to the one 1 to 4 places before it: a phrase said over and over."""
    longest = 0
    for period in PERIODS:
        run = 0
        for i in range(period, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - period] else 0
            longest = max(longest, run)
    return longest


def collapsed(said: Sequence[int], right: Sequence[int]) -> bool:
    """Whether an answer repeats itself far beyond what the right one does."""
    return repeated(said) > repeated(right) + EXCESS


def agreement(said: Sequence[int], other: Sequence[int]) -> float:
    """Share of places at which two answers hold the same token; what is missing in one disagrees."""
    length = max(len(said), len(other))
    return sum(a == b for a, b in zip(said, other)) / length if length else 1.0
