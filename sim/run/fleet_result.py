"""What a fleet did: frames per request, replica, class and group, and the summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from sim.run.ledger import METRICS, Account, Ledger
from sim.run.result import Result


@dataclass(frozen=True)
class FleetResult:
    """A finished run of a fleet. Times are nanoseconds from the first arrival; summaries are in milliseconds."""

    workload: str
    router: str
    ledger: Ledger
    lives: Sequence[Mapping[str, object]]
    results: Sequence[Result]  # one per life that got a request, where iterations were kept
    wall_s: float

    @property
    def requests(self) -> pl.DataFrame | None:
        """One row per request, also of those turned away; None where metrics were sketched."""
        return self.ledger.requests()

    @cached_property
    def replicas(self) -> pl.DataFrame:
        """One row per life of a replica, by slot and launch: a slot's GPUs may have had several."""
        return pl.DataFrame(self.lives, infer_schema_length=None).sort("replica", "launched_ns")

    @property
    def makespan_s(self) -> float:
        """Seconds from time 0 to the last token."""
        return self.ledger.last_ns / 1e9

    @property
    def gpu_hours(self) -> float:
        """Hours of all GPUs from launch to end, start-up included."""
        return float(self.replicas["gpu_hours"].sum())

    @cached_property
    def classes(self) -> pl.DataFrame:
        """One row per class: what became of its requests, and how long they took."""
        rows = []
        for kind, name in enumerate(self.ledger.classes):
            away = {how: int(counts[kind]) for how, counts in self.ledger.turned_away.items()}
            rows.append({"class": name, **self._figures(self.ledger.total(kind=kind), away)})
        return pl.DataFrame(rows, infer_schema_length=None)

    @cached_property
    def groups(self) -> pl.DataFrame:
        """One row per group of replicas."""
        rows = []
        for group, name in enumerate(self.ledger.groups):
            mine = self.replicas.filter(pl.col("group") == name)
            held = {"gpu_hours": float(mine["gpu_hours"].sum()), "lives": len(mine)}
            rows.append({"group": name, **held, **self._figures(self.ledger.total(group=group), {})})
        return pl.DataFrame(rows, infer_schema_length=None)

    def summary(self) -> dict[str, object]:
        """The run in one JSON-ready dictionary; keys are documented in docs/json.md."""
        away = {how: int(counts.sum()) for how, counts in self.ledger.turned_away.items()}
        total, span = self.ledger.total(), self.makespan_s or float("nan")
        asked = self._asked(total, away)
        met = total.counts["within_slo"]
        busy = float(self.replicas["busy_share"].to_numpy() @ self.replicas["gpu_hours"].to_numpy())
        return {
            "workload": self.workload,
            "router": self.router,
            "requests": asked,
            **total.counts,
            **away,
            "lost_and_retried": int(self.replicas["lost"].sum()),
            "makespan_s": self.makespan_s,
            "requests_per_s": total.counts["completed"] / span,
            "goodput_per_s": met / span,
            "slo_met_share": met / asked if asked else float("nan"),
            "output_tokens_per_s": total.counts["output_tokens"] / span,
            **{f"{name}_ms": total.metrics[name].spread() for name in METRICS},
            "prefix_hit_share": total.counts["cached_tokens"] / max(1, total.counts["prompt_tokens"]),
            "gpu_hours": self.gpu_hours,
            "busy_share": busy / self.gpu_hours if self.gpu_hours else float("nan"),
            "replica_lives": len(self.lives),
            "iterations": int(self.replicas["iterations"].sum()),
            "exact": self.ledger.exact,
            "wall_s": self.wall_s,
        }

    def _figures(self, account: Account, away: Mapping[str, int]) -> dict[str, object]:
        """Counts, rates and quantiles of an account."""
        asked, span = self._asked(account, away), self.makespan_s or float("nan")
        figures: dict[str, object] = {"requests": asked, **account.counts, **away}
        figures["slo_met_share"] = account.counts["within_slo"] / asked if asked else None
        figures["goodput_per_s"] = account.counts["within_slo"] / span
        for name in METRICS:
            spread = account.metrics[name].spread()
            figures |= {f"{name}_{q}_ms": spread[q] for q in ("p50", "p90", "p99")}
        return figures

    def _asked(self, account: Account, away: Mapping[str, int]) -> int:
        return account.counts["completed"] + account.counts["refused"] + sum(away.values())
