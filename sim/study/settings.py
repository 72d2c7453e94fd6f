"""From options to what they mean; options that contradict each other are refused here."""

import argparse
from typing import Any, cast

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.profiles import EngineProfile, profile_named
from sim.cost.times import Source
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.run.simulate import Oversized
from sim.serving.config import SchedulerConfig
from sim.study.capacity import MOST_SEEDS
from sim.study.engines import IN_NS, scheduler_under, stated
from sim.study.loads import LengthLoad, Load, NamedLoad, TraceLoad
from sim.study.options import FRONTEND, HOST
from sim.study.service import Service, kernel_times
from sim.workload.arrivals import Offline, arrivals_named
from sim.workload.lengths import quantiles_named
from sim.workload.traces import read_trace
from sim.workload.workload import Workload

DEFAULT_WORKLOAD = "azure-conv"
DEFAULT_QPS = 10.0
SCHEDULER = (
    "policy",
    "max_num_seqs",
    "max_num_batched_tokens",
    "long_prefill_token_threshold",
    "block_tokens",
    "prefix_caching",
)


def engine_of(args: argparse.Namespace) -> EngineProfile:
    """The engine that the options describe: a profile, with what is given stated."""
    given: dict[str, Any] = {name: getattr(args, f"host_{name}") for name in HOST}
    given |= {name: getattr(args, f"frontend_{name}") for name in FRONTEND}
    given = {name: value for name, value in given.items() if value is not None}
    switches = {name: value for name, value in given.items() if name not in IN_NS}
    if args.host_overlap is not None:
        switches["overlap"] = args.host_overlap
    if args.host_eager_prompts is not None:
        switches["graph_prompts"] = not args.host_eager_prompts
    in_ns = {name: value for name, value in given.items() if name in IN_NS}
    return stated(profile_named(args.engine), _bare(args), in_ns, switches)


def deployment_of(args: argparse.Namespace) -> Deployment:
    """The deployment that the options describe, on its engine."""
    return engine_of(args).on(_bare(args))


def _bare(args: argparse.Namespace) -> Deployment:
    """The deployment without an engine."""
    return Deployment(
        model=model_named(args.model),
        gpu=gpu_named(args.gpu),
        tp=args.tp,
        weights=args.weights,
        kv=args.kv,
        memory_utilization=args.memory_utilization,
        kv_blocks=args.num_gpu_blocks,
    )


def scheduler_of(args: argparse.Namespace) -> SchedulerConfig:
    """The scheduler that the options describe."""
    given = {name: getattr(args, name) for name in SCHEDULER if getattr(args, name) is not None}
    return scheduler_under(profile_named(args.engine), gpu_named(args.gpu), given)


def service_of(args: argparse.Namespace, load: Load) -> Service:
    """The service that the options describe, under `--strategy`."""
    on = deployment_of(args)
    return Service(
        load,
        on,
        strategy_named(args.strategy, on.model),
        scheduler_of(args),
        source_of(args, on),
        args.max_context,
        oversized_of(args),
        engine_of(args),
    )


def slo_of(args: argparse.Namespace) -> Slo:
    """The SLO that the options describe."""
    return Slo(args.slo_ttft_ms, args.slo_tpot_ms, args.slo_percentile)


def oversized_of(args: argparse.Namespace) -> Oversized:
    """What to do with requests that never fit."""
    if args.oversized not in ("error", "refuse"):
        raise InputError(f"--oversized {args.oversized}: say error or refuse")
    return cast(Oversized, args.oversized)


def source_of(args: argparse.Namespace, on: Deployment) -> Source:
    """Which kernel times; raises UnknownName for no such source, UncalibratedOp where there are none for the GPU."""
    source = cast(Source, args.source)
    kernel_times(on.gpu.name, source)
    return source


def load_of(args: argparse.Namespace) -> Load:
    """The load that the options describe; raises InputError for options that contradict each other."""
    given = [name for name in ("trace", "workload", "prompt_tokens") if getattr(args, name) is not None]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1].replace('_', '-')} both say what is asked; give one")
    if (args.prompt_tokens is None) != (args.output_tokens is None):
        raise InputError("--prompt-tokens and --output-tokens come together")
    if args.trace is None and (args.limit is not None or args.sort):
        raise InputError("--limit and --sort are about a --trace; give one")
    if args.arrivals is not None:
        arrivals_named(args.arrivals, 1.0)
    if args.trace is not None:
        return _trace_load(args)
    process = args.arrivals or "poisson"
    if args.prompt_tokens is not None:
        return LengthLoad(args.prompt_tokens, args.output_tokens, args.requests, args.range_ratio, process)
    quantiles_named(args.workload or DEFAULT_WORKLOAD)
    return NamedLoad(args.workload or DEFAULT_WORKLOAD, args.requests, process)


def rated_load_of(args: argparse.Namespace) -> Load:
    """The load of a search for a rate; raises InputError for one that has no rate."""
    load = load_of(args)
    if args.arrivals is not None and args.arrivals.startswith("offline"):
        raise InputError(
            "--arrivals offline has no rate to search for; use poisson, gamma:cv=X, bursty:peak=X, constant"
        )
    return load


def _trace_load(args: argparse.Namespace) -> TraceLoad:
    """A trace; one that holds lengths only gets its arrivals drawn, Poisson where nothing else is said."""
    trace = read_trace(args.trace, sort=args.sort, arrivals=Offline(), tokens_per_char=args.tokens_per_char)
    timeless = not trace.arrival_ns.any() and len(trace) > 1
    taken = trace.take(args.limit) if args.limit is not None else trace
    return TraceLoad(taken, args.arrivals or ("poisson" if timeless else None))


def workload_of(args: argparse.Namespace, load: Load) -> Workload:
    """The requests with their arrivals: a closed loop, a given rate, or the trace as it was recorded."""
    seed = seed_of(args)
    if args.concurrency is not None:
        if args.qps is not None or args.arrivals is not None:
            raise InputError("--concurrency is a closed loop; it goes with neither --qps nor --arrivals")
        return load.in_loop(args.concurrency, 0 if isinstance(load, TraceLoad) else seed)
    if args.arrivals is not None and args.arrivals.startswith("offline"):
        return load.together(0 if isinstance(load, TraceLoad) else seed)
    if isinstance(load, TraceLoad):
        if load.arrivals is None:
            return load.trace if args.qps is None else load.trace.scaled_to(args.qps)
        if args.qps is None:
            raise InputError(f"{args.trace}: arrivals are drawn, and need a rate; give --qps, or --concurrency")
        return load.draw(arrivals_named(load.arrivals, args.qps), seed)
    return load.at(DEFAULT_QPS if args.qps is None else args.qps, seed)


def seed_of(args: argparse.Namespace) -> int:
    """The seed; raises InputError for a negative one."""
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: must not be negative")
    return int(args.seed)


def seeds_of(args: argparse.Namespace) -> tuple[int, ...]:
    """The seeds of a search."""
    first = seed_of(args)
    if not 1 <= args.seeds <= MOST_SEEDS:
        raise InputError(f"--seeds {args.seeds}: must be 1 to {MOST_SEEDS}")
    return tuple(range(first, first + args.seeds))
