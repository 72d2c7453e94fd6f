"""Why not twice as fast: the way from a plan's nominal skip to the GPU time it saves, step by step.

Two runs work off the same requests, all there at once: the dense model's and the plan's. Every step is a price, not a
saying: the ideal (each part of the time falls by the share of its phase's layer work that the plan leaves out) gives
way, part by part, to what the plan's run really took. Shares are of the dense run's time; they add up exactly.
"""

from collections.abc import Iterator, Mapping

import polars as pl

from sim.study.profile import PHASES, Profile

# parts that change from ideal to real together, in this order, and what keeps them from falling
REALITY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("weights are read if any row of the step needs them", ("weights",)),
    ("KV cache reads, of all layers that attend", ("kv",)),
    ("GEMM tiles, attention and norms", ("compute", "pointwise")),
    ("all-reduce between GPUs", ("communication",)),
    ("gaps between kernels", ("launch",)),
    ("host work per step", ("host",)),
)


def waterfall(dense: Profile, plan: Profile, capacity_gain: float | None = None) -> pl.DataFrame:
    """Steps from the nominal to the realised saving: strategy, label, value (share of dense time), kind.

    One "total" (share of blocks skipped, in the phases where any are), signed steps of kind "loss", one "result": the
    saving of GPU time per request, 1 - 1/gain under the SLO where `capacity_gain` is given. result = total + Σ losses.
    """
    levels = list(_levels(dense, plan))
    if capacity_gain is not None:
        levels.append(("latency limits and queueing instead of a full batch", 1 - 1 / capacity_gain))
    (first, total), rest = levels[0], levels[1:]
    rows = [(plan.strategy, first, total, "total")]
    before = total
    for label, level in rest:
        rows.append((plan.strategy, label, level - before, "loss"))
        before = level
    end = f"realised: {1 / (1 - before):.2f}x the requests per GPU"
    rows.append((plan.strategy, end, before, "result"))
    return pl.DataFrame(rows, schema=["strategy", "label", "value", "kind"], orient="row")


def _levels(dense: Profile, plan: Profile) -> Iterator[tuple[str, float]]:
    """(what is now accounted for, saving with that), from the most ideal to the real."""
    total = dense.total_s
    phase_s = {phase: sum(dense.by_phase[phase].values()) for phase in PHASES}
    acting = [p for p in PHASES if plan.blocks[p] > 0] or [p for p in PHASES if plan.work[p] > 0]
    acting_s = sum(phase_s[p] for p in acting) or total
    yield "blocks skipped, in the phase it acts on", sum(phase_s[p] * plan.blocks[p] for p in acting) / acting_s
    yield "what the skipped blocks weigh", sum(phase_s[p] * plan.work[p] for p in acting) / acting_s
    yield "the other phase runs in full", sum(phase_s[p] * plan.work[p] for p in PHASES) / total
    yield "outputs shorter or longer than the schedule", sum(phase_s[p] * plan.met[p] for p in PHASES) / total
    times = ideal_seconds(dense, plan.met)
    head = dense.head_s * _weights_saving(dense, plan.met)
    times["weights"] += head
    yield "LM head is read in full", 1 - sum(times.values()) / total
    for label, parts in REALITY:
        if any(dense.seconds[part] or plan.seconds[part] for part in parts):  # one GPU has nothing to reduce
            times |= {part: plan.seconds[part] for part in parts}
            yield label, 1 - sum(times.values()) / total


def ideal_seconds(dense: Profile, met: Mapping[str, float]) -> dict[str, float]:
    """The dense run's seconds by part, each phase's share cut by what the plan leaves out of it."""
    return {part: sum(dense.by_phase[p][part] * (1 - met[p]) for p in PHASES) for part in dense.seconds}


def _weights_saving(dense: Profile, met: Mapping[str, float]) -> float:
    """Share of weight time that the ideal saves."""
    whole = dense.seconds["weights"]
    return 1 - ideal_seconds(dense, met)["weights"] / whole if whole else 0.0
