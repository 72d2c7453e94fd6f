"""FFN-SkipLLM: leave out feed-forward blocks that no longer move the residual stream."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.errors import PlanError
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan, plan_of
from sim.plans.rules import FfnGate
from sim.plans.strategies.arguments import real, spec_of, unless, whole

PUBLISHED_THRESHOLD = 0.95

# Mean cosine between the streams before and after each FFN, averaged from the logs in the authors' repository
# (Ajay1994/layer-skip, C4): Llama-2-7B-chat, 279 tokens; Llama-2-13B-chat, 840 tokens.
# fmt: off
_SIMILARITY_7B = (
    .928, .890, .917, .893, .867, .881, .868, .868, .878, .885, .895, .904, .905, .901, .908, .911,
    .919, .927, .935, .942, .953, .962, .965, .969, .974, .974, .977, .977, .974, .973, .953, .758,
)
_SIMILARITY_13B = (
    .915, .904, .914, .904, .914, .897, .888, .895, .900, .907, .909, .916, .919, .921, .923, .928, .929, .934, .944, .948,
    .953, .957, .963, .968, .973, .973, .978, .981, .982, .981, .983, .985, .984, .985, .984, .983, .981, .978, .969, .788,
)
# fmt: on


def similarity_profile(layers: int) -> NDArray[np.float64]:
    """Assumed mean cosine per layer, [layers]: the published profile of the nearer depth, stretched to this one.

    Measured on Llama-2-chat 7B (32 layers) and 13B (40 layers) only; a rule of thumb for every other model.
    """
    profile = np.array(_SIMILARITY_7B if layers <= 36 else _SIMILARITY_13B)
    return np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, profile.size), profile)


@dataclass(frozen=True)
class _Room:
    """Where a run of skips may start and end, for one depth and one set of cold layers."""

    similarity: NDArray[np.float64]  # [L]
    cold_layers: int

    @property
    def end(self) -> int:
        return self.similarity.size - self.cold_layers

    def start(self, threshold: float) -> int:
        """First layer whose FFN is left out: the one after the first tested layer above the threshold."""
        first = max(1, self.cold_layers)
        above = np.flatnonzero(self.similarity[first - 1 : self.end - 1] > threshold)
        return first + int(above[0]) if above.size else self.end

    def threshold_for(self, run: int) -> float:
        """The published threshold if it leaves room for `run` skips, else the highest that does."""
        candidates = [PUBLISHED_THRESHOLD]
        tested = self.similarity[max(1, self.cold_layers) - 1 : self.end - 1]
        record = -1.0
        for value in tested.tolist():
            if value > record:
                candidates.append(round((max(record, value - 0.01) + value) / 2, 4))
                record = value
        fitting = [t for t in candidates if t <= PUBLISHED_THRESHOLD and self.end - self.start(t) >= run]
        return max(fitting, default=PUBLISHED_THRESHOLD)


def ffn_skip(
    model: ModelShape,
    *,
    share: float | None = None,
    threshold: float | None = None,
    cold_layers: int = 5,
    run_length: int | None = None,
    cadence: int = 6,
    warmup_tokens: int = 16,
    skip: NDArray[np.float64] | None = None,
) -> SkipPlan:
    """A dense plan with a gate: after a layer whose FFN hardly moved the stream, the next `run_length` FFNs are left out.

    `share` (0.25 when neither it, nor `run_length`, nor `skip` is given) asks for that share of all FFN blocks, over
    the tokens after the `warmup_tokens` (16 for the authors' 1,024-token sequences): one token in `cadence` runs in
    full, so a run is share·L·cadence / (cadence - 1) long, rounded up; the fraction is the skip rate of its last layer
    (the authors alternate run lengths to the same end). `skip` [L] gives measured rates instead. Without them the run
    starts where the published similarity profile crosses `threshold`: on 32 layers 0.95 is crossed too late for more
    than 16 %, so when `threshold` is not given it is lowered as far as the share needs. FFN-SkipLLM, Jaiswal et al.,
    arXiv 2404.03865, rule and constants as in the authors' code. A threshold > 1, a share or run length of 0 is the
    dense plan. Raises PlanError with the largest share that can be reached.
    """
    layers, me = model.layers, "ffn_skip"
    room = _Room(similarity_profile(layers), whole(me, "cold_layers", cold_layers, 0, layers))
    rate = 1 - 1 / whole(me, "cadence", cadence, 1, model.max_context)
    warmup = whole(me, "warmup_tokens", warmup_tokens, 0, model.max_context)
    if threshold is not None:
        real(me, "threshold", threshold, -1.0, math.inf)
    if share is None and run_length is None and skip is None:
        share = 0.25
    if share is not None and (run_length is not None or skip is not None):
        raise PlanError(f"{me}: share={share} already decides run_length and skip; give one or the other")
    run = _run_of(model, room, share, rate, threshold) if share is not None else float(run_length or 0)
    whole(me, "run_length", math.ceil(run), 0, layers)
    used = room.threshold_for(math.ceil(run)) if threshold is None else threshold
    measured = skip is not None
    rates = np.asarray(skip, dtype=np.float64) if measured else _expected(room, run, rate, used)
    cap = math.ceil(run) if run_length is not None or not measured else layers
    neutral = used > 1 or cap == 0
    name = spec_of(
        me,
        share=share,
        threshold=threshold,
        cold_layers=unless(room.cold_layers, 5),
        run_length=run_length,
        cadence=unless(cadence, 6),
        warmup_tokens=unless(warmup, 16),
    )
    gate = FfnGate(float(used), room.cold_layers, cap, cadence, warmup, rates, "measured" if measured else "expected")
    return plan_of(layers, name=name, gate=None if neutral else gate)


def _run_of(model: ModelShape, room: _Room, share: float, rate: float, threshold: float | None) -> float:
    """Length of the run, in layers, that makes `share` of all FFNs; PlanError where there is no room for it."""
    real("ffn_skip", "share", share, 0.0, 1.0)
    if threshold is not None and threshold > 1:
        return 0.0
    start = max(1, room.cold_layers) if threshold is None else room.start(threshold)
    most = max(0, room.end - start) * rate / model.layers
    if share > most:
        where = "any threshold" if threshold is None else f"threshold={threshold}"
        raise PlanError(
            f"ffn_skip: share={share} is out of reach on {model.name}: with {where}, {room.cold_layers} cold layers at"
            f" either end of {model.layers} and full tokens between, at most {most:.3f}; lower threshold or cold_layers"
        )
    return round(share * model.layers / rate, 9) if share else 0.0


def _expected(room: _Room, run: float, rate: float, threshold: float) -> NDArray[np.float64]:
    """Share of eligible tokens that skip each layer's FFN, [L], if every token's run starts at the same layer."""
    layer = np.arange(room.similarity.size)
    start = room.start(threshold)
    inside = np.clip(start + run - layer, 0, 1) * (layer >= start) * (layer < room.end)
    return np.asarray(rate * inside, dtype=np.float64)
