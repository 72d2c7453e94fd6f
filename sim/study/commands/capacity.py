"""`capacity`: how much one strategy carries, and the GPUs that a demand needs."""

import argparse
from collections.abc import Mapping
from typing import Any

from sim.run.metrics import Slo
from sim.study.assess import figures
from sim.study.capacity import Capacity, capacity_of, replicas_for
from sim.study.engines import caveat
from sim.study.floor import cell, check_floor
from sim.study.intervals import columns, scaled
from sim.study.numerals import percent
from sim.study.options import Parser, add_deployment, add_json, add_scheduler, add_search, add_slo
from sim.study.pictures import label
from sim.study.rows import quality_cells
from sim.study.run_report import sources_line, with_ends
from sim.study.service import Service
from sim.study.settings import rated_load_of, seeds_of, service_of, slo_of
from sim.study.terminal import console, figure, progress, say_json, show_table

EXAMPLE = """\
example:
  python -m sim capacity --strategy swift_kv --slo-ttft-ms 500 --slo-tpot-ms 25 --demand-qps 200
"""
LIMITS = {"slo": "the SLO", "queue": "requests that pile up"}


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
    replicas_for(args.demand_qps, 1.0)
    floor = check_floor(args.quality_floor)
    service, slo, seeds = service_of(args, rated_load_of(args)), slo_of(args), seeds_of(args)
    with progress(quiet=args.json) as bar:
        tell = (lambda what: bar(what, 0, None)) if bar else None
        found = capacity_of(service, slo, seeds=seeds, tolerance=args.tolerance, draws=args.draws, tell=tell)
        at = figures(service.at(found.brackets[0].low, seeds[0]))
    answer = answer_of(service, slo, found, args.demand_qps)
    answer |= {"quality_floor": floor, **quality_cells(service.plan, service.deployment.model.name, floor)}
    answer["brackets"] = [{"seed": s, "works": b.low, "fails": b.high} for s, b in zip(seeds, found.brackets)]
    answer |= {"evaluations": found.evaluations, "at_capacity": at}
    if args.json:
        say_json(answer)
    else:
        show(service, slo, answer, at)
    return 0


def answer_of(service: Service, slo: Slo, found: Capacity, demand_qps: float) -> dict[str, Any]:
    """What was asked, the capacity and the GPUs."""
    on, plan = service.deployment, service.plan
    rates = {"gpus": found.qps, "gpus_low": found.high, "gpus_high": found.low}
    gpus = {name: on.tp * replicas_for(demand_qps, qps) if qps > 0 else None for name, qps in rates.items()}
    per_gpu = scaled(found.interval, 1 / on.tp)
    return {
        "model": on.model.name,
        "gpu": on.gpu.name,
        "tp": on.tp,
        "engine": service.engine.name if service.engine else None,
        "strategy": plan.name,
        "plan_digest": plan.digest,
        "workload": service.load.name,
        "slo": {"ttft_ms": slo.ttft_ms, "tpot_ms": slo.tpot_ms, "percentile": slo.percentile},
        "max_qps": found.qps,
        **columns("max_qps", found.interval),
        "max_qps_per_gpu": per_gpu.value,
        **columns("max_qps_per_gpu", per_gpu),
        "overstated_by": found.flattery,
        "limited_by": found.limited_by,
        "demand_qps": demand_qps,
        **gpus,
        "warnings": [note for note in (found.note, caveat(service.engine, on.gpu.name)) if note],
    }


def show(service: Service, slo: Slo, answer: Mapping[str, Any], at: Mapping[str, float]) -> None:
    """The answer as a table."""
    on = service.deployment
    rows = [
        ("requests per second per GPU", with_ends(answer, "max_qps_per_gpu")),
        ("what makes the interval", sources_line(answer, "max_qps")),
        ("what ends it", LIMITS[answer["limited_by"]]),
        (f"GPUs for {answer['demand_qps']:g} requests per second", with_ends(answer, "gpus")),
        ("share of the dense model's quality", cell(answer["quality"], answer["quality_how"], answer["quality_floor"])),
        ("output tokens per second per GPU", figure(at["output_tokens_per_s"] / on.tp)),
        ("KV memory in use, at most", percent(at["kv_peak_share"])),
        ("priced outside the measured domain", percent(at["extrapolated_share"])),
    ]
    asked = f"{slo.percentile:g} % within TTFT {slo.ttft_ms:g} ms and TPOT {slo.tpot_ms:g} ms"
    title = f"{on.model.name} on {on.tp} x {on.gpu.name}, {label(service.plan.name)}, {service.load.name}; {asked}"
    out = console()
    show_table(out, title, ("with 90 % intervals", ""), rows)
    out.print(f"[bold]{needs(answer)}[/bold]", soft_wrap=True)
    for warning in answer["warnings"]:
        out.print(f"[yellow]note:[/yellow] {warning}", soft_wrap=True)


def needs(answer: Mapping[str, Any]) -> str:
    """The GPUs in a sentence."""
    gpus, low, high = (answer[name] for name in ("gpus", "gpus_low", "gpus_high"))
    ends = f"{low} or more" if high is None else f"{low}–{high}" if low != high else f"{low}"
    return f"{answer['demand_qps']:g} requests per second need {gpus} GPUs, {ends} at 90 %"
