"""What is measured for a model: every kind of kernel of its engine, whole steps, and the machine's own ceilings.

Items come in the order of what they are worth: the ceilings, a coarse grid of every kind, dense steps, then the gaps
of the grid and the other plans. Whoever stops early has everything coarsely rather than something finely.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibration.items import Burst, Item, item
from calibration.matrices import matrices
from sim.errors import PlanError
from sim.plans.model import ModelShape
from sim.plans.spec import strategy_named

TIERS = 3
EDGES = (129, 257, 513, 1025, 2049)  # one row more than whole tiles of a product


@dataclass(frozen=True)
class Limits:
    """How far the grid reaches."""

    rows: int = 8192  # most tokens of a step
    sequences: int = 256
    context: int = 32_768
    kv_bytes: float = 20e9  # of one attention item
    ffn_rows: tuple[int, ...] = (1, 2, 192, 256, 512, 1024, 2048)  # of the FFN that looks at a mask
    copy_bytes: int = 4 << 30
    product_side: int = 8192


def items_of(
    shape: ModelShape, limits: Limits, *, plans: Sequence[str], bursts: Sequence[Burst], graphs: bool
) -> list[Item]:
    """Everything to be measured, most valuable first; with `graphs`, what only CUDA graphs have, too."""
    made = [p for p in plans if fits(p, shape)]
    found = [*ceilings(limits), *_launches(graphs=graphs)]
    for tier in range(TIERS):
        found += [one for one, at in kernels(shape, limits, made) if at == tier]
        steps = {0: made[:1], 1: made[1:]}.get(tier, [])
        found += [burst.item(plan) for plan in steps for burst in bursts if burst.longest <= limits.context]
    return list({one.key: one for one in found}.values())


def fits(spec: str, shape: ModelShape) -> bool:
    """Whether the model has room for the plan."""
    try:
        strategy_named(spec, shape)
    except PlanError:
        return False
    return True


def plans_of(shape: ModelShape) -> list[str]:
    """The plans that are measured, dense first: each paper's settings that the model has room for, and compositions."""
    half, layers = max(1, shape.layers // 2), shape.layers
    keeps = dict.fromkeys((half, 3 * layers // 4, 3 * layers // 8))
    swift = [f"swift_kv:keep={keep}" + (f",group={g}" if g > 1 else "") for keep in keeps if keep for g in (1, 2, 4)]
    decode = [f"skip_decode:speedup={x}" for x in (2, 3, 4, 5)]
    ffn = ["ffn_skip:share=0.25", "ffn_skip:share=0.1"]
    composed = [f"swift_kv:keep={half}+skip_decode:speedup=2"]
    wanted = ["dense", swift[0], decode[0], ffn[0], *composed, *swift[1:], *decode[1:], *ffn[1:]]
    return [spec for spec in wanted if fits(spec, shape)]


def axis(least: int, most: int) -> dict[int, int]:
    """Values from `least` to `most` with their tiers: every fourth power of two first, then all, then halfway."""
    tiers = {most: 0, least: 0}
    for tier, step in ((0, 4.0), (1, 2.0), (2, 2.0)):
        value = most * (0.75 if tier == 2 else 1.0)
        while value >= least:
            tiers.setdefault(int(value), tier)
            value /= step
    return dict(sorted(tiers.items()))


def ceilings(limits: Limits) -> Iterator[Item]:
    """What the machine reaches on work of nothing else."""
    for share in (1, 16, 256):
        yield item("copy", bytes=limits.copy_bytes // share)
    for share in (1, 2, 4):
        yield item("product", side=limits.product_side // share)


def _launches(*, graphs: bool) -> Iterator[Item]:
    """What launching costs the host, and the device between kernels and between graphs."""
    for kernel in ("torch", "engine"):
        yield item("launch", kernel=kernel)
    if graphs:
        for kernels_of_one, chained in ((1, 1), (256, 1), (32, 8), (64, 4)):
            yield item("replay", kernels=kernels_of_one, graphs=chained)


def kernels(shape: ModelShape, limits: Limits, plans: Sequence[str]) -> Iterator[tuple[Item, int]]:
    """Every kernel with its tier."""
    yield from _products(shape, limits, plans)
    yield from _attention(shape, limits)
    yield from _pointwise(shape, limits)


def _products(shape: ModelShape, limits: Limits, plans: Sequence[str]) -> Iterator[tuple[Item, int]]:
    rows = axis(1, limits.rows) | {m: 2 for m in EDGES if m <= limits.rows}
    for (n, k), name in matrices(shape, plans).items():
        for m, tier in rows.items():
            if name != "head" or m <= limits.sequences:
                yield item("gemm", matrix=name, m=m, n=n, k=k), tier


def _attention(shape: ModelShape, limits: Limits) -> Iterator[tuple[Item, int]]:
    longest = min(limits.context, shape.max_context)
    least = min(64, max(1, longest // 8))
    contexts, per_token = axis(least, longest), shape.kv_bytes_per_token_layer()
    for rows, first in axis(1, limits.sequences).items():
        for context, second in contexts.items():
            if rows * context * per_token <= limits.kv_bytes and (tier := _both(first, second)) is not None:
                yield item("decode_attention", rows=rows, context=context), tier
    for new, first in axis(min(16, limits.rows), limits.rows).items():
        for context, second in ({0: 0} | contexts).items():
            if new + context <= longest and (tier := _both(first, second)) is not None:
                yield item("prefill_attention", new=new, context=context), tier
        if first == 0 and new < longest:  # the last chunk of the longest prompt
            yield item("prefill_attention", new=new, context=longest - new), 1
    for rows in (limits.sequences // 8, limits.sequences // 2):
        for new in (limits.rows // 16, limits.rows // 4):
            sizes = {"rows": rows, "context": longest // 4, "new": new, "prompt_context": longest // 8}
            if rows * longest // 4 * per_token <= limits.kv_bytes and new + longest // 8 <= longest:
                yield item("mixed_attention", **sizes), 1


def _both(first: int, second: int) -> int | None:
    """Tier of a cell of a grid: gaps are halved along one axis at a time, between coarse values of the other."""
    return max(first, second) if first + second <= TIERS - 1 else None


def _pointwise(shape: ModelShape, limits: Limits) -> Iterator[tuple[Item, int]]:
    half = max(1, shape.layers // 2)
    for rows, tier in axis(1, limits.rows).items():
        for op in ("norm", "keys", "activation", "embed"):
            yield item(op, rows=rows), tier
        if rows <= limits.sequences:
            yield item("sample", rows=rows), tier
            yield item("norm_gate", rows=rows), tier
        yield item("bulk_keys", rows=rows, layers=half), tier
    for rows in limits.ffn_rows:
        for active in (0, 75, 100):
            yield item("masked_ffn", rows=rows, active=active), 1
