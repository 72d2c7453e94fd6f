"""Where a run's time went, by part of the step and by phase: what the explanation of a gain is computed from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cost.deployment import Deployment
from sim.cost.tables import PART_NAMES, Ints
from sim.cost.times import KernelTimes
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, KV, Flags, SkipPlan
from sim.run.replica import L_DECODE, L_NS, L_PARTS, L_PROMPT, L_WAITING
from sim.run.result import Result

PHASES = ("prompt", "decode")


@dataclass(frozen=True)
class Profile:
    """Seconds of a run and the plan's skips; keys are PART_NAMES and PHASES.

    `seconds[part]` is the run's time; `by_phase[phase][part]` splits it by the rows of each step, KV reads going to
    decode. `blocks`, `work` and `met` are the shares of a phase's layers that the plan leaves out: counted in blocks,
    weighed by their parameters, and as the run's output lengths really met the plan's rows.
    """

    strategy: str
    seconds: Mapping[str, float]
    by_phase: Mapping[str, Mapping[str, float]]
    head_s: float  # LM head in `weights`: read in full by every step that samples
    blocks: Mapping[str, float]
    work: Mapping[str, float]
    met: Mapping[str, float]

    @property
    def total_s(self) -> float:
        """Seconds of all steps."""
        return sum(self.seconds.values())


def profile_of(result: Result, times: KernelTimes) -> Profile:
    """The profile of a run that was priced with these kernel times.

    Where requests queued for most of the run, only those steps count: the emptying of the last batch is left out.
    """
    log, plan, model = while_queueing(result.log), result.plan, result.deployment.model
    parts = {name: log[:, L_PARTS + i] / 1e9 for i, name in enumerate(PART_NAMES)}
    rows = np.maximum(1, log[:, L_PROMPT] + log[:, L_DECODE])
    decode_share = log[:, L_DECODE] / rows
    by_phase: dict[str, dict[str, float]] = {"prompt": {}, "decode": {}}
    for name, seconds in parts.items():
        decode = float(seconds.sum() if name == "kv" else (seconds * decode_share).sum())
        by_phase["decode"][name] = decode
        by_phase["prompt"][name] = float(seconds.sum()) - decode
    return Profile(
        strategy=plan.name,
        seconds={name: float(seconds.sum()) for name, seconds in parts.items()},
        by_phase=by_phase,
        head_s=_head_s(log, result.deployment, times),
        blocks={"prompt": plan.prompt_skip, "decode": plan.nominal_skip},
        work={"prompt": 1 - _mean_work(plan.prompt[None], model), "decode": 1 - _table_work(plan, model)},
        met=met_shares(plan, model, result.asked.prompt_tokens, result.asked.output_tokens),
    )


def while_queueing(log: Ints) -> Ints:
    """The iterations up to the last after which requests waited; all where those are less than half the time."""
    waiting = np.flatnonzero(log[:, L_WAITING])
    end = int(waiting[-1]) + 1 if waiting.size else 0
    return log[:end] if 2 * log[:end, L_NS].sum() > log[:, L_NS].sum() else log


def _head_s(log: Ints, on: Deployment, times: KernelTimes) -> float:
    """Seconds that reading the LM head's weights took: one pass for every step that decodes."""
    one = float(times.gemm(np.array([1]), on.model.vocab // on.tp, on.model.hidden, "bf16")[0][0])
    return one * int((log[:, L_DECODE] > 0).sum()) / 1e9


def _mean_work(rows: Flags, model: ModelShape, ffn_kept: NDArray[np.float64] | float = 1.0) -> float:
    """Share of the layers' parameters that the rows run, averaged over rows [n, L]."""
    work = ((rows & ATTN) > 0) * model.p_qo + ((rows & KV) > 0) * model.p_kv
    work = work + ((rows & FFN) > 0) * ffn_kept * model.p_ffn
    return float(work.sum(axis=1).mean()) / (model.layers * model.p_layer)


def _table_work(plan: SkipPlan, model: ModelShape) -> float:
    return _mean_work(plan.schedule, model, 1.0 - plan.gate.skip if plan.gate else 1.0)


def met_shares(
    plan: SkipPlan, model: ModelShape, prompt: NDArray[np.int64], output: NDArray[np.int64]
) -> dict[str, float]:
    """Shares of layer work left out by the tokens that were really fed: prompts, and outputs 0 .. n - 2."""
    ends = _mean_work(plan.sampled[None], model) * prompt.size
    before = _mean_work(plan.prompt[None], model) * float((prompt - 1).sum())
    fed = output - 1
    tokens = int(fed.sum())
    if not tokens:
        return {"prompt": 1 - (ends + before) / float(prompt.sum()), "decode": 0.0}
    warmup = plan.gate.warmup_tokens if plan.gate else 0
    last = max(plan.decode.shape[0] - 1, warmup)
    still = np.bincount(np.minimum(fed, last + 1), minlength=last + 2)[::-1].cumsum()[::-1]
    counts = still[1 : last + 2].astype(float)  # requests that feed generated token t, t = 0 .. last
    counts[last] = tokens - counts[:last].sum()  # the last row holds for every later token
    rows = plan.decode[np.minimum(np.arange(last + 1), plan.decode.shape[0] - 1)]
    work = np.array([_mean_work(row[None], model) for row in rows])
    if plan.gate:
        gated = np.array([_mean_work(row[None], model, 1.0 - plan.gate.skip) for row in rows])
        work = np.where(np.arange(last + 1) >= warmup, gated, work)
    return {
        "prompt": 1 - (ends + before) / float(prompt.sum()),
        "decode": 1 - float((counts * work).sum()) / tokens,
    }
