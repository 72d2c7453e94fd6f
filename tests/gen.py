"""Hypothesis generators shared by all tests.

models()                 small ModelShapes of every family, 2 to 12 layers
strategy_plans(model)    one strategy with random arguments that suit the model
composed_plans(model)    a plan that moves keys and values, one that skips layers, perhaps a gate: composed
safe_tables(layers)      arguments of a SkipPlan with random flags, made KV-safe
frayed_tables(layers)    the same with up to three KV flags struck out: usually unsafe
plans(model)             any of these as a SkipPlan
scheduler_configs()      small limits, so that budgets, rows and long prefills all bind
prefix_ids(prompts, n)   CSR prefix-block ids of prompts that share branches of a small tree
workloads()              a few requests, open or closed loop, with shared prefixes where hash_tokens > 0
steps(draft_tokens)      rows of one iteration: chunks of prompts, decodes with drafts, recomputed chunks
"""

from typing import Any, NamedTuple, get_args

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
from sim.serving.config import Policy, SchedulerConfig
from sim.workload.workload import Workload


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


def draft_plans(model: ModelShape) -> st.SearchStrategy[SkipPlan]:
    """A dense plan that drafts and verifies."""
    return st.builds(
        self_speculative,
        st.just(model),
        exit_layer=st.integers(1, model.layers - 1),
        tokens=st.integers(1, 8),
        acceptance=st.floats(0, 1),
    )


def strategy_plans(model: ModelShape) -> st.SearchStrategy[SkipPlan]:
    """One strategy with arguments that suit the model."""
    return depth_plans(model) | kv_plans(model) | gated_plans(model) | draft_plans(model)


@st.composite
def composed_plans(draw: st.DrawFn, model: ModelShape) -> SkipPlan:
    """Up to three strategies at once."""
    parts = [draw(kv_plans(model)), draw(depth_plans(model))]
    return compose(*parts, draw(gated_plans(model))) if draw(st.booleans()) else compose(*parts)


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


@st.composite
def scheduler_configs(draw: st.DrawFn, *, policies: tuple[str, ...] = get_args(Policy)) -> SchedulerConfig:
    """Limits of a few rows and tokens: the laws do not depend on size, the corner cases do."""
    seqs = draw(st.integers(1, 5))
    return SchedulerConfig(
        policy=draw(st.sampled_from(policies)),
        max_num_seqs=seqs,
        max_num_batched_tokens=draw(st.integers(seqs, 24)),
        long_prefill_token_threshold=draw(st.just(0) | st.integers(1, 9)),
        block_tokens=draw(st.sampled_from((1, 2, 4))),
        prefix_caching=draw(st.booleans()),
        watermark=draw(st.just(0.0) | st.floats(0, 0.5)),
        reserve_output=draw(st.sampled_from((False, False, True))),
    )


@st.composite
def prefix_ids(draw: st.DrawFn, prompts: list[int], hash_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, offsets): a block's id stands for its tokens and all before it, as in Mooncake's traces."""
    number: dict[tuple[int, ...], int] = {}
    ids: list[int] = []
    offsets = [0]
    for prompt in prompts:
        blocks = -(-prompt // hash_tokens)
        path = draw(st.lists(st.sampled_from((0, 0, 0, 1)), min_size=blocks, max_size=blocks))
        ids += [number.setdefault(tuple(path[: k + 1]), len(number)) for k in range(blocks)]
        offsets.append(len(ids))
    return np.array(ids, dtype=np.int64), np.array(offsets, dtype=np.int64)


@st.composite
def workloads(
    draw: st.DrawFn,
    *,
    hash_tokens: int = 0,
    min_requests: int = 1,
    max_requests: int = 10,
    gap_ns: int = 3000,
    loops: bool = True,
) -> Workload:
    """A few requests of up to 30 prompt and 16 output tokens; bursts are as likely as gaps."""
    n = draw(st.integers(min_requests, max_requests))
    prompts = draw(st.lists(st.integers(1, 30), min_size=n, max_size=n))
    outputs = draw(st.lists(st.integers(1, 16), min_size=n, max_size=n))
    concurrency = draw(st.integers(0, n + 1)) if loops else 0
    gaps = draw(st.lists(st.just(0) | st.integers(0, gap_ns), min_size=n, max_size=n))
    ids, offsets = draw(prefix_ids(prompts, hash_tokens)) if hash_tokens else (None, None)
    return Workload(
        arrival_ns=np.zeros(n, np.int64) if concurrency else np.cumsum(gaps),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        hash_ids=ids,
        hash_offsets=offsets,
        hash_block_tokens=hash_tokens,
        concurrency=concurrency,
    )


class Row(NamedTuple):
    """One row of an iteration: tokens first .. first + tokens - 1 of a request that has generated so many."""

    prompt: int
    generated: int
    first: int
    tokens: int


@st.composite
def _rows(draw: st.DrawFn, draft_tokens: int) -> Row:
    prompt = draw(st.integers(1, 40))
    generated = draw(st.just(0) | st.integers(1, 20))
    known = prompt + generated
    if generated and draw(st.booleans()):
        return Row(prompt, generated, known - 1, 1 + draw(st.integers(0, draft_tokens)))
    first = draw(st.integers(0, known - 1 - (generated > 0)))
    return Row(prompt, generated, first, draw(st.integers(1, known - first)))


def steps(draft_tokens: int = 0, max_rows: int = 8) -> st.SearchStrategy[list[Row]]:
    """The rows of one iteration."""
    return st.lists(_rows(draft_tokens), min_size=1, max_size=max_rows)
