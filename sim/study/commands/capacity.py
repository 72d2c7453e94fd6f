"""`capacity`: how much one strategy carries, and the GPUs that a demand needs."""

import argparse

from sim.plans.spec import strategy_named
from sim.study.assess import figures
from sim.study.capacity import capacity_of, replicas_for
from sim.study.options import Parser, add_deployment, add_json, add_scheduler, add_search, add_slo
from sim.study.pictures import label
from sim.study.service import Service
from sim.study.settings import deployment_of, load_of, oversized_of, scheduler_of, seeds_of, slo_of, source_of
from sim.study.terminal import between, console, figure, progress, say_json, show_table

EXAMPLE = """\
example:
  python -m sim capacity --strategy swift_kv --slo-ttft-ms 500 --slo-tpot-ms 25 --demand-qps 200
"""


def add(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command."""
    parser = commands.add_parser("capacity", help="largest rate of one strategy under an SLO", epilog=EXAMPLE)
    parser.add_argument("--strategy", default="dense", metavar="SPEC", help="name:key=value,…; join several with +")
    add_search(parser)
    add_deployment(parser)
    add_scheduler(parser)
    add_slo(parser)
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search, and say what was found."""
    on, slo, load = deployment_of(args), slo_of(args), load_of(args)
    replicas_for(args.demand_qps, 1.0)
    plan = strategy_named(args.strategy, on.model)
    service = Service(load, on, plan, scheduler_of(args), source_of(args), args.max_context, oversized_of(args))
    seeds = seeds_of(args)
    with progress(quiet=args.json) as bar:

        def tell(seed: int, qps: float, good: bool) -> None:  # noqa: FBT001
            if bar:
                bar(f"{qps:.3g} requests/s {'hold' if good else 'do not hold'}", seeds.index(seed), len(seeds))

        found = capacity_of(service, slo, seeds=seeds, tolerance=args.tolerance, tell=tell)
        at = figures(service.at(found.brackets[0].low, seeds[0]))
    replicas = [replicas_for(args.demand_qps, qps) if qps > 0 else None for qps in (found.qps, found.high, found.low)]
    gpus = [None if n is None else on.tp * n for n in replicas]
    answer: dict[str, object] = {
        "model": on.model.name,
        "gpu": on.gpu.name,
        "tp": on.tp,
        "strategy": plan.name,
        "plan_digest": plan.digest,
        "workload": load.name,
        "slo": {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "percentile": slo.percentile},
        "max_qps": found.qps,
        "max_qps_low": found.low,
        "max_qps_high": found.high,
        "max_qps_per_gpu": found.qps / on.tp,
        "demand_qps": args.demand_qps,
        "gpus": gpus[0],
        "gpus_low": gpus[1],
        "gpus_high": gpus[2],
        "brackets": [{"seed": s, "works": b.low, "fails": b.high} for s, b in zip(seeds, found.brackets)],
        "evaluations": found.evaluations,
        "at_capacity": at,
    }
    if args.json:
        say_json(answer)
        return 0
    rows = [
        ("requests per second per replica", figure(found.qps) + between(found.low, found.high)),
        (f"GPUs for {args.demand_qps:g} requests per second", figure(gpus[0]) + between(gpus[1], gpus[2])),
        ("output tokens per second per GPU", figure(at["output_tokens_per_s"] / on.tp)),
        ("KV memory in use, at most", f"{at['kv_peak_share']:.0%}"),
        ("price outside the measured domain", f"{at['extrapolated_share']:.0%}"),
    ]
    asked = f"{slo.percentile:g} % within TTFT {slo.ttft_ms:g} ms and TPOT {slo.tpot_ms:g} ms"
    title = f"{on.model.name} on {on.tp} x {on.gpu.name}, {label(plan.name)}, {load.name}; {asked}"
    show_table(console(), title, ("with 90 % intervals", ""), rows)
    return 0
