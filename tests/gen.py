"""Hypothesis generators shared by all tests.

models()                 small ModelShapes of every family, 2 to 12 layers
strategy_plans(model)    one strategy with random arguments that suit the model
composed_plans(model)    a plan that moves keys and values, one that skips layers, perhaps a gate: composed
safe_tables(layers)      arguments of a SkipPlan with random flags, made KV-safe
frayed_tables(layers)    the same with up to three KV flags struck out: usually unsafe
plans(model)             any of these as a SkipPlan
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, KV, SkipPlan
from sim.plans.strategies import (
    compose,
    cross_layer_kv,
    dense,
    early_exit,
    ffn_skip,
    self_speculative,
    skip_decode,
    static_depth,
    swift_kv,
    unified_skip,
)


@st.composite
def models(draw: st.DrawFn, min_layers: int = 2, max_layers: int = 12) -> ModelShape:
    """A small model: the laws do not depend on size."""
    family = draw(st.sampled_from(("opt", "llama", "qwen2", "mistral")))
    kv_heads = draw(st.integers(1, 4))
    heads = kv_heads * (1 if family == "opt" else draw(st.integers(1, 4)))
    head_dim = draw(st.sampled_from((8, 16, 64)))
    return ModelShape(
        name="toy",
        family=family,
        layers=draw(st.integers(min_layers, max_layers)),
        hidden=heads * head_dim,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=draw(st.integers(8, 256)),
        vocab=draw(st.integers(16, 4096)),
        max_context=4096,
        gated_ffn=family != "opt",
        tied_embeddings=draw(st.booleans()),
    )


def _divisors(n: int) -> st.SearchStrategy[int]:
    return st.sampled_from([d for d in range(1, max(n, 1) + 1) if n % d == 0])


@st.composite
def depth_plans(draw: st.DrawFn, model: ModelShape) -> SkipPlan:
    """A plan that leaves out layers, or none."""
    n = model.layers
    kind = draw(st.sampled_from((dense, skip_decode, unified_skip, static_depth, early_exit)))
    if kind is skip_decode:
        w = draw(st.integers(0, n - 1))
        low = draw(st.integers(w + 1, n))
        high, tokens = draw(st.integers(low, n)), draw(st.integers(2, 12))
        return skip_decode(model, max_budget=high, min_budget=low, warmup_layers=w, schedule_tokens=tokens)
    if kind is unified_skip:
        return unified_skip(model, speedup=draw(st.floats(1, n / 2)))
    if kind is static_depth:
        some = st.lists(st.integers(0, n - 1), unique=True, max_size=n - 2)
        return static_depth(model, drop=draw(st.integers(0, n - 2) | some))
    if kind is early_exit:
        return early_exit(model, at=draw(st.integers(1, n)), kv_fill=draw(st.booleans()))
    return dense(model)


@st.composite
def kv_plans(draw: st.DrawFn, model: ModelShape) -> SkipPlan:
    """A plan that moves keys and values."""
    if draw(st.booleans()):
        return cross_layer_kv(model, group=draw(_divisors(model.layers)))
    keep = draw(st.integers(1, model.layers))
    return swift_kv(model, keep=keep, group=draw(_divisors(model.layers - keep)))


@st.composite
def gated_plans(draw: st.DrawFn, model: ModelShape) -> SkipPlan:
    """A dense plan with an FFN gate."""
    return ffn_skip(
        model,
        run_length=draw(st.integers(0, model.layers)),
        cold_layers=draw(st.integers(0, model.layers // 2)),
        cadence=draw(st.integers(1, 6)),
        warmup_tokens=draw(st.integers(0, 4)),
        threshold=draw(st.floats(0.8, 1.1)),
    )


def strategy_plans(model: ModelShape) -> st.SearchStrategy[SkipPlan]:
    """One strategy with arguments that suit the model."""
    drafts = st.builds(
        self_speculative,
        st.just(model),
        exit_layer=st.integers(1, model.layers - 1),
        tokens=st.integers(1, 8),
        acceptance=st.floats(0, 1),
    )
    return depth_plans(model) | kv_plans(model) | gated_plans(model) | drafts


@st.composite
def composed_plans(draw: st.DrawFn, model: ModelShape) -> SkipPlan:
    """Up to three strategies at once."""
    plan = compose(draw(kv_plans(model)), draw(depth_plans(model)))
    return compose(plan, draw(gated_plans(model))) if draw(st.booleans()) else plan


@st.composite
def safe_tables(draw: st.DrawFn, layers: int) -> dict[str, Any]:
    """Arguments of a SkipPlan: random attention, FFNs, spare writes and owners, with every key written in time."""
    tokens = draw(st.integers(1, 5))
    shape = (2 + tokens, layers)
    attends, ffn, spare = (draw(hnp.arrays(bool, shape)) for _ in range(3))
    owner = np.arange(layers)
    for layer in range(1, layers):
        owner[layer] = draw(st.sampled_from(sorted({*owner[:layer].tolist(), layer})))
    wanted = np.zeros(shape, dtype=bool)
    for row in range(shape[0]):
        for layer in np.flatnonzero(attends[row]):
            wanted[: row + 1, owner[layer]] = True
    rows = (attends * ATTN + ffn * FFN + (wanted | spare) * KV).astype(np.uint8)
    kv_input = [draw(st.integers(0, layer)) for layer in range(layers)]
    return {
        "name": "random",
        "prompt": rows[0],
        "sampled": rows[1],
        "decode": rows[2:],
        "kv_input": kv_input,
        "kv_owner": owner,
        "monotone": False,
    }


@st.composite
def frayed_tables(draw: st.DrawFn, layers: int) -> dict[str, Any]:
    """A safe table that forgets to write a few keys."""
    table = draw(safe_tables(layers))
    for _ in range(draw(st.integers(0, 3))):
        part = draw(st.sampled_from(("prompt", "sampled", "decode")))
        rows = np.atleast_2d(table[part])
        rows[draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, layers - 1))] &= ATTN | FFN
    return table


def plans(model: ModelShape) -> st.SearchStrategy[SkipPlan]:
    """Any legal plan for the model."""
    random = safe_tables(model.layers).map(lambda table: SkipPlan(**table))
    return strategy_plans(model) | composed_plans(model) | random
