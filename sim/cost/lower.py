"""From a plan and a deployment to the price list of its steps: everything a run needs to know, computed once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cost.deployment import BYTES, Deployment
from sim.cost.tables import (
    ATTN_POINTWISE,
    EMBED,
    FFN_GEMMS,
    FFN_POINTWISE,
    HEAD,
    KINDS,
    QKVO,
    QO,
    REDUCE,
    Bytes,
    Floats,
    Ints,
    Tables,
)
from sim.cost.times import KernelTimes
from sim.errors import InputError
from sim.plans.plan import KV, SkipPlan
from sim.plans.rules import GATHERED_ROWS
from sim.serving.config import SchedulerConfig

NEVER = 2**60


@dataclass(frozen=True)
class Groups:
    """Layers that the plan treats alike, and decode rows that do alike."""

    of_layer: Ints  # [L] group of each layer
    first: Ints  # [G] a layer of each group
    classes: NDArray[np.uint8]  # [U, L] distinct rows of the decode table
    class_of: Ints  # [T]


def groups_of(plan: SkipPlan) -> Groups:
    """The plan's distinct layers and distinct rows, in order of appearance."""
    classes, class_of = np.unique(plan.decode, axis=0, return_inverse=True)
    own = plan.kv_input == np.arange(plan.layers)
    keys: list[tuple[object, ...]] = []
    for layer in range(plan.layers):
        skip = plan.gate.layer_key(layer) if plan.gate else ()
        drafted = plan.draft is not None and layer < plan.draft.exit_layer
        column = classes[:, layer].tobytes()
        stream = -1 if own[layer] else int(plan.kv_input[layer])
        keys.append((plan.prompt[layer], plan.sampled[layer], column, stream, skip, drafted))
    index = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    of_layer = np.array([index[key] for key in keys], dtype=np.int64)
    first = np.array([keys.index(key) for key in index], dtype=np.int64)
    return Groups(of_layer, first, classes, class_of.reshape(-1).astype(np.int64))


def geometric_axis(least: int, most: int, ratio: float = 2**0.25) -> Ints:
    """Integers from `least` to at least `most`, each at most `ratio` apart from 16 on, every one below; two or more."""
    axis = [least]
    while axis[-1] < max(most, least + 1):
        axis.append(max(axis[-1] + 1, int(axis[-1] * ratio)))
    return np.array(axis, dtype=np.int64)


def lower(plan: SkipPlan, on: Deployment, times: KernelTimes, config: SchedulerConfig, *, max_context: int) -> Tables:
    """The price list of the plan's steps. Raises InputError where plan and model differ in depth."""
    m = on.model
    if plan.layers != m.layers:
        raise InputError(f"plan {plan.name!r} is for {plan.layers} layers, {m.name} has {m.layers}")
    groups = groups_of(plan)
    rows = max(config.max_num_batched_tokens, config.max_num_seqs)
    if plan.draft:
        rows = max(rows, config.max_num_seqs * (plan.draft.tokens + 1))
    ns, outside = _rows_tables(on, times, rows)
    kv_ns, kv_outside = _kv_tables(plan, groups, on, times, rows)
    size = np.bincount(groups.of_layer).astype(np.int64)
    own = plan.kv_input == np.arange(plan.layers)
    prefill = _prefill_grid(on, times, config.max_num_batched_tokens, max_context)
    decode = _decode_grid(on, times, config.max_num_seqs, max_context)
    skip, everyone = _gate_tables(plan, groups, config.max_num_seqs)
    exit_layer = plan.draft.exit_layer if plan.draft else 0
    return Tables(
        ns=ns,
        outside=outside,
        kv_ns=kv_ns,
        kv_outside=kv_outside,
        layers=size,
        prompt=plan.prompt[groups.first].astype(np.int64),
        sampled=plan.sampled[groups.first].astype(np.int64),
        decode=np.ascontiguousarray(groups.classes[:, groups.first], dtype=np.int64),
        class_of=groups.class_of,
        fused=own[groups.first].astype(np.uint8),
        gate_all=everyone,
        gate_skip=skip,
        drafted=(groups.first < exit_layer).astype(np.uint8),
        prefill_new=prefill[0],
        prefill_context=prefill[1],
        prefill_ns=prefill[2],
        prefill_outside=prefill[3],
        decode_rows=decode[0],
        decode_context=decode[1],
        decode_ns=decode[2],
        decode_outside=decode[3],
        attn_params=float(m.p_qo),
        kv_params=float(m.p_kv),
        ffn_params=float(m.p_ffn),
        head_params=float(m.p_head),
        d_q=float(m.d_q),
        weight_bytes=BYTES[on.weights],
        kv_token_bytes=m.kv_bytes_per_token_layer(BYTES[on.kv]),
        total_layers=m.layers,
        gate_warmup=plan.gate.warmup_tokens if plan.gate else NEVER,
        gathered_rows=GATHERED_ROWS,
        draft_tokens=plan.draft.tokens if plan.draft else 0,
        acceptance=plan.draft.acceptance if plan.draft else 0.0,
        kernels_attn=5 + (on.tp > 1),  # norm, QKV, rotary + KV write, attention, output
        kernels_kv=2,  # projection, bulk write
        kernels_ffn=4 + (on.tp > 1),  # norm, gate and up, activation, down
        kernels_step=4,  # embedding, final norm, head, sampler
        graph_rows=on.host.graph_rows,
        graph_gap_ns=on.host.graph_gap_ns,
        eager_launch_ns=on.host.eager_launch_ns,
        host_step_ns=on.host.step_ns,
        host_row_ns=on.host.row_ns,
        host_overlap=int(on.host.overlap),
        graph_prompts=int(on.host.graph_prompts),
        request_ns=on.frontend.request_ns,
        request_gap_ns=on.frontend.request_gap_ns,
        stream_token_ns=on.frontend.stream_token_ns,
    )


def _integers(ns: Floats) -> Ints:
    return np.rint(ns).astype(np.int64)


def _rows_tables(on: Deployment, times: KernelTimes, most: int) -> tuple[Ints, Bytes]:
    """Prices and extrapolation marks of every kind of work at 0..most rows; no rows cost nothing."""
    m, tp, w = on.model, on.tp, on.weights
    r = np.arange(1, most + 1)
    d, q, kv = m.hidden, m.d_q // tp, on.kv_heads_per_gpu * m.head_dim
    f = m.ffn // tp
    up = (2 if m.gated_ffn else 1) * f
    parts = {
        QKVO: [times.gemm(r, q + 2 * kv, d, w), times.gemm(r, d, q, w)],
        QO: [times.gemm(r, q, d, w), times.gemm(r, d, q, w)],
        FFN_GEMMS: [times.gemm(r, up, d, w), times.gemm(r, d, f, w)],
        # bytes per row: residual and hidden in and out; q and k in and out, v in, K and V into pages
        ATTN_POINTWISE: [
            times.elementwise(r * 8.0 * d),
            times.elementwise(r * (4.0 * (q + kv) + 2 * kv + 2 * kv * BYTES[on.kv])),
        ],
        FFN_POINTWISE: [times.elementwise(r * 8.0 * d), times.elementwise(r * 2.0 * (up + f))],
        REDUCE: [times.all_reduce(r * 2.0 * d, tp)],
        HEAD: [
            times.elementwise(r * 8.0 * d),
            times.gemm(r, m.vocab // tp, d, "bf16"),
            times.elementwise(r * 4.0 * m.vocab),
        ],
        EMBED: [times.elementwise(r * 4.0 * d)],
    }
    ns = np.zeros((KINDS, most + 1), dtype=np.int64)
    outside = np.zeros((KINDS, most + 1), dtype=np.uint8)
    for kind, answers in parts.items():
        ns[kind, 1:] = sum(_integers(t) for t, _ in answers)
        outside[kind, 1:] = np.any([~inside for _, inside in answers], axis=0)
    return ns, outside


def _kv_tables(plan: SkipPlan, groups: Groups, on: Deployment, times: KernelTimes, most: int) -> tuple[Ints, Bytes]:
    """Separate K and V projections of each group's layers with their cache write, [G, most + 1].

    Layers that project from one and the same stream (SwiftKV) share a single wide GEMM.
    """
    m, r = on.model, np.arange(1, most + 1)
    width = 2 * on.kv_heads_per_gpu * m.head_dim
    every = plan.prompt | plan.sampled | np.bitwise_or.reduce(plan.decode, axis=0)
    ns = np.zeros((groups.first.size, most + 1), dtype=np.int64)
    outside = np.zeros(ns.shape, dtype=np.uint8)
    for g, layer in enumerate(groups.first):
        writers = int(((groups.of_layer == g) & ((every & KV) > 0)).sum())
        if not writers:
            continue
        own = plan.kv_input[layer] == layer
        wide, repeats = (width, writers) if own else (width * writers, 1)
        gemm, inside = times.gemm(r, wide, m.hidden, on.weights)
        write, write_inside = times.elementwise(r * wide * (2.0 + BYTES[on.kv]))
        ns[g, 1:] = repeats * (_integers(gemm) + _integers(write))
        outside[g, 1:] = ~(inside & write_inside)
    return ns, outside


def _prefill_grid(on: Deployment, times: KernelTimes, most: int, max_context: int) -> tuple[Ints, Ints, Floats, Bytes]:
    new = geometric_axis(1, most)
    context = np.concatenate([[0], geometric_axis(1, max_context)])
    ns, inside = times.prefill_attention(
        new[:, None], context[None, :], on.heads_per_gpu, on.kv_heads_per_gpu, on.model.head_dim, on.kv
    )
    return new, context, np.asarray(ns, dtype=np.float64), (~inside).astype(np.uint8)


def _decode_grid(on: Deployment, times: KernelTimes, most: int, max_context: int) -> tuple[Ints, Ints, Floats, Bytes]:
    rows, context = geometric_axis(1, most), geometric_axis(1, max_context)
    ns, inside = times.decode_attention(
        rows[:, None], context[None, :], on.heads_per_gpu, on.kv_heads_per_gpu, on.model.head_dim, on.kv
    )
    return rows, context, np.asarray(ns, dtype=np.float64), (~inside).astype(np.uint8)


def _gate_tables(plan: SkipPlan, groups: Groups, most: int) -> tuple[Floats, Floats]:
    """Skip rate of each group, and the probability that all of 0..most rows skip (0 for no rows: nothing to save)."""
    if plan.gate is None:
        return np.zeros(groups.first.size), np.zeros((groups.first.size, most + 1))
    everyone = plan.gate.all_skip(np.arange(most + 1))[:, groups.first].T.copy()
    everyone[:, 0] = 0.0
    return plan.gate.skip[groups.first].copy(), everyone
