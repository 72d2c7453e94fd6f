"""The two parts of a plan that a table cannot hold: a gate that looks at its input, and a draft that is verified."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sim.errors import PlanError

GATHERED_ROWS = 192  # from here on a step is bound by compute: rows that skip an FFN leave its GEMMs, and save time


@dataclass(frozen=True, eq=False)
class Together:
    """How often all rows of a batch left the same FFN out, as it was measured: rows agree more than chance has it."""

    rows: NDArray[np.int64]  # [K] sizes of the batches, from 1 on
    skip: NDArray[np.float64]  # [K, L] share of steps in which all of them skip layer l's FFN

    def __post_init__(self) -> None:
        rows, skip = np.array(self.rows, dtype=np.int64), np.array(self.skip, dtype=np.float64)
        if (
            skip.ndim != 2
            or rows.shape != skip.shape[:1]
            or not rows.size
            or rows[0] != 1
            or (np.diff(rows) <= 0).any()
        ):
            raise PlanError(f"FFN gate: joint rates {skip.shape} need batches that grow from 1, got {rows}")
        if not (np.isfinite(skip).all() and skip.min() >= 0 and skip.max() <= 1):
            raise PlanError("FFN gate: joint rates must be shares in 0..1")
        for name, values in (("rows", rows), ("skip", skip)):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Shares for batches of `rows`, [len(rows), L], linear between logarithms; 0 beyond the largest measured."""
        at, known = np.log(np.maximum(rows, 1)), np.log(self.rows)
        columns = [np.interp(at, known, column) for column in self.skip.T]
        return np.where((rows <= self.rows[-1])[:, None], np.stack(columns, axis=1), 0.0)


@dataclass(frozen=True, eq=False)
class FfnGate:
    """Input-adaptive FFN skipping (FFN-SkipLLM, arXiv 2404.03865; rule as in the authors' code).

    Per generated token, once: after a full layer whose FFN moved the residual stream by little
    (cos(before, after) > threshold), the next `run_length` FFNs are left out; the first and last `cold_layers` always
    run, so do the first `warmup_tokens` generated tokens and every `cadence`-th token after them.
    """

    threshold: float
    cold_layers: int
    run_length: int
    cadence: int
    warmup_tokens: int
    skip: NDArray[np.float64]  # [L] share of tokens after the warm-up, full ones included, that skip layer l's FFN
    source: str = "expected"  # where `skip` comes from: a rule of thumb, or a measured profile
    together: Together | None = None  # what batches agree on; None: rows decide independently

    def __post_init__(self) -> None:
        skip = np.array(self.skip, dtype=np.float64)
        if skip.ndim != 1 or not np.isfinite(skip).all() or skip.min() < 0 or skip.max() > 1:
            raise PlanError(f"FFN gate: skip rates must be shares in 0..1 per layer, got {skip}")
        if not np.isfinite(self.threshold):
            raise PlanError(f"FFN gate: threshold={self.threshold} must be a finite number")
        for name, least in (("cold_layers", 0), ("run_length", 0), ("cadence", 1), ("warmup_tokens", 0)):
            if getattr(self, name) < least:
                raise PlanError(f"FFN gate: {name}={getattr(self, name)} must be at least {least}")
        if self.together is not None and self.together.skip.shape[1] != skip.size:
            raise PlanError(f"FFN gate: joint rates of {self.together.skip.shape[1]} layers beside {skip.size}")
        skip.setflags(write=False)
        object.__setattr__(self, "skip", skip)

    @property
    def mean_skip(self) -> float:
        """Share of all FFN blocks left out, averaged over layers and eligible tokens."""
        return float(self.skip.mean())

    def all_skip(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probability that all of `rows` rows skip, [len(rows), L]: the weights' only saving.

        As measured, where `together` says; else p^B, of rows that decide independently.
        """
        if self.together is not None:
            return self.together.of(np.asarray(rows))
        return np.asarray(self.skip[None, :] ** np.asarray(rows)[:, None], dtype=np.float64)

    @cached_property
    def key(self) -> tuple[object, ...]:
        """What two equal gates share."""
        numbers = (self.threshold, self.cold_layers, self.run_length, self.cadence, self.warmup_tokens)
        together = () if self.together is None else (self.together.rows.tobytes(), self.together.skip.tobytes())
        return (*numbers, self.skip.tobytes(), *together)

    def layer_key(self, layer: int) -> tuple[object, ...]:
        """What two layers that are skipped alike share."""
        return (float(self.skip[layer]), b"" if self.together is None else self.together.skip[:, layer].tobytes())


@dataclass(frozen=True)
class DraftRule:
    """Self-speculative decoding (LayerSkip, arXiv 2404.16710): draft with the first layers, verify with the rest.

    Lossless under greedy decoding. Each step drafts `tokens` with layers 0..exit_layer-1 and the head, then runs all
    layers once over tokens + 1 rows; a draft token is accepted with probability `acceptance`, up to the first refusal.
    """

    exit_layer: int
    tokens: int
    acceptance: float

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.acceptance <= 1:
            raise PlanError(f"draft: tokens={self.tokens} must be ≥ 1 and acceptance={self.acceptance} in 0..1")

    @property
    def key(self) -> tuple[object, ...]:
        """What two equal rules share."""
        return (self.exit_layer, self.tokens, self.acceptance)

    @property
    def expected_tokens(self) -> float:
        """Mean tokens emitted per step: (1 - a^(k+1)) / (1 - a)."""
        a = self.acceptance
        return self.tokens + 1.0 if a == 1 else (1 - a ** (self.tokens + 1)) / (1 - a)
