"""Prefill and decode on replicas of their own: the prompt is read here, its keys travel, tokens are generated there.

The prefill fleet serves each request to its first token; the keys of the prompt, in the caches that later tokens still
need, then leave through the link of the replica that made them, one request after the other; when the last byte is
there, the request comes to the decode fleet. TTFT ends with the first token; TPOT counts transfer and the wait on the
other side. Nothing flows back, so the two are simulated one after the other, exactly.

A prefill replica gives its blocks back with the first token (a pull-based engine keeps them until they were read); the
decode replica takes blocks when it admits the request.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sim.cost.deployment import BYTES
from sim.errors import InputError
from sim.run.cluster import Fleet, Group
from sim.run.dispatch import Batch
from sim.run.failures import Outages
from sim.run.fleet_result import FleetResult
from sim.run.ledger import Ledger
from sim.run.traffic import batch_of, pick
from sim.serving.columns import DONE, Ints
from sim.workload.workload import Workload

_NS = 1_000_000_000


@dataclass(frozen=True)
class Link:
    """What a replica sends keys over: bytes per second, and the time before the first of them arrives."""

    bytes_per_s: float = 50e9  # 400 Gbit/s: one InfiniBand NDR port
    latency_ns: int = 100_000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bytes_per_s) and self.bytes_per_s > 0):
            raise InputError(f"link of {self.bytes_per_s} bytes per second: must be a positive number")
        if self.latency_ns < 0:
            raise InputError(f"link latency of {self.latency_ns} ns: must not be negative")

    def arrivals(self, ready_ns: Ints, sent_bytes: Ints, sender: Ints) -> Ints:
        """When each transfer is complete: every sender sends in the order of readiness, one at a time, [n] ns."""
        took = np.ceil(sent_bytes * (_NS / self.bytes_per_s)).astype(np.int64)
        arrived = np.empty_like(ready_ns)
        for one in np.unique(sender):
            mine = np.flatnonzero(sender == one)
            mine = mine[np.argsort(ready_ns[mine], kind="stable")]
            before = np.cumsum(took[mine]) - took[mine]
            start = np.maximum.accumulate(ready_ns[mine] - before) + before  # Lindley's recursion, unrolled
            arrived[mine] = start + took[mine]
        return arrived + self.latency_ns


def kv_bytes_per_token(group: Group) -> float:
    """Bytes of keys and values that a prompt token leaves for generated tokens, in all caches that they still read."""
    return group.plan.live_caches[1] * group.deployment.model.kv_bytes_per_token_layer(BYTES[group.deployment.kv])


@dataclass(frozen=True)
class Disaggregated:
    """Two fleets and the link between them. All groups run one plan: keys of another would be of no use."""

    prefill: Fleet
    decode: Fleet
    link: Link = Link()

    def __post_init__(self) -> None:
        groups = [*self.prefill.groups, *self.decode.groups]
        if len({group.plan.digest for group in groups}) > 1:
            raise InputError("prefill and decode replicas must run one plan; the keys of another are of no use to it")
        if len({group.deployment.kv for group in groups}) > 1 or len({g.deployment.model.name for g in groups}) > 1:
            raise InputError("prefill and decode replicas must run one model, and store keys in one precision")
        if any(group.config.policy != "chunked" for group in self.decode.groups):
            raise InputError(
                "decode replicas admit requests that have no prompt left to read: they need policy chunked"
            )
        if any(isinstance(control, Outages) for fleet in (self.prefill, self.decode) for control in fleet.controls):
            raise InputError(
                "failures of disaggregated replicas are not modelled: a lost request would go back to prefill"
            )
        if [kind.name for kind in self.prefill.classes] != [kind.name for kind in self.decode.classes]:
            raise InputError("prefill and decode fleets must serve the same classes")

    def run(self, work: Workload, *, exact: bool = True, stepwise: bool = False) -> FleetResult:
        """What happened to a workload, as if one fleet had served it; its groups are those of both."""
        batch = batch_of(work, [kind.share for kind in self.prefill.classes], self.prefill.seed)
        groups = [*self.prefill.groups, *self.decode.groups]
        kinds = self.prefill.classes
        ledger = Ledger([k.name for k in kinds], [g.name for g in groups], [k.slo for k in kinds], exact=exact)
        door = Door(ledger, batch.output_tokens)
        first = batch._replace(output_tokens=np.ones_like(batch.output_tokens))
        read = self.prefill.serve([first], like=work, books=door, stepwise=stepwise)
        handed = self._handed(batch, door)
        slots = sum(group.replicas for group in self.prefill.groups)
        books = Moved(ledger, len(self.prefill.groups), slots)
        served = self.decode.serve([handed] if handed.number.size else [], like=work, books=books, stepwise=stepwise)
        lives = [*read.lives, *({**life, "replica": int(str(life["replica"])) + slots} for life in served.lives)]
        lives = [_to_the_end(life, ledger.last_ns) for life in lives]
        return FleetResult(
            work.name, f"{read.router} + {served.router}", ledger, lives, [], read.wall_s + served.wall_s
        )

    def _handed(self, batch: Batch, door: "Door") -> Batch:
        """The requests that go on, as they come to the decode fleet."""
        rows, ready, sender, group = door.handed()
        per_token = np.array([kv_bytes_per_token(group) for group in self.prefill.groups])
        sent = np.ceil(per_token[group] * batch.prompt_tokens[rows]).astype(np.int64)
        arrived = self.link.arrivals(ready, sent, sender)
        going = pick(batch, rows)._replace(arrival_ns=arrived, first_ns=ready)
        return pick(going, np.lexsort((rows, arrived)))


@dataclass
class Door:
    """The prefill fleet's books: requests that go on are noted, all others are booked."""

    ledger: Ledger
    output_tokens: Ints  # [n] by request number
    last_ns: int = 0
    rows: list[tuple[Ints, Ints, int, int]] = field(default_factory=list)

    def take(self, columns: Mapping[str, Ints], group: int, replica: int) -> None:
        """Note or book requests that a replica finished."""
        self.last_ns = max(self.last_ns, int(columns["last_token_ns"].max(initial=0)))
        on = (columns["status"] == DONE) & (self.output_tokens[columns["request"]] > 1)
        self.rows.append((columns["request"][on], columns["first_token_ns"][on], replica, group))
        self.ledger.take({name: column[~on] for name, column in columns.items()}, group, replica)

    def turn_away(self, how: str, columns: Mapping[str, Ints]) -> None:
        """Book requests that nobody read, with the length they asked for."""
        self.ledger.turn_away(how, {**columns, "output_tokens": self.output_tokens[columns["request"]]})

    def handed(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Request, time of the first token, replica and group of all that go on, [n] each, by request."""
        parts = [(r, t, np.full_like(r, replica), np.full_like(r, group)) for r, t, replica, group in self.rows]
        request, ready, sender, group = (np.concatenate([np.empty(0, np.int64), *column]) for column in zip(*parts))
        order = np.argsort(request)
        return request[order], ready[order], sender[order], group[order]


@dataclass
class Moved:
    """The decode fleet's books: the same ledger, its groups and replicas counted on from the prefill fleet's."""

    ledger: Ledger
    groups: int
    replicas: int
    last_ns: int = 0

    def take(self, columns: Mapping[str, Ints], group: int, replica: int) -> None:
        """Book requests that a replica finished."""
        self.last_ns = max(self.last_ns, int(columns["last_token_ns"].max(initial=0)))
        self.ledger.take(columns, group + self.groups, replica + self.replicas)

    def turn_away(self, how: str, columns: Mapping[str, Ints]) -> None:
        """Book requests that nobody took."""
        self.ledger.turn_away(how, columns)


def _to_the_end(life: Mapping[str, object], end_ns: int) -> dict[str, object]:
    """A life that lasted until its fleet had nothing to do lasts as long as the other fleet."""
    row = dict(life)
    old, new = (end - int(str(row["launched_ns"])) for end in (int(str(row["down_ns"])), end_ns))
    if row["end"] == "served" and new > old > 0:
        row["down_ns"] = end_ns
        row["gpu_hours"] = float(str(row["gpu_hours"])) * new / old
        row["busy_share"] = float(str(row["busy_share"])) * old / new
    return row
