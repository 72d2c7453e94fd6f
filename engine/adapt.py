"""The step that keeps knowledge: train a model for the plan that it will run.

SwiftKV distils only what it adds (queries, keys, values of later layers, one norm) towards the model's own dense
output; SkipDecode fine-tunes all weights on the layers that each position will really run. Texts are known, so each
position follows its row of the plan in one pass, and nothing is generated while training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, mse_loss

from engine.adapt_data import Texts
from engine.adapt_folder import add_swift, read_twin, write_folder
from engine.adapt_model import Seen, Twin
from engine.adapt_optim import Optimisers, check_finite
from sim.errors import InputError
from sim.plans.plan import SkipPlan, plan_of
from sim.plans.strategies import swift_kv

Batches = Callable[[int], Sequence[Texts]]  # of a step; a function of its number alone
Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. The defaults are SwiftKV's for 8B models; a small model takes larger rates.

    `lr` > 0 gives matrices to Muon at that rate; `adam_lr` is AdamW's.
    """

    steps: int
    adam_lr: float = 2e-4
    lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.05
    decay: float = 0.4
    temperature: float = 2.0  # of teacher and student
    hidden_weight: float = 0.0  # of the squared error before the last layer (1.0 in the authors' code since June 2025)
    dtype: torch.dtype = torch.bfloat16  # of the folder that is written

    def __post_init__(self) -> None:
        if self.steps < 1 or self.temperature <= 0 or self.adam_lr <= 0 or self.lr < 0 or self.hidden_weight < 0:
            raise InputError(f"{self}: steps, temperature, adam_lr must be positive, lr and hidden_weight not negative")


@dataclass(frozen=True)
class Adapted:
    """What adapting did, measured on texts that it did not train on."""

    method: str
    plan: str
    dense: dict[str, float]  # the untouched model at full depth, as `measure` gives it
    before: dict[str, float]  # under the plan, untrained
    after: dict[str, float]
    steps: int
    tokens: int  # fed, padding included
    seconds: float
    trained: int  # parameters
    parameters: int


def distil_swift_kv(
    folder: Path,
    out: Path,
    *,
    keep: int,
    group: int,
    batches: Batches,
    held: Sequence[Texts],
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress = lambda step, text: None,
) -> Adapted:
    """Write a SwiftKV checkpoint to `out`; teacher and student are one model, the teacher's weights stay as they are.

    Loss: KL(teacher || student) of softened outputs times T² on counted tokens, plus `hidden_weight` times the mean
    squared error of the streams that enter the last layer (then prompt tokens run every layer in training, as in the
    authors' code). SwiftKV, Qiao et al., arXiv 2410.03960. Raises InputError for a family, keep or group that the
    format does not have, and when training diverges (nothing is written then).
    """
    twin = read_twin(folder, device=device)
    if twin.distilled:
        raise InputError(f"{folder}: is distilled already; give the model that it came from")
    plan = swift_kv(twin.shape, keep=keep, group=group)
    dense = measure(twin, held, plan_of(plan.layers, name="dense"))
    add_swift(twin, keep=keep, group=group)
    twin.to(device)
    for name, p in twin.named_parameters():
        p.requires_grad_("swiftkv" in name)
    run = replace(plan, prompt=plan.sampled) if recipe.hidden_weight else plan

    def loss(texts: Texts) -> Tensor:
        return _distillation(twin, texts, run, recipe)

    return _adapt(twin, folder, out, plan, "SwiftKV distillation", loss, batches, held, recipe, dense, progress)


def fine_tune(
    folder: Path,
    out: Path,
    *,
    plan: SkipPlan,
    batches: Batches,
    held: Sequence[Texts],
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress = lambda step, text: None,
) -> Adapted:
    """Write a model to `out` whose weights were all trained on exactly the layers that the plan gives each position.

    For SkipDecode (Del Corro et al., arXiv 2307.02628), whose authors fine-tune per budget function; any other plan
    works alike. Cross-entropy on counted tokens. Raises PlanError for a plan of another depth, InputError when
    training diverges (nothing is written then).
    """
    twin = read_twin(folder, device=device)
    dense = measure(twin, held, plan_of(twin.shape.layers, name="dense"))

    def loss(texts: Texts) -> Tensor:
        return cross_entropy(twin.logits(_predicting(twin, texts, plan)), texts.targets, reduction="sum")

    return _adapt(twin, folder, out, plan, "fine-tuning", loss, batches, held, recipe, dense, progress)


@torch.no_grad()
def measure(twin: Twin, held: Sequence[Texts], plan: SkipPlan) -> dict[str, float]:
    """Under the plan, per counted token: the cross-entropy `loss`, `accuracy` of the likeliest token, and `kl`.

    `kl` is KL(dense || plan) to the same weights at full depth, without what distillation has added to them. Raises
    InputError for no text.
    """
    sums, count = np.zeros(3), 0
    for texts in (texts.to(twin.device) for texts in held):
        logits, dense = twin.logits(_predicting(twin, texts, plan)), _teacher(twin, texts)
        loss = cross_entropy(logits, texts.targets, reduction="sum")
        kl = kl_div(logits.log_softmax(-1), dense.log_softmax(-1), reduction="sum", log_target=True)
        sums += [float(loss), float((logits.argmax(-1) == texts.targets).sum()), float(kl)]
        count += len(texts.targets)
    if not count:
        raise InputError("there is no held-out text to measure on; the set is empty")
    return {name: float(value) for name, value in zip(("loss", "accuracy", "kl"), sums / count)}


def _predicting(twin: Twin, texts: Texts, plan: SkipPlan, watch: Callable[[Seen], None] | None = None) -> Tensor:
    """The streams that predict the counted tokens."""
    return texts.predicting(twin(texts.tokens, twin.schedule(plan, texts.prompt, texts.tokens.shape[1]), watch))


@torch.no_grad()
def _teacher(twin: Twin, texts: Texts, watch: Callable[[Seen], None] | None = None) -> Tensor:
    """Logits of the same model at full depth without its additions."""
    distilled, twin.distilled = twin.distilled, None
    logits = twin.logits(_predicting(twin, texts, plan_of(twin.shape.layers, name="dense"), watch))
    twin.distilled = distilled
    return logits


def _distillation(twin: Twin, texts: Texts, plan: SkipPlan, recipe: Recipe) -> Tensor:
    """Summed over counted tokens: softened KL times T², and the hidden-state error at their weight."""
    hidden: list[Tensor] = []

    def keep_last(seen: Seen) -> None:
        if seen.layer == plan.layers - 1:
            hidden.append(seen.entered)

    teacher = _teacher(twin, texts, keep_last)
    student = twin.logits(_predicting(twin, texts, plan, keep_last))
    t = recipe.temperature
    soft = (student / t).log_softmax(-1), (teacher / t).log_softmax(-1)
    loss = kl_div(*soft, reduction="sum", log_target=True) * t**2
    if recipe.hidden_weight:
        text = texts.counted.flip(1).cumsum(1).flip(1) > 0  # everything but padding
        loss = loss + recipe.hidden_weight * len(texts.targets) * mse_loss(hidden[1][text], hidden[0][text])
    return loss


def _adapt(
    twin: Twin,
    folder: Path,
    out: Path,
    plan: SkipPlan,
    method: str,
    loss_of: Callable[[Texts], Tensor],
    batches: Batches,
    held: Sequence[Texts],
    recipe: Recipe,
    dense: dict[str, float],
    progress: Progress,
) -> Adapted:
    """The loop that both share: steps, measurements before and after, the folder."""
    before = measure(twin, held, plan)
    optimisers = Optimisers(
        twin.named_parameters(),
        steps=recipe.steps,
        lr=recipe.lr,
        adam_lr=recipe.adam_lr,
        warmup=recipe.warmup,
        decay=recipe.decay,
        betas=recipe.betas,
    )
    began, fed = perf_counter(), 0
    for step in range(recipe.steps):
        parts = [texts.to(twin.device) for texts in batches(step)]
        count, total = sum(len(texts.targets) for texts in parts), 0.0
        for texts in parts:
            with torch.autocast(twin.device.type, torch.bfloat16, enabled=twin.device.type == "cuda"):
                loss = loss_of(texts) / count
            check_finite(loss.detach(), step=step, kept=f"{folder} is as it was, nothing was written")
            loss.backward()  # type: ignore[no-untyped-call]
            total, fed = total + float(loss.detach()), fed + texts.tokens.numel()
        optimisers.step(step)
        progress(step + 1, f"{method} loss {total:.4f}")
    after, seconds = measure(twin, held, plan), perf_counter() - began
    trained = sum(p.numel() for p in twin.parameters() if p.requires_grad)
    everything = sum(p.numel() for p in twin.parameters())
    write_folder(twin, out, dtype=recipe.dtype, like=folder)
    return Adapted(method, plan.name, dense, before, after, recipe.steps, fed, round(seconds, 1), trained, everything)
