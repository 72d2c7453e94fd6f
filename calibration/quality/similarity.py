"""How much each FFN moves the stream, per layer and output position: what an FFN gate can live on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity

from calibration.quality.tasks.item import Item
from engine.adapt_data import texts_of
from engine.adapt_model import Seen, Twin
from sim.errors import InputError, PlanError
from sim.plans.plan import SkipPlan, plan_of

ROWS = 64


@dataclass(frozen=True)
class Watched:
    """What happened to generated tokens (those that are fed back), one row each."""

    item: NDArray[np.int64]  # [tokens] number of the item
    place: NDArray[np.int64]  # [tokens] generated index, 0 is the first that is fed back
    ffn: NDArray[np.float64]  # [tokens, L] cosine between the streams before and after the FFN
    block: NDArray[np.float64]  # [tokens, L] cosine between the streams before and after the whole layer
    skipped: NDArray[np.bool_]  # [tokens, L] FFNs that the plan's gate left out


@torch.no_grad()
def watch(twin: Twin, items: Sequence[Item], plan: SkipPlan | None = None) -> Watched:
    """The generated tokens of known answers under a plan (dense where none is given). Raises InputError for none."""
    if not items:
        raise InputError("there is nothing to watch; the calibration set is empty")
    layers = twin.shape.layers
    plan = plan or plan_of(layers, name="dense")
    parts: list[tuple[NDArray[np.generic], ...]] = []
    for start in range(0, len(items), ROWS):
        part = items[start : start + ROWS]
        texts = texts_of([(i.prompt, i.answer) for i in part]).to(twin.device)
        fed = texts.fed
        seen: list[tuple[torch.Tensor, ...]] = []

        def note(layer: Seen, fed: torch.Tensor = fed, seen: list[tuple[torch.Tensor, ...]] = seen) -> None:
            ffn = cosine_similarity(layer.before.double(), layer.after.double(), dim=-1)[fed]
            block = cosine_similarity(layer.entered.double(), layer.after.double(), dim=-1)[fed]
            none = torch.zeros_like(ffn, dtype=torch.bool)
            seen.append((ffn, block, none if layer.skipped is None else layer.skipped[fed]))

        twin(texts.tokens, twin.schedule(plan, texts.prompt, texts.tokens.shape[1]), note)
        row, position = (t.cpu().numpy() for t in fed.nonzero(as_tuple=True))
        columns = [torch.stack(column, 1).cpu().numpy() for column in zip(*seen)]
        parts.append((row + start, position - texts.prompt.cpu().numpy()[row], *columns))
    return Watched(*(np.concatenate(column) for column in zip(*parts)))


@dataclass(frozen=True)
class GateFit:
    """A gate's constants, chosen on the calibrate split, and what it then left out there."""

    threshold: float
    run_length: int
    cold_layers: int
    cadence: int
    warmup_tokens: int
    target: float
    share: float  # of all FFNs of tokens after the warm-up
    skip: NDArray[np.float64]  # [L]


def fit_gate(seen: Watched, share: float, *, cold_layers: int = 1, cadence: int = 6, warmup_tokens: int = 1) -> GateFit:
    """The highest threshold, with the shortest run, whose rule leaves out `share` of all FFNs after the warm-up.

    The rule of FFN-SkipLLM (arXiv 2404.03865, the authors' code) replayed on dense cosines: exact up to the first
    skip, and a token has one run. Raises PlanError, naming the most that is within reach, where no threshold does.
    """
    layers = seen.ffn.shape[1]
    first, end = max(1, cold_layers), layers - cold_layers
    since = seen.place - warmup_tokens
    after = since >= 0
    looked_at = after & (since % cadence != cadence - 1)
    tested = seen.ffn[:, first - 1 : end - 1]

    def rates(threshold: float, run: int) -> NDArray[np.float64]:
        skip = _replay(tested, threshold, run, first, end, layers) & looked_at[:, None]
        return np.asarray(skip[after].mean(axis=0), dtype=np.float64)

    most, thresholds = 0.0, [-2.0] if end <= first else np.unique(np.quantile(tested, np.linspace(0, 1, 1001))) - 1e-9
    for run in range(1, max(1, end - first) + 1):
        most = max(most, float(rates(float(thresholds[0]), run).mean()))
        if most >= share:
            low, high = 0, len(thresholds) - 1
            while low < high:  # a lower threshold never skips less: the highest that will do is found by halves
                middle = (low + high + 1) // 2
                enough = rates(float(thresholds[middle]), run).mean() >= share
                low, high = (middle, high) if enough else (low, middle - 1)
            threshold = float(thresholds[low])
            skip = rates(threshold, run)
            return GateFit(threshold, run, cold_layers, cadence, warmup_tokens, share, float(skip.mean()), skip)
    at_most = f"{cold_layers} cold layers at either end leave at most {most:.3f}"
    raise PlanError(f"a share of {share} of the FFNs is out of reach: {at_most}")


def _replay(
    tested: NDArray[np.float64], threshold: float, run: int, first: int, end: int, layers: int
) -> NDArray[np.bool_]:
    """FFNs [tokens, L] that a run of skips covers, if it starts behind the first tested layer above the threshold."""
    above = tested > threshold
    start = np.where(above.any(axis=1), first + above.argmax(axis=1), layers)[:, None]
    layer = np.arange(layers)[None, :]
    return (layer >= start) & (layer < start + run) & (layer < end)
