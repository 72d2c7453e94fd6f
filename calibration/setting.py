"""How an engine ran: what decides which tokens go into which step, for its twin in the simulator to repeat."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from sim.errors import InputError
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.plans.spec import strategy_named
from sim.serving.config import SchedulerConfig

BLOCK = 16
MODEL = "model_"  # of a row's fields that describe the model


@dataclass(frozen=True)
class Setting:
    """Plan, scheduler and memory of an engine."""

    plan: str
    policy: str
    slots: int
    budget: int  # most tokens of a step
    max_context: int
    kv_blocks: int  # of all the plan's caches, at least
    block_tokens: int = BLOCK
    gate_skip: Sequence[float] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Setting":
        """The setting of a measured row. Raises InputError for one that lacks something."""
        try:
            return cls(**{one.name: row[one.name] for one in fields(cls) if one.name in row})
        except TypeError as cause:
            raise InputError(f"row {row.get('key')!r} does not say how the engine ran: {cause}") from cause

    @property
    def scheduler(self) -> SchedulerConfig:
        """The scheduler's configuration."""
        return SchedulerConfig(
            policy=self.policy,  # type: ignore[arg-type]
            max_num_seqs=self.slots,
            max_num_batched_tokens=max(self.budget, self.slots),
            block_tokens=self.block_tokens,
        )

    def plan_for(self, shape: ModelShape) -> SkipPlan:
        """The plan, its gate with the rates that were measured on the model itself."""
        plan = strategy_named(self.plan, shape)
        if plan.gate is None or self.gate_skip is None:
            return plan
        return replace(plan, gate=replace(plan.gate, skip=np.array(self.gate_skip), source="measured"))


def blocks_for(tokens: Iterable[int], slots: int) -> int:
    """Blocks that hold the longest requests, as many as there are slots: nobody is preempted."""
    longest = sorted(tokens, reverse=True)[:slots]
    return sum(-(-n // BLOCK) + 1 for n in longest)


def shape_of(row: Mapping[str, Any]) -> ModelShape:
    """The model that a row was measured on. Raises InputError for a row that does not describe it."""
    names = [one.name for one in fields(ModelShape) if one.name not in ("name", "source")]
    missing = [name for name in names if MODEL + name not in row]
    if missing:
        raise InputError(f"row {row.get('key')!r} does not describe its model: {MODEL}{missing[0]} is missing")
    return ModelShape(name=str(row["model"]), **{name: row[MODEL + name] for name in names})


def model_facts(shape: ModelShape) -> dict[str, Any]:
    """The fields of a row that describe the model."""
    names = [one.name for one in fields(ModelShape) if one.name not in ("name", "source")]
    return {"model": shape.name} | {MODEL + name: getattr(shape, name) for name in names}
