"""What a fleet did for its clients, booked as requests leave it: per class and group of replicas."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl

from sim.run.metrics import MS, Slo, tpot_ns
from sim.run.seat import Seat
from sim.run.sketch import Distribution, Exact, Sketch
from sim.serving.columns import DONE, NOBODY, REFUSED, Ints

METRICS = ("ttft", "tpot", "e2e")
COUNTS = (
    "completed",
    "within_slo",
    "refused",  # can never fit on the replica they came to
    "retried",  # completed after a failure
    "prompt_tokens",
    "output_tokens",
    "cached_tokens",
    "preemptions",
)
TURNED_AWAY = ("shed", "unserved")
FRAME = {
    "request": pl.Int64,
    "class": pl.Categorical,
    "status": pl.Categorical,
    "group": pl.Categorical,
    "replica": pl.Int64,
    "attempts": pl.Int64,
    "arrival_ns": pl.Int64,
    "routed_ns": pl.Int64,
    "scheduled_ns": pl.Int64,
    "first_token_ns": pl.Int64,
    "last_token_ns": pl.Int64,
    "prompt_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cached_tokens": pl.Int64,
    "preemptions": pl.Int64,
    "ttft_ms": pl.Float64,
    "tpot_ms": pl.Float64,
    "e2e_ms": pl.Float64,
}


@dataclass
class Account:
    """Counts and distributions of one class on one group."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    metrics: dict[str, Any] = field(default_factory=dict)

    def merge(self, other: "Account") -> None:
        """Add another's."""
        for name, count in other.counts.items():
            self.counts[name] += count
        for name, values in other.metrics.items():
            self.metrics[name].merge(values)


class Books(Protocol):
    """Whoever is told what became of requests."""

    last_ns: int

    def take(self, columns: Mapping[str, Ints], group: int, replica: int) -> None:
        """Requests that a replica of a group finished or refused."""
        ...

    def turn_away(self, how: str, columns: Mapping[str, Ints]) -> None:
        """Requests that nobody served."""
        ...


def slots_of(seat: Seat, slots: Ints) -> dict[str, Ints]:
    """The columns of some slots of a seat, by name."""
    asked, state = seat.replica.asked, seat.replica.state
    columns: dict[str, Ints] = {
        "request": seat.number,
        "kind": seat.kind,
        "status": state.status.astype(np.int64),
        "attempts": seat.attempt + 1,
        "arrival_ns": seat.born_ns,
        "routed_ns": asked.arrival_ns,
        "scheduled_ns": state.scheduled_ns,
        "first_token_ns": state.first_token_ns,
        "last_token_ns": state.last_token_ns,
        "prompt_tokens": asked.prompt_tokens,
        "output_tokens": asked.output_tokens,
        "cached_tokens": state.cached,
        "preemptions": state.preempted,
    }
    return {name: column[slots] for name, column in columns.items()}


class Ledger:
    """Accounts by (class, group), and a frame of all requests where they are kept."""

    def __init__(self, classes: Sequence[str], groups: Sequence[str], slos: Sequence[Slo], *, exact: bool) -> None:
        self.classes, self.groups, self.slos, self.exact = list(classes), list(groups), list(slos), exact
        self.accounts: dict[tuple[int, int], Account] = {}
        self.turned_away = {name: np.zeros(len(self.classes), dtype=np.int64) for name in TURNED_AWAY}
        self.last_ns = 0
        self._rows: list[pl.DataFrame] = []

    def take(self, columns: Mapping[str, Ints], group: int, replica: int) -> None:
        """Book requests that a replica of a group finished or refused."""
        done = columns["status"] == DONE
        first, last, born = (columns[name] for name in ("first_token_ns", "last_token_ns", "arrival_ns"))
        values = {
            "ttft": np.where(done, first - born, np.nan) / MS,
            "tpot": np.where(done, tpot_ns(first, last, columns["output_tokens"]), np.nan) / MS,
            "e2e": np.where(done, last - born, np.nan) / MS,
        }
        self.last_ns = max(self.last_ns, int(last.max(initial=0)))
        for kind in np.unique(columns["kind"]).tolist():
            mine = columns["kind"] == kind
            part = {name: column[mine] for name, column in columns.items()}
            self._book(kind, group, part, {name: value[mine] for name, value in values.items()})
        if self.exact:
            self._rows.append(self._frame(columns, values, self.groups[group], replica))

    def turn_away(self, how: str, columns: Mapping[str, Ints]) -> None:
        """Book requests that nobody served: "shed", or "unserved" where no replica was left."""
        kinds = columns["kind"]
        self.turned_away[how] += np.bincount(kinds, minlength=len(self.classes))
        if self.exact and kinds.size:
            none = {name: np.full(kinds.size, np.nan) for name in METRICS}
            self._rows.append(self._frame(columns, none, None, None, how))

    def merge(self, other: "Ledger") -> None:
        """Add what another part of the fleet did."""
        for key, account in sorted(other.accounts.items()):
            self._account(*key).merge(account)
        for name, counts in other.turned_away.items():
            self.turned_away[name] += counts
        self.last_ns = max(self.last_ns, other.last_ns)
        self._rows += other._rows

    def total(self, *, kind: int | None = None, group: int | None = None) -> Account:
        """One account of all classes, or one; of all groups, or one."""
        found = self._new()
        for (k, g), account in sorted(self.accounts.items()):
            if kind in (None, k) and group in (None, g):
                found.merge(account)
        return found

    def requests(self) -> pl.DataFrame | None:
        """One row per request in the order of their numbers; None where they were not kept."""
        if not self.exact:
            return None
        return pl.concat([pl.DataFrame(schema=FRAME), *self._rows]).sort("request")

    def _new(self) -> Account:
        kind: Callable[[], Distribution] = Exact if self.exact else Sketch
        return Account(metrics={name: kind() for name in METRICS})

    def _account(self, kind: int, group: int) -> Account:
        return self.accounts.setdefault((kind, group), self._new())

    def _book(self, kind: int, group: int, columns: Mapping[str, Ints], values: Mapping[str, Any]) -> None:
        account, done = self._account(kind, group), columns["status"] == DONE
        met = done & self.slos[kind].met(values["ttft"], values["tpot"])
        amounts = {
            "completed": done.sum(),
            "within_slo": met.sum(),
            "refused": (columns["status"] == REFUSED).sum(),
            "retried": (done & (columns["attempts"] > 1)).sum(),
            **{name: columns[name][done].sum() for name in COUNTS[4:]},
        }
        for name, amount in amounts.items():
            account.counts[name] += int(amount)
        for name, value in values.items():
            account.metrics[name].add(value[done], columns["request"][done])

    def _frame(
        self,
        columns: Mapping[str, Ints],
        values: Mapping[str, Any],
        group: str | None,
        replica: int | None,
        how: str = "",
    ) -> pl.DataFrame:
        size = columns["request"].size
        status = [how] * size if how else ["done" if s == DONE else "refused" for s in columns["status"]]
        frame = {name: columns.get(name, np.full(size, NOBODY)) for name, of in FRAME.items() if of == pl.Int64}
        frame |= {f"{name}_ms": value for name, value in values.items()}
        words = {"class": [self.classes[k] for k in columns["kind"]], "status": status, "group": [group] * size}
        made = pl.DataFrame({**frame, **words}).with_columns(pl.lit(replica, dtype=pl.Int64).alias("replica"))
        times = ("scheduled_ns", "first_token_ns", "last_token_ns")
        made = made.with_columns(pl.when(pl.col(t) != NOBODY).then(pl.col(t)) for t in times)
        made = made.with_columns(pl.col(f"{name}_ms").fill_nan(None) for name in values)
        return made.select(pl.col(name).cast(of) for name, of in FRAME.items())
