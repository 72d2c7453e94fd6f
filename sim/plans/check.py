"""The papers' arithmetic, recomputed from plans and compared with the figures it should give.

Expected values are literals, worked out by hand from the papers' formulas before this code was written; `source` names
the derivation. Computed values come from plans through the counts of `closed_forms`, so a row fails when a strategy, a
count or a model's shape is wrong. The tolerance is half of the last digit stated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sim.plans.catalogue import model_named
from sim.plans.closed_forms import (
    decode_flops,
    decode_weight_bytes,
    prefill_flops,
    prefill_weight_bytes,
    resident_kv_bytes,
)
from sim.plans.model import ModelShape
from sim.plans.strategies import dense, ffn_skip, skip_decode, swift_kv


@dataclass(frozen=True)
class CheckRow:
    """One published or derived figure beside the one that the plans give."""

    what: str
    setting: str
    expected: float
    computed: float
    tolerance: float
    source: str = "techniques 5"

    @property
    def ok(self) -> bool:
        """Whether the figure is met; a figure that rounds either way is."""
        return abs(self.computed - self.expected) <= self.tolerance * (1 + 1e-9) + 1e-12


def check_rows() -> list[CheckRow]:
    """Every figure, in the order of the notes: shapes, SkipDecode, FFN skipping, SwiftKV."""
    groups = (_shapes, _skip_decode, _ffn_ceilings, _ffn_batches, _swift_kv, _swift_kv_long, _across_kv)
    return [row for group in groups for row in group()]


_SHAPES = {  # millions: P_qo, P_kv, P_f, P, H; billions: L·P; FFN share of P; KV bytes per token
    "opt-1.3b": (8.39, 8.39, 33.55, 50.33, 103.0, 1.208, 0.667, 196_608),
    "opt-6.7b": (33.55, 33.55, 134.22, 201.33, 205.9, 6.442, 0.667, 524_288),
    "llama-2-7b": (33.55, 33.55, 135.27, 202.38, 131.1, 6.476, 0.668, 524_288),
    "llama-2-13b": (52.43, 52.43, 212.34, 317.19, 163.8, 12.688, 0.669, 819_200),
    "llama-3.1-8b": (33.55, 8.39, 176.16, 218.10, 525.3, 6.979, 0.808, 131_072),
    "llama-3.1-70b": (134.22, 16.78, 704.64, 855.64, 1050.7, 68.451, 0.824, 327_680),
    "llama-3.1-405b": (536.87, 33.55, 2617.25, 3187.67, 2101.3, 401.647, 0.821, 516_096),
}


def _shapes() -> Iterator[CheckRow]:
    columns = ("P_qo", "P_kv", "P_f", "P", "H", "L·P", "FFN share", "KV bytes per token")
    tolerances = (0.005, 0.005, 0.005, 0.005, 0.05, 0.0005, 0.0005, 0.0)
    units = ("M", "M", "M", "M", "M", "B", "", "B")
    for name, expected in _SHAPES.items():
        m = model_named(name)
        plan = dense(m)
        millions = [p / 1e6 for p in (m.p_qo, m.p_kv, m.p_ffn, m.p_layer, m.p_head)]
        layers = prefill_weight_bytes(plan, m, samples=False, weight_bytes=1e-9)
        computed = [*millions, layers, m.p_ffn / m.p_layer, resident_kv_bytes(plan, m, 1, 0)]
        for column, unit, want, have, tolerance in zip(columns, units, expected, computed, tolerances):
            yield CheckRow(f"{column} [{unit}]" if unit else column, name, want, have, tolerance)


def _skip_decode() -> Iterator[CheckRow]:
    tokens = 240  # a multiple of 3, 4 and 5, so that the rounded schedule has the mean budget L/x exactly
    ceilings = {"opt-1.3b": (1.85, 2.59, 3.24, 3.80), "opt-6.7b": (1.94, 2.83, 3.66, 4.45)}
    for name, expected in ceilings.items():
        m = model_named(name)
        full = decode_weight_bytes(dense(m), m, 0)
        for speedup, want in zip((2, 3, 4, 5), expected):
            plan = skip_decode(m, speedup=speedup, schedule_tokens=tokens)
            ceiling = full * tokens / sum(decode_weight_bytes(plan, m, t) for t in range(tokens))
            yield CheckRow("SkipDecode ceiling", f"{name}, {speedup}x fewer layers", want, ceiling, 0.005)


def _ffn_ceilings() -> Iterator[CheckRow]:
    ceilings = {"llama-2-7b": (1.196, 1.245), "llama-2-13b": (1.198, 1.247), "llama-3.1-8b": (1.231, 1.291)}
    for name, expected in ceilings.items():
        m = model_named(name)
        for share, want in zip((0.25, 0.30), expected):
            plan = ffn_skip(m, share=share)
            ceiling = decode_weight_bytes(dense(m), m, 10_000) / decode_weight_bytes(plan, m, 10_000)
            yield CheckRow("FFN skipping batch-1 ceiling", f"{name}, {share:.0%} of FFNs", want, ceiling, 0.0005)


def _ffn_batches() -> Iterator[CheckRow]:
    """Realised FFN saving p^B in percent, rows independent, and what it is worth to a Llama-3.1-8B step."""
    m = model_named("llama-3.1-8b")
    full = decode_weight_bytes(dense(m), m, 10_000)
    table = {
        0.25: (25.0, 6.2, 0.4, 0.0, 0.0, 0.0, 0.0),
        0.30: (30.0, 9.0, 0.8, 0.007, 0.0, 0.0, 0.0),
        0.50: (50.0, 25.0, 6.2, 0.4, 0.0, 0.0, 0.0),
    }
    steps = {1: (1.29, 0.005), 2: (1.07, 0.005), 4: (1.006, 0.0005), 8: (1.000, 0.0005)}
    for p, expected in table.items():
        plan = ffn_skip(m, skip=np.full(m.layers, p), run_length=m.layers, cold_layers=0, warmup_tokens=0)
        for rows, want in zip((1, 2, 4, 8, 16, 32, 64), expected):
            read = decode_weight_bytes(plan, m, np.full(rows, 10_000))
            saved = (full - read) / (2 * m.layers * m.p_ffn)
            setting = f"p = {p:.2f}, {rows} rows"
            tolerance = 0.0005 if want == 0.007 else 0.05
            yield CheckRow("FFN bytes saved [%]", setting, want, 100 * saved, tolerance, "engine 2.3")
            if p == 0.30 and rows in steps:
                faster, digits = steps[rows]
                setting = f"{m.name}, {setting}"
                yield CheckRow("FFN skipping step ceiling", setting, faster, full / read, digits, "engine 2.3")


_SWIFT = {  # GFLOP per prompt token dense and with SwiftKV 50 %, end-to-end FLOP ratio with 256 output tokens
    "llama-3.1-8b": ((14.5, 7.5, 1.73), (16.1, 8.3, 1.87), (22.3, 11.4, 1.93), (48.3, 24.4, 1.97)),
    "llama-3.1-70b": ((139.5, 71.1, 1.76), (147.4, 75.0, 1.90), (178.8, 90.8, 1.95), (308.7, 155.7, 1.98)),
    "llama-3.1-405b": ((812, 410, 1.78), (836, 422, 1.92), (935, 472, 1.96), (1345, 677, 1.98)),
}


def _swift_kv() -> Iterator[CheckRow]:
    for name, cells in _SWIFT.items():
        m = model_named(name)
        full, plan = dense(m), swift_kv(m)
        digits = 0.55 if name == "llama-3.1-405b" else 0.05  # its integers were rounded from one decimal place
        for s, (want_full, want_swift, want_ratio) in zip((2000, 8000, 32_000, 131_072), cells):
            prompt = [prefill_flops(p, m, s) for p in (full, plan)]
            decode = [sum(decode_flops(p, m, t, s + t + 1) for t in range(255)) for p in (full, plan)]
            ratio = (prompt[0] + decode[0]) / (prompt[1] + decode[1])
            setting = f"{name}, S = {s}"
            yield CheckRow("dense GFLOP per prompt token", setting, want_full, prompt[0] / s / 1e9, digits)
            yield CheckRow("SwiftKV GFLOP per prompt token", setting, want_swift, prompt[1] / s / 1e9, digits)
            yield CheckRow("SwiftKV FLOP ratio, 256 outputs", setting, want_ratio, ratio, 0.005)


def _swift_kv_long() -> Iterator[CheckRow]:
    """The prefill ratio without attention, and the paper's 302 → 228 → 154 GFLOP: those hold at 120K tokens."""
    ratios = {("8b", 1): 1.93, ("8b", 4): 1.98, ("70b", 1): 1.96, ("405b", 1): 1.98}
    for (size, group), want in ratios.items():
        name = f"llama-3.1-{size}"
        m = model_named(name)
        chunks = [prefill_weight_bytes(p, m, samples=False) for p in (dense(m), swift_kv(m, group=group))]
        yield CheckRow("SwiftKV prefill ceiling", f"{name}, {group}-way", want, chunks[0] / chunks[1], 0.005)
    m, s = model_named("llama-3.1-70b"), 120 * 1024
    for skipped, keep, want in ((0, 80, 302.2), (25, 60, 228.3), (50, 40, 154.5)):
        flops = prefill_flops(swift_kv(m, keep=keep), m, s) / s + _vocabulary_flops(m)
        setting = f"{m.name}, S = {s}, {skipped} % of layers"
        yield CheckRow("GFLOP per prefill token, 2 vocabularies", setting, want, flops / 1e9, 0.05)


def _vocabulary_flops(model: ModelShape) -> float:
    """What the paper adds to every token: embedding and head as full matrix products."""
    return 2 * 2 * model.p_head


def _across_kv() -> Iterator[CheckRow]:
    m = model_named("llama-3.1-8b")
    full = resident_kv_bytes(dense(m), m, 1000, 100)
    for group, want in ((2, 25.0), (4, 37.5), (8, 43.75), (16, 46.875)):
        cut = 1 - resident_kv_bytes(swift_kv(m, group=group), m, 1000, 100) / full
        setting = f"{m.name}, l = L/2, {group}-way"
        yield CheckRow("AcrossKV cut of the KV cache [%]", setting, want, 100 * cut, 0.0, "techniques 3.1")
