"""A fleet at work: its members, the dispatcher's view of them, and the ways in which they come and go.

At one nanosecond, things happen in this order: the fleet changes (failures, starts, decisions), requests are routed in
the order of their numbers, iterations end. So whoever decides or routes sees what ended before, and looking changes
nothing. Decisions are taken by SimPy processes; between two of them the dispatcher runs on its own.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
import simpy

from sim.errors import CapacityError
from sim.run import dispatch
from sim.run.compiled_dispatch import Dispatcher, compiled_dispatcher
from sim.run.dispatch import HELD, ROW, SCALARS, SHED, WHO, WHY, Batch, Desk
from sim.run.handles import Handles
from sim.run.ledger import Books
from sim.run.member import Member
from sim.run.replica import FAR
from sim.run.seat import Mold
from sim.run.traffic import again, cut, joined, pick
from sim.serving.columns import Ints

LAST = FAR - 1  # past everything that happens, before what never does
POLL_NS = 1_000_000_000  # how often somebody looks whether a draining replica is empty
Event = Generator[simpy.Event, None, None]
Tiers = Sequence[tuple[frozenset[int], int]]  # of a class: groups, and the limit of the replica chosen among them


class Crew:
    """Run-time state. Everything that decides about the fleet calls these methods at SimPy's time."""

    def __init__(
        self,
        molds: Sequence[Mold],
        tiers: Sequence[Tiers],
        books: Books,
        *,
        router: str,
        kv_weight: float,
        seed: int,
        keep: bool,
        stepwise: bool,
    ) -> None:
        self.env = simpy.Environment(initial_time=0)
        self.members: list[Member] = []
        self.books = books
        self.more = True  # whether requests are still to come
        self._molds, self._tiers, self._keep, self._stepwise = molds, tiers, keep, stepwise
        self._rng = np.random.default_rng([seed, 103])
        self._handles = Handles()
        self._compiled: Dispatcher | None = None
        self._waiting: list[Batch] = []  # requests that come back at a known time
        self._held: list[Batch] = []  # requests that nobody could take
        kinds, most = len(tiers), max(len(t) for t in tiers)
        limits = np.zeros((kinds, most), dtype=np.int64)
        for kind, wanted in enumerate(tiers):
            limits[kind, : len(wanted)] = [limit for _, limit in wanted]
        self._desk = Desk(
            scalars=np.zeros(SCALARS, dtype=np.int64),
            open=np.zeros((kinds, most, 0), dtype=np.int64),
            n_open=np.zeros((kinds, most), dtype=np.int64),
            limit=limits,
            turn=np.zeros((kinds, most), dtype=np.int64),
            live=np.zeros(0, dtype=np.int64),
            n_live=np.zeros(1, dtype=np.int64),
            router=dispatch.ROUTERS.index(router),
            weight=float(kv_weight),
            keep=int(keep),
        )

    @property
    def now_ns(self) -> int:
        """SimPy's time."""
        return int(self.env.now)

    def live(self) -> list[Member]:
        """Members that are not down, by slot."""
        return sorted((m for m in self.members if m.phase != "down"), key=lambda m: (m.slot, m.number))

    def serving(self) -> list[Member]:
        """Members that take requests, by slot."""
        return [m for m in self.live() if m.phase == "serving"]

    def look(self, members: Iterable[Member] | None = None) -> None:
        """Let members, or all, catch up with the clock, so that what is read of them is as of just before now."""
        numbers = np.array([m.number for m in (self.live() if members is None else members)], dtype=np.int64)
        self._settle(numbers, self.now_ns - 1)

    def launch(self, group: int, slot: int, *, startup_ns: int = 0) -> Member:
        """A new life on a slot; it serves after its start-up."""
        mold = self._molds[group]
        now = self.now_ns
        phase: Any = "starting" if startup_ns else "serving"
        number = len(self.members)
        member = Member(number, slot, group, mold, mold.seat(), now, now + startup_ns, phase)
        self.members.append(member)
        self._handles.write(number, member.seat)
        if startup_ns:
            self.env.process(self._start(member, startup_ns))
        self.roster()
        return member

    def drain(self, member: Member, then: Callable[[], object] | None = None) -> None:
        """Route nothing more to a member; when it is empty its life ends, and `then` is called."""
        member.phase = "draining"
        self.roster()
        self.env.process(self._empty(member, then))

    def fail(self, member: Member, *, notice_ns: int) -> None:
        """End a member's life at once: its requests come back after the failure was noticed, and start from nothing."""
        self.look([member])
        lost = again(member.seat, member.here(), at_ns=self.now_ns + notice_ns, rng=self._rng)
        self._close(member, "failed")
        if lost.number.size:
            self._waiting.append(pick(lost, np.argsort(lost.number, kind="stable")))

    def roster(self) -> None:
        """Tell the dispatcher who takes requests of which class."""
        serving = self.serving()
        desk, kinds, most = self._desk, len(self._tiers), self._desk.limit.shape[1]
        there = np.zeros((kinds, most, max(1, len(serving))), dtype=np.int64)
        for kind, tiers in enumerate(self._tiers):
            for tier, (groups, _) in enumerate(tiers):
                numbers = [m.number for m in serving if m.group in groups]
                there[kind, tier, : len(numbers)] = numbers
                desk.n_open[kind, tier] = len(numbers)
        live = np.array([m.number for m in self.live()], dtype=np.int64)
        self._desk = desk._replace(open=there, live=live, n_live=np.array([live.size]))
        for batch in self._held:
            self._waiting.append(batch._replace(arrival_ns=np.full_like(batch.arrival_ns, self.now_ns)))
        self._held = []

    def work(self, chunks: Iterable[Batch]) -> Event:
        """SimPy's process of the traffic: route whatever comes before the fleet changes next."""
        for chunk in chunks:
            start, size = 0, chunk.number.size
            while start < size:
                until = min(self.env.peek(), LAST)
                stop = int(np.searchsorted(chunk.arrival_ns, until))
                bound = until if stop < size else int(chunk.arrival_ns[-1]) + 1
                self._route([*self._due(bound), cut(chunk, start, stop)])
                start = stop
                if start < size:
                    yield self.env.timeout(int(until) - self.env.now)
            if size:
                self._settle(
                    self._desk.live, int(chunk.arrival_ns[-1]) - 1
                )  # or a chunk's slots would pile up on the next
        self.more = False
        while self._waiting or self.env.peek() < LAST:
            until = min(self.env.peek(), LAST)
            self._route(self._due(until))
            if until < LAST:
                yield self.env.timeout(int(until) - self.env.now)

    def finish(self) -> int:
        """The time of the last token, after everybody was served and every life was ended."""
        self._settle(np.array([m.number for m in self.live()], dtype=np.int64), LAST)
        stuck = [m for m in self.live() if m.outstanding]
        if stuck:
            raise CapacityError(f"replica {stuck[0].slot} made no progress: a waiting request fits nowhere")
        alive = self.live()
        for member in alive:
            self._close(member, "served")
        for batch in self._held:
            self.books.turn_away("unserved", _named(batch))
        self._held = []
        end_ns = max([self.books.last_ns, *(m.down_ns for m in self.members if m not in alive)])
        for member in alive:
            member.down_ns = max(end_ns, member.launched_ns)
        return end_ns

    def _start(self, member: Member, startup_ns: int) -> Event:
        yield self.env.timeout(startup_ns)
        if member.phase == "starting":
            member.phase = "serving"
            self.roster()

    def _empty(self, member: Member, then: Callable[[], object] | None) -> Event:
        while member.phase == "draining":
            self.look([member])
            if not member.outstanding:
                self._close(member, "drained")
                if then:
                    then()
                return
            yield self.env.timeout(POLL_NS)

    def _close(self, member: Member, end: str) -> None:
        member.close(self.books.take, now_ns=self.now_ns, end=end, keep=self._keep)
        self.roster()

    def _due(self, before_ns: float) -> list[Batch]:
        """Requests that come back before a time, taken out of those that wait for it."""
        due = [b for b in self._waiting if b.arrival_ns[0] < before_ns]
        self._waiting = [b for b in self._waiting if b.arrival_ns[0] >= before_ns]
        return due

    def _route(self, batches: Sequence[Batch]) -> None:
        batches = [b for b in batches if b.number.size]
        if not batches:
            return
        batch = joined(batches)
        self._desk.scalars[ROW] = 0
        self._call("dispatch", self._desk, batch, LAST)
        for how, code in (("shed", SHED), ("held", HELD)):
            rows = np.flatnonzero(batch.placed == code)
            if rows.size and how == "shed":
                self.books.turn_away("shed", _named(pick(batch, rows)))
            elif rows.size:
                self._held.append(pick(batch, rows))

    def _settle(self, numbers: Ints, until_ns: int) -> None:
        if numbers.size:
            self._call("settle", self._desk._replace(live=numbers, n_live=np.array([numbers.size])), until_ns)

    def _call(self, name: str, desk: Desk, *rest: Any) -> None:
        """Call the dispatcher until it is through, and attend to whoever holds it up."""
        while True:
            if self._stepwise:
                through = getattr(dispatch, name)([m.seat for m in self.members], desk, *rest)
            else:
                self._compiled = self._compiled or compiled_dispatcher(self.members[0].seat)
                through = getattr(self._compiled, name)(self._handles.words, desk, *rest)
            if through:
                return
            member = self.members[int(desk.scalars[WHO])]
            if member.attend(self.books.take, why=int(desk.scalars[WHY]), keep=self._keep):
                self._handles.write(member.number, member.seat)


def _named(batch: Batch) -> dict[str, Ints]:
    """A batch's columns as the ledger names them."""
    return {
        "request": batch.number,
        "kind": batch.kind,
        "attempts": batch.attempt,
        "arrival_ns": batch.born_ns,
        "routed_ns": batch.arrival_ns,
        "prompt_tokens": batch.prompt_tokens,
        "output_tokens": batch.output_tokens,
        "cached_tokens": np.zeros_like(batch.number),
        "preemptions": np.zeros_like(batch.number),
    }
