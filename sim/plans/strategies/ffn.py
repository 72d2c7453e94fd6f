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
from sim.plans.strategies.measured_gate import measured_gate

PUBLISHED_THRESHOLD = 0.95

# Mean cosine between the streams before and after each FFN, averaged from the logs in the authors' repository
# (Ajay1994/layer-skip, C4): Llama-2-7B-chat, 279 tokens; Llama-2-13B-chat, 840 tokens.
# fmt: off
_SIMILARITY_7B = (
    .928, .890, .917, .893, .867, .881, .868, .868, .878, .885, .895, .904, .905, .901, .908, .911,
    .919, .927, .935, .942, .953, .962, .965, .969, .974, .974, .977, .977, .974, .973, .953, .758,
)
_SIMILARITY_13B = (
    .915, .904, .914, .904, .914, .897, .888, .895, .900, .907, .909, .916, .919, .921, .923, .928, .929, .934, .944,
    .948, .953, .957, .963, .968, .973, .973, .978, .981, .982, .981, .983, .985, .984, .985, .984, .983, .981, .978,
    .969, .788,
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
    def first(self) -> int:
        """First layer whose FFN may be left out; the one before it is the first to be tested."""
        return max(1, self.cold_layers)

    @property
    def end(self) -> int:
        """One past the last layer whose FFN may be left out; at most `first` when the cold layers meet."""
        return self.similarity.size - self.cold_layers

    @property
    def tested(self) -> NDArray[np.float64]:
        """Similarities that are compared with the threshold, of layers first - 1 .. end - 2."""
        return self.similarity[self.first - 1 :][: max(0, self.end - self.first)]

    def start(self, threshold: float) -> int:
        """First layer whose FFN is left out: the one after the first tested layer above the threshold."""
        above = np.flatnonzero(self.tested > threshold)
        return self.first + int(above[0]) if above.size else self.end

    def threshold_for(self, run: float) -> float:
        """The published threshold if it leaves room for `run` skips, else the highest that does."""
        tested = self.tested
        before = np.maximum.accumulate(np.concatenate([[-1.0], tested[:-1]]))
        halfway = (np.maximum(before, tested - 0.01) + tested)[tested > before] / 2
        candidates = [PUBLISHED_THRESHOLD, *halfway.round(6).tolist()]
        fitting = (t for t in candidates if t <= PUBLISHED_THRESHOLD and self.end - self.start(t) >= run)
        return max(fitting, default=PUBLISHED_THRESHOLD)

    def starts(self, run: float, threshold: float, spread: int, *, fit: bool) -> NDArray[np.int64]:
        """First layers of the tokens' runs, equally likely: `spread` of them around the profile's crossing.

        With `fit` the window moves and narrows until every run ends before the cold layers.
        """
        low = max(self.first, self.start(threshold) - (spread - 1) // 2)
        high = low + spread - 1
        if fit:
            high = max(self.first, min(high, math.floor(self.end - run)))
            low = max(self.first, high - spread + 1)
        return np.arange(low, high + 1)

    def skip_rates(self, run: float, rate: float, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Share of eligible tokens that skip each layer's FFN, [L]."""
        layer, start = np.arange(self.similarity.size)[:, None], starts[None, :]
        inside = np.clip(start + run - layer, 0, 1) * (layer >= start) * (layer < self.end)
        return np.asarray(rate * inside.mean(axis=1), dtype=np.float64)


def ffn_skip(
    model: ModelShape,
    *,
    share: float | None = None,
    threshold: float | None = None,
    cold_layers: int = 5,
    run_length: int | None = None,
    cadence: int = 6,
    warmup_tokens: int = 16,
    spread: int | None = None,
    skip: NDArray[np.float64] | None = None,
    profile: str | None = None,
    aged: bool = False,
) -> SkipPlan:
    """A dense plan with a gate: after a layer whose FFN hardly moved the stream, a run of FFNs is left out.

    The run is `run_length` long, once per token, between the `cold_layers` at either end; one token in `cadence` and
    the first `warmup_tokens` (16 for the authors' 1,024-token sequences) run in full. `share` (0.25 without
    run_length) asks for that share of all FFNs after the warm-up instead: a run of share·L·cadence / (cadence - 1),
    rounded up, whose fraction is the skip rate of its last layer (the authors alternate run lengths to that end).

    The gate's expected rates are `skip` [L] where measured, else what the published similarity profile gives: runs
    start where it crosses `threshold` (0.95), over `spread` layers (12) from token to token. The spread is assumed,
    no log of it is public, and it decides what a batch saves: rows that all start alike agree on their run, rows that
    do not save next to nothing from eight rows on. On 32 layers the crossing is too late for a share above 0.16, so a
    threshold that is not given is lowered, and the spread narrowed, as far as the share needs. A threshold > 1 and a
    share or run_length of 0 are the dense plan.

    `profile` is a file of `python -m calibration quality profile`: its gate for `share`, with the rates that it
    measured and what batches agreed on, rows of any age or, with `aged`, of one age (static batches).

    FFN-SkipLLM, Jaiswal et al., arXiv 2404.03865; rule and constants as in the authors' code. Raises PlanError, with
    the largest share within reach, and InputError for what is no profile.
    """
    me, at_most = "ffn_skip", model.max_context
    if profile is not None:
        if (threshold, run_length, spread, skip) != (None,) * 4 or (cold_layers, cadence, warmup_tokens) != (5, 6, 16):
            raise PlanError(f"{me}: profile={profile} decides the rule; give share and aged beside it, nothing else")
        share = 0.25 if share is None else share
        found = measured_gate(profile, model.layers, share, aged=aged)
        name = spec_of(me, share=share, profile=profile, aged=True if aged else None)
        return plan_of(model.layers, name=name, gate=found)
    if aged:
        raise PlanError(f"{me}: aged says which rows of a profile are meant; give profile=FILE")
    room = _Room(similarity_profile(model.layers), whole(me, "cold_layers", cold_layers, 0, at_most))
    rate = 1 - 1 / whole(me, "cadence", cadence, 1, at_most)
    warmup = whole(me, "warmup_tokens", warmup_tokens, 0, at_most)
    run, used = _run_and_threshold(model, room, rate, share, run_length, threshold)
    if skip is not None and run_length is None:
        raise PlanError(f"{me}: a measured profile needs the run_length that it was measured with")
    asked = {"share": 0.25 if share is None and run_length is None else share, "run_length": run_length}
    width = min(12, model.layers) if spread is None else whole(me, "spread", spread, 1, model.layers)
    usual = {"cold_layers": unless(cold_layers, 5), "cadence": unless(cadence, 6), "warmup_tokens": unless(warmup, 16)}
    name = spec_of(me, **asked, threshold=threshold, **usual, spread=spread)
    if used > 1 or run == 0 or rate == 0:
        return plan_of(model.layers, name=name)
    source = "expected" if skip is None else "measured"
    starts = room.starts(run, used, width, fit=threshold is None and run_length is None)
    rates = room.skip_rates(run, rate, starts) if skip is None else skip
    gate = FfnGate(used, room.cold_layers, math.ceil(run), cadence, warmup, rates, source)
    return plan_of(model.layers, name=name, gate=gate)


def _run_and_threshold(
    model: ModelShape, room: _Room, rate: float, share: float | None, run_length: int | None, threshold: float | None
) -> tuple[float, float]:
    """(length of the run in layers, threshold) for what was asked; PlanError for a share without room for it."""
    me = "ffn_skip"
    if threshold is not None:
        real(me, "threshold", threshold, -1.0, 2.0)
    if run_length is not None:
        if share is not None:
            raise PlanError(f"{me}: share={share} already decides run_length; give one or the other")
        used = PUBLISHED_THRESHOLD if threshold is None else float(threshold)
        return float(whole(me, "run_length", run_length, 0, model.layers)), used
    share = real(me, "share", 0.25 if share is None else share, 0.0, 1.0)
    if threshold is not None and threshold > 1:
        return 0.0, float(threshold)
    start = room.first if threshold is None else room.start(threshold)
    most = max(0, room.end - start) * rate / model.layers
    if share > most:
        where = "at any threshold" if threshold is None else f"at threshold={threshold}"
        raise PlanError(
            f"{me}: share={share} is out of reach on {model.name} {where}: {room.cold_layers} cold layers at"
            f" either end of {model.layers} and the full tokens leave at most {most:.3f};"
            " lower share, threshold or cold_layers"
        )
    run = round(share * model.layers / rate, 9) if share else 0.0
    return run, room.threshold_for(run) if threshold is None else float(threshold)
