"""FLOPs, weight bytes and KV bytes: counted from any plan's table, and in closed form for the papers' strategies.

INV-6: both agree. Symbols: L layers, P = P_qo + P_kv + P_f parameters of a layer, H = d·V the head, d_q width of the
queries, S prompt tokens, n positions that a token attends to (itself included). A multiply-add is two FLOPs; causal
attention is counted exactly. Ignored: norms, rotary embedding, softmax, biases, embedding rows, the cosine of an FFN
gate (6·d per tested layer), SwiftKV's one extra norm. A drafting plan is counted as its table, without the draft.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, KV, Flags, SkipPlan


def _row(plan: SkipPlan, t: int) -> Flags:
    return plan.decode[min(t, plan.decode.shape[0] - 1)]


def _layers(flags: Flags, flag: int) -> int:
    return int(((flags & flag) > 0).sum())


def _parameters(model: ModelShape, flags: Flags, gated: ArrayLike = 0.0) -> float:
    """Matrix parameters that a token with these flags multiplies by, head excluded; `gated` [L] FFNs are skipped."""
    ffn = (((flags & FFN) > 0) * (1.0 - np.asarray(gated))).sum()
    blocks = _layers(flags, ATTN) * model.p_qo + _layers(flags, KV) * model.p_kv
    return float(blocks + ffn * model.p_ffn)


def _gated(plan: SkipPlan, t: int) -> NDArray[np.float64]:
    """Share of generated tokens t whose FFN the gate leaves out, [L]."""
    asleep = plan.gate is None or t < plan.gate.warmup_tokens
    return np.zeros(plan.layers) if asleep or plan.gate is None else plan.gate.skip


def prompt_token_flops(plan: SkipPlan, model: ModelShape) -> float:
    """FLOPs of the matrices for one prompt token that is not sampled; attention comes on top."""
    return 2 * _parameters(model, plan.prompt)


def prefill_flops(plan: SkipPlan, model: ModelShape, prompt_tokens: int) -> float:
    """FLOPs from the first prompt token to the first logits, whatever the chunks."""
    s = prompt_tokens
    before = (s - 1) * prompt_token_flops(plan, model) + 2 * model.d_q * _layers(plan.prompt, ATTN) * s * (s - 1)
    last = 2 * _parameters(model, plan.sampled) + 4 * model.d_q * _layers(plan.sampled, ATTN) * s
    return before + last + 2 * model.p_head


def decode_flops(plan: SkipPlan, model: ModelShape, t: int, context: int) -> float:
    """Expected FLOPs of feeding generated token t, which attends to `context` positions (S + t + 1)."""
    row = _row(plan, t)
    matrices = 2 * _parameters(model, row, _gated(plan, t))
    return matrices + 4 * model.d_q * _layers(row, ATTN) * context + 2 * model.p_head


def decode_weight_bytes(plan: SkipPlan, model: ModelShape, ts: ArrayLike, weight_bytes: float = 2.0) -> float:
    """Expected bytes of weights that one decode step reads for rows at the generated indices `ts`.

    A block is read when any row needs it: layers that every row skips are saved, a gated FFN only if the gates of
    all rows that reach it agree, which independent rows do with the product of their rates.
    """
    rows = np.atleast_1d(np.asarray(ts, dtype=np.int64))
    flags = plan.decode[np.minimum(rows, plan.decode.shape[0] - 1)]  # [B, L]
    gated = np.stack([_gated(plan, t) for t in rows.tolist()])
    nobody = np.prod(np.where((flags & FFN) > 0, gated, 1.0), axis=0)
    union = np.bitwise_or.reduce(flags, axis=0)
    return weight_bytes * (_parameters(model, union, nobody) + model.p_head)


def prefill_weight_bytes(plan: SkipPlan, model: ModelShape, *, samples: bool, weight_bytes: float = 2.0) -> float:
    """Bytes of weights that a prefill chunk reads: without a sampled token, what `prompt` runs and no head."""
    flags = plan.prompt | plan.sampled if samples else plan.prompt
    return weight_bytes * (_parameters(model, flags) + (model.p_head if samples else 0))


def kv_bytes_per_token(plan: SkipPlan, model: ModelShape, t: int, kv_bytes: float = 2.0) -> float:
    """Bytes of keys and values that generated token t writes."""
    return _layers(_row(plan, t), KV) * model.kv_bytes_per_token_layer(kv_bytes)


def kv_read_bytes(plan: SkipPlan, model: ModelShape, t: int, context: int, kv_bytes: float = 2.0) -> float:
    """Bytes of keys and values that feeding generated token t reads: each layer reads its cache, shared or not."""
    return _layers(_row(plan, t), ATTN) * context * model.kv_bytes_per_token_layer(kv_bytes)


def resident_kv_bytes(
    plan: SkipPlan, model: ModelShape, prompt_tokens: int, generated: int, kv_bytes: float = 2.0
) -> float:
    """Bytes of keys and values that a sequence needs while generated token `generated` - 1 is fed.

    `generated` = 0 is the end of the prefill. Caches that no token from there on attends to are dead and not counted.
    """
    caches = int(plan.live_caches[min(generated, plan.live_caches.size - 1)])
    return caches * (prompt_tokens + generated) * model.kv_bytes_per_token_layer(kv_bytes)


def dense_prefill(model: ModelShape, s: int) -> float:
    """2·S·L·P + 2·d_q·L·S(S+1) + 2H FLOPs."""
    return 2 * s * model.layers * model.p_layer + 2 * model.d_q * model.layers * s * (s + 1) + 2 * model.p_head


def budget_decode(model: ModelShape, budget: float, n: int) -> float:
    """b(2P + 4·d_q·n) + 2H FLOPs: SkipDecode at budget b, dense at b = L."""
    return budget * (2 * model.p_layer + 4 * model.d_q * n) + 2 * model.p_head


def budget_decode_mean(model: ModelShape, high: float, low: float, s: int, tokens: int) -> float:
    """Mean FLOPs per token of SkipDecode's decay from M = `high` to m = `low`, up to rounding and terms in 1/N.

    (M+m)/2·2P + 2H + 4·d_q·[(M+m)/2·S + N(M+2m)/6]
    """
    mean = (high + low) / 2
    attended = mean * s + tokens * (high + 2 * low) / 6
    return 2 * mean * model.p_layer + 2 * model.p_head + 4 * model.d_q * attended


def budget_weight_bytes(model: ModelShape, budget: float, weight_bytes: float = 2.0) -> float:
    """b_w(b·P + H): a SkipDecode step whose youngest row has budget b, dense at b = L."""
    return weight_bytes * (budget * model.p_layer + model.p_head)


def ffn_skip_decode(model: ModelShape, skipped: float, n: int) -> float:
    """Dense decode less 2·P_f for each of s skipped FFNs, in FLOPs."""
    return budget_decode(model, model.layers, n) - 2 * skipped * model.p_ffn


def ffn_skip_weight_bytes(model: ModelShape, skip: ArrayLike, rows: int, weight_bytes: float = 2.0) -> float:
    """b_w(L(P_qo + P_kv) + P_f·Σ(1 - p_l^B) + H): B independent rows that skip layer l's FFN with probability p_l."""
    saved = float((np.asarray(skip, dtype=np.float64) ** rows).sum())
    return weight_bytes * (model.layers * model.p_layer - saved * model.p_ffn + model.p_head)


def swift_kv_prefill(model: ModelShape, keep: int, group: int, s: int) -> float:
    """S[2l·P + 2·P_kv(L-l)/g] + 2·d_q·l·S(S+1) + (L-l)(2(P_qo + P_f) + 4·d_q·S) + 2H FLOPs, one sampled token."""
    above = model.layers - keep
    prompt = s * 2 * (keep * model.p_layer + model.p_kv * above / group) + 2 * model.d_q * keep * s * (s + 1)
    return prompt + above * (2 * (model.p_qo + model.p_ffn) + 4 * model.d_q * s) + 2 * model.p_head


def swift_kv_decode(model: ModelShape, keep: int, group: int, n: int) -> float:
    """Dense decode with one pair of K and V projections per group above l, in FLOPs; dense for g = 1."""
    spared = (model.layers - keep) * (1 - 1 / group)
    return budget_decode(model, model.layers, n) - 2 * spared * model.p_kv


def swift_kv_weight_bytes(model: ModelShape, keep: int, group: int, weight_bytes: float = 2.0) -> float:
    """b_w(l·P + (L-l)(P_qo + P_f) + P_kv(L-l)/g + H): one decode step."""
    spared = (model.layers - keep) * (1 - 1 / group)
    return weight_bytes * (model.layers * model.p_layer - spared * model.p_kv + model.p_head)


def swift_kv_cache_share(model: ModelShape, keep: int, group: int) -> float:
    """(l + (L-l)/g)/L of the dense cache is what remains: 62.5 % with 4-way sharing over half of the layers."""
    return (keep + (model.layers - keep) / group) / model.layers
