"""Strategies that leave out whole layers: SkipDecode, and the methods it is compared with."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.errors import PlanError
from sim.plans.model import ModelShape
from sim.plans.plan import FULL, KV, Flags, SkipPlan, plan_of
from sim.plans.rules import DraftRule
from sim.plans.strategies.arguments import real, spec_of, unless, whole


def budgets_for(layers: int, *, speedup: float, warmup_layers: int) -> tuple[float, float]:
    """(max, min) budgets, in layers, whose mean is layers / speedup: as steep a decay as the model allows.

    max + min = 2·layers / speedup with max ≤ layers and min ≥ warmup_layers + 1. Both may be fractions. The pairs of
    the SkipDecode paper are not public; the sum is what "x times fewer layers" means. Raises PlanError when even the
    least budget is too much.
    """
    least = warmup_layers + 1
    real("skip_decode", "speedup", speedup, 1.0, max(1.0, layers / least))
    total = 2 * layers / speedup
    low = max(min(least, layers), total - layers)
    return total - low, low


def budget_schedule(max_budget: float, min_budget: float, tokens: int) -> NDArray[np.int64]:
    """Layers that each generated token of the schedule runs, [tokens] int, never increasing.

    budget(i) = max - (max - min)·i / (tokens - 1), rounded by largest remainder: the schedule runs as many layers in
    total as the line does, to half a layer, so its mean is (max + min) / 2. (SkipDecode, arXiv 2307.02628, linear
    decay; the paper's rounding is not known.) Within one whole budget the earlier token has the larger remainder and
    is rounded up first, so rounding keeps the order.
    """
    line = max_budget - (max_budget - min_budget) * np.arange(tokens) / (tokens - 1)
    floor = np.floor(line)
    up = int(np.rint(line.sum() - floor.sum()))
    floor[np.argsort(floor - line, kind="stable")[:up]] += 1
    return floor.astype(np.int64)


def skip_decode(
    model: ModelShape,
    *,
    speedup: float | None = None,
    max_budget: int | None = None,
    min_budget: int | None = None,
    warmup_layers: int = 1,
    schedule_tokens: int = 256,
) -> SkipPlan:
    """A plan whose generated tokens run fewer and fewer layers: the bottom w and the top b - w of a budget b.

    The budget falls linearly from `max_budget` to `min_budget` over `schedule_tokens` generated tokens and stays
    there; the prompt runs in full. Give `speedup` (mean layers = L / speedup; 2 when nothing is given) or budgets
    (max defaults to L, min to w + 1). `schedule_tokens` is the paper's "sequence length", the median length of the
    outputs. Budgets count warm-up layers. SkipDecode, Del Corro et al., arXiv 2307.02628. Raises PlanError.
    """
    layers, me = model.layers, "skip_decode"
    w = whole(me, "warmup_layers", warmup_layers, 0, layers - 1)
    tokens = whole(me, "schedule_tokens", schedule_tokens, 2, model.max_context)
    if max_budget is None and min_budget is None:
        speedup = 2.0 if speedup is None else speedup
        high, low = budgets_for(layers, speedup=speedup, warmup_layers=w)
    elif speedup is not None:
        raise PlanError(f"{me}: speedup={speedup} already decides the budgets; give one or the other")
    else:
        high = whole(me, "max_budget", layers if max_budget is None else max_budget, w + 1, layers)
        low = whole(me, "min_budget", w + 1 if min_budget is None else min_budget, w + 1, int(high))
    name = spec_of(
        me,
        speedup=speedup,
        max_budget=max_budget,
        min_budget=min_budget,
        warmup_layers=unless(w, 1),
        schedule_tokens=unless(tokens, 256),
    )
    return plan_of(layers, name=name, decode=_bottom_and_top(layers, w, budget_schedule(high, low, tokens)))


def _bottom_and_top(layers: int, warmup_layers: int, budget: NDArray[np.int64]) -> Flags:
    """Flags of the bottom w and the top b - w layers for each budget b ≥ w, [len(budget), layers]."""
    layer = np.arange(layers)
    runs = (layer < warmup_layers) | (layer >= layers - (budget[:, None] - warmup_layers))
    return np.where(runs, FULL, 0).astype(np.uint8)


def unified_skip(model: ModelShape, *, speedup: float = 2.0) -> SkipPlan:
    """A plan whose generated tokens all run the same layers: the first, the last, and evenly spaced ones between.

    int(L / speedup) layers stay, int(L / (that - 1)) apart; the prompt runs in full. Unified Layer Skipping, Liu,
    Meng, Zhou, arXiv 2404.06954. Raises PlanError when fewer than two layers would stay.
    """
    layers = model.layers
    x = real("unified_skip", "speedup", speedup, 1.0, max(1.0, layers / 2))
    kept = int(layers / x)
    stays = np.full(layers, kept == layers)
    if kept < layers:
        stays[np.arange(kept - 1) * int(layers / (kept - 1))] = True
        stays[-1] = True
    return plan_of(layers, name=spec_of("unified_skip", speedup=x), decode=np.where(stays, FULL, 0)[None])


def static_depth(model: ModelShape, *, drop: int | Sequence[int] | None = None) -> SkipPlan:
    """A plan without some layers for anybody, prompt included: their weights need not even be loaded.

    `drop` is a list of layers, or how many (L // 4 when nothing is given). A count drops one contiguous block centred
    at three quarters of the depth: ShortGPT (Men et al., arXiv 2403.03853) finds the least influential layers in the
    later part of the network, never at its ends; which ones exactly has to be measured per model, and then given as a
    list. Raises PlanError for layers that do not exist or leave fewer than two.
    """
    layers, me = model.layers, "static_depth"
    asked: int | Sequence[int] = layers // 4 if drop is None else drop
    if isinstance(asked, Sequence):
        out = np.array(sorted({whole(me, "drop", layer, 0, layers - 1) for layer in asked}), dtype=np.int64)
        whole(me, "layers to drop", out.size, 0, max(0, layers - 2))
        label: int | Sequence[int] = [int(layer) for layer in out] if out.size else 0
    else:
        label = count = whole(me, "drop", asked, 0, max(0, layers - 2))
        start = min(round(0.75 * layers - count / 2), layers - 1 - count)
        out = np.arange(count) + max(1, start)
    row = np.full(layers, FULL)
    row[out] = 0
    return plan_of(layers, name=spec_of(me, drop=label), prompt=row, sampled=row, decode=row[None])


def early_exit(model: ModelShape, *, at: int | None = None, kv_fill: bool = False) -> SkipPlan:
    """A plan whose generated tokens stop after layer `at` - 1 (half of the layers when nothing is given).

    With `kv_fill` the exit state still leaves keys and values in the layers above (state propagation, CALM, Schuster
    et al., arXiv 2207.07061), so the sequence could go on at full depth later; without, those caches are dead. The
    exit is fixed, so no confidence test is made. LayerSkip, Elhoushi et al., arXiv 2404.16710. Raises PlanError.
    """
    layers = model.layers
    depth = whole("early_exit", "at", max(1, layers // 2) if at is None else at, 1, layers)
    row: Flags = np.where(np.arange(layers) < depth, FULL, KV if kv_fill else 0).astype(np.uint8)
    return plan_of(layers, name=spec_of("early_exit", at=depth, kv_fill=1 if kv_fill else None), decode=row[None])


def self_speculative(
    model: ModelShape, *, exit_layer: int | None = None, tokens: int = 6, acceptance: float = 0.7
) -> SkipPlan:
    """A dense plan that drafts `tokens` tokens with its first layers and verifies them with all: lossless when greedy.

    `exit_layer` defaults to a quarter of the layers, `tokens` to 6 (LayerSkip's Llama-2-7B example drafts 6 with 8 of
    32 layers; Elhoushi et al., arXiv 2404.16710). `acceptance`, the chance that a draft token is right, depends on
    model and text; 0.7 is an assumption to replace by a measurement. Raises PlanError.
    """
    me, first = "self_speculative", max(1, model.layers // 4)
    depth = whole(me, "exit_layer", first if exit_layer is None else exit_layer, 1, model.layers - 1)
    count = whole(me, "tokens", tokens, 1, model.max_context)
    chance = real(me, "acceptance", acceptance, 0.0, 1.0)
    name = spec_of(me, exit_layer=depth, tokens=count, acceptance=chance)
    return plan_of(model.layers, name=name, draft=DraftRule(exit_layer=depth, tokens=count, acceptance=chance))
