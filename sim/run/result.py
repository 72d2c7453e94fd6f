"""What a run produced: frames per request and per iteration, and the summary that every report starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from sim.cost.deployment import Deployment
from sim.cost.tables import PART_NAMES
from sim.plans.plan import SkipPlan
from sim.run.log import Logged, iterations_of, regular_gaps
from sim.run.metrics import MS, Floats, Slo, spread, tpot_ns, weighted_spread
from sim.run.replica import (
    L_DECODE,
    L_NS,
    L_PARTS,
    L_PROMPT,
    L_RUNNING,
    L_START,
    L_STEPS,
    L_USED,
    L_WAITING,
)
from sim.serving.columns import DONE, Asked, Ints, State
from sim.serving.config import Knobs, SchedulerConfig
from sim.workload.workload import Workload

STATUS = ("future", "waiting", "running", "done", "refused", "aborted")
KINDS = ("prefill", "decode", "mixed")


@dataclass(frozen=True)
class Result:
    """A finished run. Times are nanoseconds from the first arrival; summaries are in milliseconds."""

    workload: Workload
    deployment: Deployment
    plan: SkipPlan
    config: SchedulerConfig
    times_label: str
    asked: Asked
    state: State
    knobs: Knobs
    work: Mapping[str, float]  # done, and the dense model's for the same rows (FLOPs, bytes)
    logged: Logged
    wall_s: float

    @cached_property
    def latency_ms(self) -> Mapping[str, Floats]:
        """TTFT, TPOT and E2E of every request, [n] each; NaN where it was not served, or has no second token."""
        s, a = self.state, self.asked
        ns = {
            "ttft": s.first_token_ns - a.arrival_ns,
            "tpot": tpot_ns(s.first_token_ns, s.last_token_ns, a.output_tokens),
            "e2e": s.last_token_ns - a.arrival_ns,
        }
        return {name: np.where(s.status == DONE, values / MS, np.nan) for name, values in ns.items()}

    @cached_property
    def requests(self) -> pl.DataFrame:
        """One row per request: what it asked, when it was served, TTFT, TPOT and E2E in ms (null where not served)."""
        s, a = self.state, self.asked
        done = s.status == DONE
        frame = pl.DataFrame(
            {
                "request": np.arange(done.size),
                "status": pl.Series(STATUS, dtype=pl.Categorical).gather(s.status),
                "arrival_ns": a.arrival_ns,
                "scheduled_ns": s.scheduled_ns,
                "first_token_ns": s.first_token_ns,
                "last_token_ns": s.last_token_ns,
                "prompt_tokens": a.prompt_tokens,
                "output_tokens": a.output_tokens,
                "cached_tokens": s.cached,
                "preemptions": s.preempted,
                **{f"{name}_ms": values for name, values in self.latency_ms.items()},
            }
        )
        served = pl.Series(done)
        times = ["scheduled_ns", "first_token_ns", "last_token_ns", "ttft_ms", "tpot_ms", "e2e_ms"]
        return frame.with_columns(pl.when(served).then(pl.col(t)).otherwise(None).fill_nan(None) for t in times)

    @cached_property
    def log(self) -> Ints:
        """A line for every iteration, [iterations, LOG_COLUMNS]."""
        return iterations_of(self.logged)

    @cached_property
    def iterations(self) -> pl.DataFrame:
        """One row per iteration: when, what it held, who ran and waited, memory in use, where its time went (ns)."""
        log = self.log
        columns = {
            "start_ns": log[:, L_START],
            "duration_ns": log[:, L_NS],
            "kind": _kinds(log),
            "prompt_tokens": log[:, L_PROMPT],
            "decode_rows": log[:, L_DECODE],
            "running": log[:, L_RUNNING],
            "waiting": log[:, L_WAITING],
            "kv_share": log[:, L_USED] / self.knobs.total_units,
        }
        parts = {f"{name}_ns": log[:, L_PARTS + i] for i, name in enumerate(PART_NAMES)}
        return pl.DataFrame(columns | parts)

    @property
    def makespan_s(self) -> float:
        """Seconds from the first arrival to the last token."""
        lines = self.logged.lines
        if not len(lines):
            return 0.0
        last = max(int(self.state.last_token_ns.max()), int(lines[-1, L_START] + lines[-1, L_NS]))
        return (last - int(self.asked.arrival_ns[0])) / 1e9

    @property
    def realised(self) -> dict[str, float]:
        """Shares of the dense model's work that were really saved, beside the plan's nominal skip rate."""
        work = self.work

        def saved(name: str) -> float:
            return 1.0 - work[name] / work[f"{name}_dense"] if work[f"{name}_dense"] else 0.0

        names = ("flops", "weight_bytes", "kv_read_bytes", "row_layers")
        shares = {f"{name}_saved": saved(name) for name in names}
        caches = 1.0 - self.plan.caches.size / self.plan.layers
        return shares | {"kv_capacity_saved": caches, "nominal_skip": self.plan.nominal_skip}

    def attribution(self) -> pl.DataFrame:
        """Seconds by kind of iteration and part of its time, with the number of iterations."""
        lines = self.logged.lines
        columns = {"kind": _kinds(lines), "iterations": lines[:, L_STEPS]}
        columns |= {name: lines[:, L_PARTS + i] for i, name in enumerate(PART_NAMES)}
        seconds = [(pl.col(name).sum() / 1e9).alias(f"{name}_s") for name in PART_NAMES]
        return pl.DataFrame(columns).group_by("kind").agg(pl.col("iterations").sum(), *seconds).sort("kind")

    def goodput(self, slo: Slo) -> tuple[float, float]:
        """Requests per second that meet the SLO, and their share of all that were asked."""
        met = slo.met(self.latency_ms["ttft"], self.latency_ms["tpot"])
        return (int(met.sum()) / self.makespan_s if self.makespan_s else 0.0), float(met.mean())

    def itl(self) -> dict[str, float]:
        """p50, p90, p99 and mean of all inter-token gaps, in ms."""
        gaps_ns, tokens = regular_gaps(self.logged)
        odd_ns = self.logged.gaps_ns
        found = weighted_spread(np.concatenate([gaps_ns, odd_ns]), np.concatenate([tokens, np.ones_like(odd_ns)]))
        return {name: value / MS for name, value in found.items()}

    def summary(self, *, intervals: bool = True) -> dict[str, object]:
        """The run in one JSON-ready dictionary, with or without `spread`'s intervals; docs/json.md has the keys."""
        asked = len(self.workload)
        done = int((self.state.status == DONE).sum())
        span = self.makespan_s or float("nan")
        tp = self.deployment.tp
        output = int(self.state.generated.sum())
        prompt = int(self.asked.prompt_tokens[self.state.status == DONE].sum())
        lines = self.logged.lines
        busy_ns = float(lines[:, L_NS].sum()) or float("nan")
        return {
            "model": self.deployment.model.name,
            "gpu": self.deployment.gpu.name,
            "tp": tp,
            "strategy": self.plan.name,
            "plan_digest": self.plan.digest,
            "kernel_times": self.times_label,
            "workload": self.workload.name,
            "requests": asked,
            "completed": done,
            "failed": asked - done,
            "failed_in_trace": self.workload.failed,
            "makespan_s": span,
            "requests_per_s": done / span,
            "ttft_ms": spread(self.latency_ms["ttft"], intervals=intervals),
            "tpot_ms": spread(self.latency_ms["tpot"], intervals=intervals),
            "itl_ms": self.itl(),
            "e2e_ms": spread(self.latency_ms["e2e"], intervals=intervals),
            "output_tokens_per_s": output / span,
            "total_tokens_per_s": (output + prompt) / span,
            "output_tokens_per_s_per_gpu": output / span / tp,
            "normalised_tflops_per_gpu": self.work["flops_dense"] / span / tp / 1e12,
            "executed_tflops_per_gpu": self.work["flops"] / span / tp / 1e12,
            "kv_capacity_tokens": self.knobs.total_units // self.knobs.full_units * self.knobs.block_tokens,
            "kv_peak_share": float(lines[:, L_USED].max(initial=0)) / self.knobs.total_units,
            "queue_peak": int(lines[:, L_WAITING].max(initial=0)),
            "preemptions": int(self.state.preempted.sum()),
            "prefix_hit_share": float(self.state.cached.sum()) / max(1, int(self.asked.prompt_tokens.sum())),
            "busy_share": busy_ns / 1e9 / span,
            "realised": self.realised,
            "extrapolated_share": self.work["outside_ns"] / busy_ns,
            "iterations": int(lines[:, L_STEPS].sum()),
            "wall_s": self.wall_s,
        }


def _kinds(lines: Ints) -> pl.Series:
    """What each line of a log held: prompts, decodes, or both."""
    prompt, decode = lines[:, L_PROMPT] > 0, lines[:, L_DECODE] > 0
    return pl.Series(KINDS, dtype=pl.Categorical).gather(np.where(prompt & decode, 2, np.where(decode, 1, 0)))
