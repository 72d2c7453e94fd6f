"""`python -m calibration measure`: time every kind of kernel of the engine, and whole steps, on this machine."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from calibration.grid import Limits, items_of, plans_of
from calibration.items import BURSTS, Burst, Item
from calibration.measure_buffers import PAGE, Buffers
from calibration.measure_launch import launched, replayed
from calibration.measure_ops import KERNELS
from calibration.measure_rows import Rows
from calibration.measure_steps import Steps
from calibration.provenance import clocks_as_found, provenance
from calibration.setting import model_facts
from calibration.timing import timer_for
from engine.config import ModelConfig, config_of, read_config
from engine.loading import device_named, dtype_named
from sim.errors import InputError, PlanError, UnknownName
from sim.plans.catalogue import model_named
from sim.plans.model import ModelShape
from sim.study.options import Parser

PACKAGES = ("torch", "triton", "numpy", "transformers")
CLOCKS_S = 10.0  # seconds between looks at the clocks
HOPELESS = 5  # failures in a row after which a device is taken for lost
SMALL = Limits(64, 8, 256, 1e8, (1, 2, 8), 1 << 24, 256)  # for a CPU
KINDS = (*KERNELS, "launch", "replay", "step")


@dataclass(frozen=True)
class Request:
    """What is measured, on what, into which folder."""

    model: str
    out: Path
    device: str = "auto"
    budget_s: float = 480.0
    resume: bool = False
    only: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    repeats: int = 3
    bursts: str = "steps"

    def __post_init__(self) -> None:
        if not self.budget_s > 0:
            raise InputError(f"--budget-s {self.budget_s}: must be positive")
        if self.repeats < 1:
            raise InputError(f"--repeats {self.repeats}: must be at least 1")
        if self.bursts not in BURSTS:
            raise UnknownName("set of bursts", self.bursts, BURSTS)
        for name in self.only:
            if name not in KINDS:
                raise UnknownName("kind of measurement", name, KINDS)


@dataclass(frozen=True)
class Outcome:
    """How far it came."""

    measured: int
    left: int
    failed: tuple[str, ...]


def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    command = commands.add_parser("measure", help="time every kind of kernel of the engine on this machine")
    command.add_argument("--model", required=True, metavar="NAME", help="catalogue name or folder with a config.json")
    command.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="rows.jsonl is written there")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")
    command.add_argument("--budget-s", type=float, default=480.0, metavar="S", help="stop after so many seconds (480)")
    command.add_argument("--resume", action="store_true", help="go on with what the folder lacks")
    command.add_argument("--only", nargs="*", default=(), metavar="KIND", help=", ".join(KINDS))
    command.add_argument("--plans", nargs="*", default=(), metavar="SPEC", help="default: every paper's settings")
    command.add_argument("--repeats", type=int, default=3, metavar="N", help="of each burst of requests (3)")
    command.add_argument("--bursts", default="steps", metavar="SET", help=f"of requests: {', '.join(BURSTS)} (steps)")
    command.set_defaults(run=_measure)


def _measure(args: argparse.Namespace) -> int:
    names = [one.name for one in fields(Request)]
    given: dict[str, Any] = {name: getattr(args, name) for name in names}
    request = Request(**given | {name: tuple(given[name]) for name in ("only", "plans")})

    def tell(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    done = measure(request, tell=tell)
    tell(f"{request.out}: {done.measured} items measured, {done.left} left for --resume")
    for line in done.failed:
        tell(f"could not be measured: {line}")
    return 1 if done.failed else 0


def measure(request: Request, *, tell: Callable[[str], None] = lambda _: None) -> Outcome:
    """Measure until all is done or the budget is spent. Raises InputError for what cannot be measured here.

    What a kernel throws is a finding: it is recorded, and the others are measured, unless all fail from there on. What
    failed before is tried once more, after all the rest: it may have been the device, and it may bring it down.
    """
    session = Session.of(request)
    rows = Rows(request.out, session.head, resume=request.resume)
    items = sorted((one for one in session.items() if one.key not in rows.done), key=lambda one: one.key in rows.failed)
    began = told = looked = monotonic()
    clocks, failed, streak, count = clocks_as_found(), [], 0, 0
    for one in items:
        now = monotonic()
        if now - began > request.budget_s or streak >= HOPELESS:
            break
        if now - looked > CLOCKS_S:
            clocks, looked = clocks_as_found(), now
        if now - told > CLOCKS_S:
            told = now
            tell(f"{count} of {len(items)} items, {now - began:.0f} s: {one.key}")
        try:
            found, streak = [{**row, **clocks} for row in session.rows(one)], 0
        except (InputError, PlanError):
            raise
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            failed.append(f"{one.key}: {why}")
            found, streak = [{"op": one.op, **dict(one.sizes), "error": why}], streak + 1
        rows.add(one.key, found)
        count += 1
    session.steps.drop()
    return Outcome(count, len(items) - count, tuple(failed))


@dataclass
class Session:
    """A model on a device, ready to be measured."""

    request: Request
    config: ModelConfig
    device: torch.device
    limits: Limits
    bursts: Sequence[Burst]
    buffers: Buffers
    steps: Steps

    @classmethod
    def of(cls, request: Request) -> "Session":
        """Raises InputError and UnknownName."""
        device = device_named(request.device)
        shape = model_named(request.model)
        folder = Path(request.model).expanduser()
        config = read_config(folder) if folder.is_dir() else config_of(shape)
        cuda = device.type == "cuda"
        if not cuda:
            torch.set_num_threads(1)  # the engine's own work is one thread, and a second one waits for it
        limits = Limits(context=min(Limits.context, shape.max_context)) if cuda else SMALL
        bursts = [b for b in BURSTS[request.bursts][device.type] if b.longest <= limits.context]
        model: str | ModelShape = str(folder) if config.folder else shape
        steps = Steps(model, device.type, budget=limits.rows, bursts=bursts, repeats=request.repeats)
        cache = torch.cuda.get_device_properties(device).L2_cache_size if cuda else 0
        dtype = dtype_named("auto", device)
        buffers = Buffers(config, device=device, dtype=dtype, cache_bytes=cache)
        return cls(request, config, device, limits, bursts, buffers, steps)

    @property
    def head(self) -> dict[str, Any]:
        """What stands in every row: where and when, versions, machine, the model's shape and how far the grid goes."""
        about = provenance(PACKAGES)
        found = {name: about.pop(name) for name in ("device", "date", "commit")} | about
        found |= model_facts(self.config.shape) | {"page_tokens": PAGE}
        found["dtype"] = str(self.buffers.dtype).removeprefix("torch.")
        found |= {f"limit_{name}": getattr(self.limits, name) for name in ("rows", "sequences", "context", "kv_bytes")}
        found["processors"] = 1
        if self.device.type == "cuda":
            card = torch.cuda.get_device_properties(self.device)
            found |= {"processors": card.multi_processor_count, "l2_bytes": card.L2_cache_size}
        return found

    def items(self) -> Iterator[Item]:
        """What is asked for, most valuable first."""
        plans = self.request.plans or plans_of(self.config.shape)
        cuda = self.device.type == "cuda"
        for one in items_of(self.config.shape, self.limits, plans=plans, bursts=self.bursts, graphs=cuda):
            if not self.request.only or one.op in self.request.only:
                yield one

    def rows(self, one: Item) -> list[dict[str, Any]]:
        """The item, measured. Raises BrokenKernel, and what torch raises where memory is short."""
        if one.op == "step":
            self.buffers.drop()  # an engine needs the room
            return self.steps.rows(one)
        self.steps.drop()
        sizes = {"op": one.op, **dict(one.sizes)}
        if one.op == "launch":
            return [sizes | vars(launched(one, self.device))]
        if one.op == "replay":
            on_device, on_host = replayed(one, self.device)
            return [sizes | vars(on_device) | {"host_ns": on_host.p50_ns}]
        work = KERNELS[one.op](self.buffers, one)
        spread = timer_for(self.device)(work.op)
        return [sizes | vars(spread) | {"bytes_moved": work.bytes_moved, "flops": work.flops}]
