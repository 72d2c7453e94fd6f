"""What an engine's run and its simulation are compared by: figures of requests, rows, and what the rows come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.run.metrics import MS, tpot_ns

FAMILIES = ("ttft", "tpot", "e2e", "output_tokens_per_s")
BELOW = 0.85  # shares of capacity up to which queues are short enough for TTFT to be judged


@dataclass(frozen=True)
class Compared:
    """One figure of one run: what the engine took, between its repeats, and what was predicted, with its interval."""

    plan: str
    share: float
    metric: str
    measured: float
    measured_low: float
    measured_high: float
    predicted: float
    predicted_low: float
    predicted_high: float

    @property
    def error(self) -> float:
        """Of the prediction, as a share."""
        return self.predicted / self.measured - 1

    @property
    def covered(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.predicted_low <= self.measured <= self.predicted_high


def figures(arrival: NDArray[Any], first: NDArray[Any], last: NDArray[Any], outputs: NDArray[Any]) -> dict[str, float]:
    """The figures that are compared, of columns in ns: latencies in ms, and tokens per second from first to last."""
    columns = {"ttft": (first - arrival) / MS, "tpot": tpot_ns(first, last, outputs) / MS, "e2e": (last - arrival) / MS}
    found: dict[str, float] = {}
    for name, values in columns.items():
        known = values[np.isfinite(values)]
        if known.size:
            found |= {f"{name}_mean_ms": float(known.mean())}
            found |= {f"{name}_p{q}_ms": float(np.percentile(known, q)) for q in (50, 90)}
    return found | {"output_tokens_per_s": float(outputs.sum() / (last.max() - arrival.min()) * 1e9)}


def summary_of(rows: Sequence[Compared]) -> dict[str, Any]:
    """Median errors by family and by plan, and the share of intervals that hold the measurement."""
    return {
        **{f"{family}_median_ape": _median(_of(rows, family)) for family in FAMILIES},
        "coverage_90": float(np.mean([row.covered for row in rows])),
        "by_plan": {
            plan: {family: _median([r for r in _of(rows, family) if r.plan == plan]) for family in FAMILIES}
            for plan in dict.fromkeys(row.plan for row in rows)
        },
    }


def _of(rows: Sequence[Compared], family: str) -> list[Compared]:
    """Rows of a family; of TTFT those below saturation, where it is a latency and not a queue's length."""
    some = [row for row in rows if row.metric.startswith(family)]
    below = [row for row in some if row.share <= BELOW]
    return below if family in ("ttft", "e2e") and below else some


def _median(rows: Sequence[Compared]) -> float:
    return float(np.median([abs(row.error) for row in rows])) if rows else float("nan")
