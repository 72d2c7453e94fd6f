"""How long requests are: length distributions, called with a number of requests and a generator.

Each returns int64 tokens, [n], all at least 1. Invalid parameters raise InputError when the distribution is made.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError, UnknownName
from sim.workload.workload import Column

Lengths = Callable[[int, np.random.Generator], Column]


def _whole(tokens: NDArray[np.float64]) -> Column:
    """Rounded to tokens; what rounds to none is one, a request has no fewer."""
    return np.maximum(np.rint(tokens), 1).astype(np.int64)


@dataclass(frozen=True)
class Fixed:
    """Every request the same."""

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"length is {self.tokens} tokens; it must be at least 1")

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        return np.full(n, self.tokens, dtype=np.int64)


@dataclass(frozen=True)
class RangeRatio:
    """Uniform integers in [floor(L (1 - r)), ceil(L (1 + r))], both ends included, never below 1.

    This is `vllm bench serve --random-range-ratio` (vllm/benchmarks/datasets/utils.py); other tools use the same word
    for one-sided ranges below L, whose mean is shorter.
    """

    tokens: int
    ratio: float

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.ratio < 1:
            raise InputError(f"length {self.tokens}, range ratio {self.ratio}: need ≥ 1 token and a ratio in [0, 1)")

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        low = max(1, int(np.floor(self.tokens * (1 - self.ratio))))
        high = int(np.ceil(self.tokens * (1 + self.ratio)))
        return rng.integers(low, high, size=n, endpoint=True)


@dataclass(frozen=True)
class Lognormal:
    """exp(N(ln median, sigma²)), rounded: the usual shape of prompt lengths, with mean median · exp(sigma² / 2)."""

    median: float
    sigma: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.median) and self.median >= 1 and 0 <= self.sigma <= 5):
            raise InputError(f"lognormal median {self.median}, sigma {self.sigma}: need median ≥ 1 and sigma in [0, 5]")

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        return _whole(rng.lognormal(np.log(self.median), self.sigma, n))


@dataclass(frozen=True, eq=False)
class Quantiles:
    """An empirical distribution by inversion: linear between the given quantiles."""

    levels: NDArray[np.float64]  # [k], from 0 to 1
    tokens: NDArray[np.float64]  # [k]

    def __post_init__(self) -> None:
        levels, tokens = np.asarray(self.levels, dtype=float), np.asarray(self.tokens, dtype=float)
        if levels.ndim != 1 or levels.shape != tokens.shape or levels.size < 2:
            raise InputError(f"quantile table: {levels.size} levels, {tokens.size} lengths; need as many, at least 2")
        if levels[0] != 0 or levels[-1] != 1 or not (np.diff(levels) > 0).all():
            raise InputError("quantile table: levels must rise from 0 to 1")
        if not (np.diff(tokens) >= 0).all() or not tokens[0] >= 1:
            raise InputError("quantile table: lengths must not fall and must start at 1 token or more")
        object.__setattr__(self, "levels", levels)
        object.__setattr__(self, "tokens", tokens)

    def at(self, u: NDArray[np.float64]) -> Column:
        """The lengths at probabilities u."""
        return _whole(np.interp(u, self.levels, self.tokens))

    def __call__(self, n: int, rng: np.random.Generator) -> Column:
        return self.at(rng.random(n))


@dataclass(frozen=True, eq=False)
class JointQuantiles:
    """Prompt and output lengths that depend on each other: output quantiles given the band of the prompt.

    `outputs[b]` holds for prompts between the quantiles b / B and (b + 1) / B, B = len(outputs).
    """

    prompts: Quantiles
    outputs: tuple[Quantiles, ...]
    source: str

    def draw(self, n: int, prompt_rng: np.random.Generator, output_rng: np.random.Generator) -> tuple[Column, Column]:
        """Prompt and output tokens, [n] each."""
        u, v = prompt_rng.random(n), output_rng.random(n)
        band = (u * len(self.outputs)).astype(np.int64)
        output = np.empty(n, dtype=np.int64)
        for b, quantiles in enumerate(self.outputs):
            output[band == b] = quantiles.at(v[band == b])
        return self.prompts.at(u), output


@cache
def _tables() -> Mapping[str, JointQuantiles]:
    text = (resources.files("sim.workload") / "azure_quantiles.toml").read_text(encoding="utf-8")
    tables = {}
    for name, entry in tomllib.loads(text).items():
        prompts = Quantiles(entry["prompt_levels"], entry["prompt_tokens"])
        outputs = tuple(Quantiles(entry["output_levels"], row) for row in entry["output_tokens"])
        tables[name] = JointQuantiles(prompts, outputs, f"{entry['source']} ({entry['licence']})")
    return tables


def quantile_names() -> tuple[str, ...]:
    """Names of the measured length tables that ship with the package."""
    return tuple(_tables())


def quantiles_named(name: str) -> JointQuantiles:
    """The shipped table of that name; raises UnknownName."""
    if name not in _tables():
        raise UnknownName("workload", name, _tables())
    return _tables()[name]
