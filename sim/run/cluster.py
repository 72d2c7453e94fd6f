"""A fleet: groups of replicas behind a router, classes of requests, and whoever launches, drains or fails replicas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol

import numpy as np

from sim.cost.deployment import Deployment
from sim.cost.times import KernelTimes
from sim.errors import InputError, UnknownName
from sim.plans.plan import SkipPlan
from sim.run.crew import Crew, Event, Tiers
from sim.run.dispatch import NO_LIMIT, ROUTERS, Batch
from sim.run.fleet_result import FleetResult
from sim.run.ledger import Books, Ledger
from sim.run.metrics import Slo
from sim.run.seat import TAKEN, Mold
from sim.run.simulate import Oversized, Simulation
from sim.run.traffic import batch_of
from sim.serving.columns import asked_of
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload

EXACT_BELOW = 1_000_000  # requests; from there on metrics are sketched


@dataclass(frozen=True)
class Group:
    """Replicas of one kind: what they run on, the plan they run, how they schedule, how many there are at the start."""

    name: str
    deployment: Deployment
    plan: SkipPlan
    replicas: int
    config: SchedulerConfig = field(default_factory=SchedulerConfig)
    times: KernelTimes | None = None
    max_context: int | None = None

    def __post_init__(self) -> None:
        if self.replicas < 0:
            raise InputError(f"group {self.name!r}: {self.replicas} replicas; it cannot have fewer than none")


@dataclass(frozen=True)
class Tier:
    """Groups that a class may go to; the replica chosen among them takes no request that would find `limit` others."""

    groups: Sequence[str] = ()  # none named: all
    limit: int | None = None


@dataclass(frozen=True)
class RequestClass:
    """A kind of client: its share of the requests, its SLO, and the groups it goes to.

    Tiers are tried in order: the router chooses in the first; where its choice is at the limit, in the next (spilling
    over to replicas that skip, say); past the last one the request is shed.
    """

    name: str = "all"
    share: float = 1.0
    slo: Slo = field(default_factory=Slo)
    tiers: Sequence[Tier] = (Tier(),)


class Control(Protocol):
    """Somebody who changes the fleet: a SimPy process over the crew's methods."""

    def run(self, crew: Crew) -> Event:
        """Decide, wait, decide again; must end soon after `crew.more` is false."""
        ...


@dataclass(frozen=True)
class Fleet:
    """What serves, for whom, by which rules."""

    groups: Sequence[Group]
    classes: Sequence[RequestClass] = (RequestClass(),)
    router: str = "round_robin"
    kv_weight: float = 1.0  # of the router `kv`: a block to prefill against a block in memory
    controls: Sequence[Control] = ()
    oversized: Oversized = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.router not in ROUTERS:
            raise UnknownName("router", self.router, ROUTERS)
        if not self.kv_weight >= 0:
            raise InputError(f"kv_weight={self.kv_weight}: must not be negative")
        if sum(group.replicas for group in self.groups) < 1:
            raise InputError("a fleet needs at least one replica")
        _check_names("group", [group.name for group in self.groups])
        _check_names("class", [kind.name for kind in self.classes])
        known = [group.name for group in self.groups]
        for kind in self.classes:
            for name in (name for tier in kind.tiers for name in tier.groups):
                if name not in known:
                    raise UnknownName(f"group of class {kind.name!r}:", name, known)

    def run(
        self, work: Workload, *, exact: bool | None = None, keep: bool = False, stepwise: bool = False
    ) -> FleetResult:
        """What happened to a workload. `exact` keeps every request (default: below a million); `keep` every iteration.

        `stepwise` runs the interpreted twin: the same, bit for bit. Raises InputError for a closed loop, and where a
        request can never run and `oversized` is "error".
        """
        batch = batch_of(work, [kind.share for kind in self.classes], self.seed)
        exact = len(work) < EXACT_BELOW if exact is None else exact
        return self.serve([batch], like=work, exact=exact, keep=keep, stepwise=stepwise)

    def serve(
        self,
        chunks: Iterable[Batch],
        *,
        like: Workload,
        exact: bool = False,
        books: Books | None = None,
        keep: bool = False,
        stepwise: bool = False,
    ) -> FleetResult:
        """The same for traffic in batches, each later than the one before; `like` tells its name and prefix hashes.

        Other `books` than the fleet's own ledger hear of the requests where somebody else counts them.
        """
        if like.concurrency:
            raise InputError("a fleet takes open traffic; a closed loop (--concurrency) is for a single replica")
        started = perf_counter()
        names = [group.name for group in self.groups]
        molds = self._molds(like, keep=keep)
        slos = [kind.slo for kind in self.classes]
        ledger = Ledger([kind.name for kind in self.classes], names, slos, exact=exact)
        crew = Crew(
            molds,
            [self._tiers(kind) for kind in self.classes],
            books or ledger,
            router=self.router,
            kv_weight=self.kv_weight,
            seed=self.seed,
            keep=keep,
            stepwise=stepwise,
        )
        for slot, group in enumerate(np.repeat(np.arange(len(names)), [g.replicas for g in self.groups]).tolist()):
            crew.launch(group, slot)
        for control in self.controls:
            crew.env.process(control.run(crew))
        crew.env.process(crew.work(self._checked(chunks, molds)))
        crew.env.run()
        crew.finish()
        lives = [
            member.row(group.name, group.plan.name, group.deployment.tp)
            for member in crew.members
            for group in (self.groups[member.group],)
        ]
        results = [member.result(like.name) for member in crew.members if member.seat.totals[TAKEN]] if keep else []
        return FleetResult(like.name, self.router, ledger, lives, results, perf_counter() - started)

    def _molds(self, like: Workload, *, keep: bool) -> list[Mold]:
        entries = len(np.unique(like.hash_ids)) if like.hash_ids is not None else 0
        simulations = (
            Simulation(
                like.take(1),
                group.deployment,
                group.plan,
                group.config,
                times=group.times,
                max_context=group.max_context,
                oversized=self.oversized,
                seed=self.seed,
            )
            for group in self.groups
        )
        return [Mold(simulation, entries=entries, keep_log=keep) for simulation in simulations]

    def _tiers(self, kind: RequestClass) -> Tiers:
        index = {group.name: i for i, group in enumerate(self.groups)}
        return [
            (
                frozenset(index[name] for name in tier.groups or index),
                NO_LIMIT if tier.limit is None else tier.limit,
            )
            for tier in kind.tiers
        ]

    def _checked(self, chunks: Iterable[Batch], molds: Sequence[Mold]) -> Iterable[Batch]:
        """The batches, once none of their requests is found too long for a replica."""
        for batch in chunks:
            asked = asked_of(batch.arrival_ns, batch.prompt_tokens, batch.output_tokens)
            for mold in molds:
                mold.simulation._refuse_oversized(asked, mold.template.knobs)
            yield batch


def _check_names(what: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{what} {twice[0]!r} is there twice; give each a name of its own")
