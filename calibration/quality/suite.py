"""The plans that a model is put through, each with what it needs to be fair: nothing, distillation, fine-tuning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from calibration.quality.similarity import Watched, fit_gate
from sim.errors import PlanError, UnknownName
from sim.plans.model import ModelShape
from sim.plans.plan import FFN, FULL, KV, SkipPlan, plan_of
from sim.plans.spec import strategy_named
from sim.plans.strategies import compose, ffn_skip, static_depth, swift_kv

Need = Literal["nothing", "distil", "tune", "distil+tune"]
TOKENS = 8  # of SkipDecode's schedule: about the length of an answer
SHARES = (0.10, 0.25, 0.35)
VOTERS = 8  # rows of a batch that decides as one


@dataclass(frozen=True)
class Candidate:
    """A plan to be evaluated; `plan` is None where the model has no room for it, and `why_not` says so."""

    family: str
    setting: str
    plan: SkipPlan | None
    need: Need = "nothing"
    why_not: str = ""
    vote: int = 0  # rows that decide together what the plan's gate leaves out; 0: each for itself

    @property
    def label(self) -> str:
        """Family and setting in one."""
        return f"{self.family} {self.setting}".strip()

    @property
    def key(self) -> str:
        """What tells it from others: the plan's digest, and the size of the batch where one votes."""
        assert self.plan is not None
        return f"{self.plan.digest}/{self.vote}" if self.vote else self.plan.digest


def suite(shape: ModelShape, seen: Watched) -> list[Candidate]:
    """Every candidate for a model, dense first; gates and dropped layers come from `seen`, the calibrate split."""
    made = [Candidate("dense", "", plan_of(shape.layers, name="dense"))]
    for group in (_controls, _skip_decode, _comparators, _swift_kv):
        made += group(shape)
    made += _measured(shape, seen)
    return [*made, *_composed(shape, seen)]


def of_families(candidates: Sequence[Candidate], families: Sequence[str]) -> list[Candidate]:
    """Candidates of some families, dense first all the same. Raises UnknownName for a family that there is none of."""
    known = {c.family for c in candidates}
    for family in families:
        if family not in known:
            raise UnknownName("family", family, known)
    return [c for c in candidates if c.family in {"dense", *families}]


def named(specs: Sequence[str], shape: ModelShape) -> list[Candidate]:
    """Candidates of specs as users write them, dense first. Raises UnknownName, InputError, PlanError."""
    made = [Candidate("dense", "", plan_of(shape.layers, name="dense"))]
    for spec in specs:
        plan = strategy_named(spec, shape)
        if not plan.is_dense:
            made.append(Candidate(family_of(plan), plan.name, plan, need_of(plan)))
    return made


def family_of(plan: SkipPlan) -> str:
    """The strategies of a plan, without their arguments."""
    return "+".join(part.partition(":")[0] for part in plan.name.split("+"))


def need_of(plan: SkipPlan) -> Need:
    """What weights want before they meet the plan: moved keys distillation, left-out layers fine-tuning."""
    layer = np.arange(plan.layers)
    moves = bool((plan.kv_input != layer).any() or (plan.kv_owner != layer).any())
    drops = bool(((plan.decode | KV) != FULL).any()) and not plan.draft
    if moves and drops:
        return "distil+tune"
    return "distil" if moves else "tune" if drops else "nothing"


def _try(family: str, setting: str, make: Callable[[], SkipPlan], *, trained: bool = True) -> Candidate:
    """The candidate, or why there is none; with `trained` it also gets the weights that it wants."""
    try:
        plan = make()
    except PlanError as error:
        return Candidate(family, setting, None, why_not=str(error))
    return Candidate(family, setting, plan, need_of(plan) if trained else "nothing")


def _spec(family: str, setting: str, spec: str, shape: ModelShape) -> Candidate:
    return _try(family, setting, lambda: strategy_named(spec, shape))


def _controls(shape: ModelShape) -> Iterator[Candidate]:
    """What must change nothing: a gate that never opens, and drafts that are verified."""
    shut = "ffn_skip:run_length=1,threshold=0.99999999,cold_layers=1,warmup_tokens=0"
    yield _spec("control", "gate that stays shut", shut, shape)
    for depth in sorted({max(1, shape.layers // 4), max(1, shape.layers // 2)}):
        yield _spec("self_speculative", f"draft {depth} layers", f"self_speculative:exit_layer={depth},tokens=3", shape)


def _skip_decode(shape: ModelShape) -> Iterator[Candidate]:
    for warmup in (1, 3):
        for speedup in (2, 3, 4, 5):
            spec = f"skip_decode:speedup={speedup},warmup_layers={warmup},schedule_tokens={TOKENS}"
            yield _spec("skip_decode", f"{speedup}x, {warmup} warm-up", spec, shape)


def _comparators(shape: ModelShape) -> Iterator[Candidate]:
    half, most = shape.layers // 2, 3 * shape.layers // 4
    yield _spec("unified_skip", "2x", "unified_skip:speedup=2", shape)
    yield _spec("early_exit", f"{half}/{shape.layers}", f"early_exit:at={half}", shape)
    yield _spec("early_exit", f"{most}/{shape.layers}", f"early_exit:at={most}", shape)
    for depth in (half, most):
        yield Candidate("kv_copy_exit", f"{depth}/{shape.layers} every other", copied_keys(shape, at=depth))


def copied_keys(shape: ModelShape, *, at: int, tokens: int = 512) -> SkipPlan:
    """Early exit whose exits alternate with full depth, so that copied keys are read (CALM's state propagation).

    With one exit for all, as `early_exit` has it, nobody reads the copies; here every other generated token stops
    before layer `at`, its state leaves keys and values above, and the next token attends to them.
    """
    stops = np.where(np.arange(shape.layers) < at, FULL, KV)
    decode = np.where((np.arange(tokens) % 2 == 1)[:, None], stops[None], FULL)
    return plan_of(shape.layers, name=f"kv_copy_exit:at={at}", decode=decode, monotone=False)


def _swift_kv(shape: ModelShape) -> Iterator[Candidate]:
    for cut in (0.25, 0.5, 0.625, 0.75):
        keep = round((1 - cut) * shape.layers)
        for group in (1, 2, 4):
            spec = f"swift_kv:keep={keep},group={group}"
            yield _spec("swift_kv", f"{cut:.1%} cut, {group}-way".replace(".0%", "%"), spec, shape)


def _measured(shape: ModelShape, seen: Watched) -> Iterator[Candidate]:
    """What the model's own similarities decide, without training: gates, FFN sets, layers dropped for good."""
    for share in SHARES:
        alone = _try("ffn_skip", f"{share:.0%}", lambda share=share: gate_plan(shape, seen, share))  # type: ignore[misc]
        yield alone
        yield replace(alone, family="ffn_vote", setting=f"{share:.0%}, {VOTERS} rows", vote=VOTERS)
    order = np.argsort(-seen.ffn.mean(axis=0)[1:-1]) + 1  # warm layers, the most similar first
    count = max(1, round(0.25 * shape.layers))
    ends = [*range(count - count // 2), *range(shape.layers - count // 2, shape.layers)]
    yield Candidate("ffn_static", f"{count} warm", without_ffn(shape, sorted(order[:count])))
    yield Candidate("ffn_static", f"{count} cold", without_ffn(shape, ends))
    least = np.argsort(-seen.block.mean(axis=0)[1:-1])[: max(1, shape.layers // 4)] + 1
    drop = sorted(int(layer) for layer in least)
    yield _try("static_depth", f"{len(drop)} least influential", lambda: static_depth(shape, drop=drop), trained=False)


def gate_plan(shape: ModelShape, seen: Watched, share: float) -> SkipPlan:
    """FFN-SkipLLM's gate with a threshold and rates from the model's own profile. Raises PlanError out of reach."""
    fit = fit_gate(seen, share)
    return ffn_skip(
        shape,
        threshold=fit.threshold,
        run_length=fit.run_length,
        cold_layers=fit.cold_layers,
        cadence=fit.cadence,
        warmup_tokens=fit.warmup_tokens,
        skip=fit.skip,
    )


def without_ffn(shape: ModelShape, layers: Sequence[int]) -> SkipPlan:
    """A plan whose generated tokens leave out the FFNs of some layers: the static twin of a gate."""
    row = np.full(shape.layers, FULL)
    row[list(layers)] &= ~FFN
    return plan_of(shape.layers, name=f"ffn_static:layers={'/'.join(map(str, layers))}", decode=row[None])


def _composed(shape: ModelShape, seen: Watched) -> Iterator[Candidate]:
    """SwiftKV for the prompt with something for the decode, which none of the papers tried."""
    keep = shape.layers // 2
    skip = f"swift_kv:keep={keep}+skip_decode:speedup=2,schedule_tokens={TOKENS}"
    yield _spec("swift_kv+skip_decode", "50% cut, 2x", skip, shape)
    gate = lambda: compose(swift_kv(shape, keep=keep), gate_plan(shape, seen, 0.25))  # noqa: E731
    yield _try("swift_kv+ffn_skip", "50% cut, 25%", gate)
