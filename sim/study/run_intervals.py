"""Every figure of one run with its 90 % interval: what kernels, engine and traffic may make of it.

Draws replay the run's own requests, so that they differ from it in nothing but the draw. How far servers scatter is
known of latencies; a rate moves as far as it does on a server that is slower by one standard deviation, which is not
at all where the load is below the capacity.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sim.run.metrics import QUANTILES, Slo
from sim.run.replica import L_NS
from sim.run.result import Result
from sim.run.uncertainty import Interval
from sim.serving.columns import DONE
from sim.study.chance import FEWEST, LATENCIES, STATISTICS, Figures, sampling_sd, served
from sim.study.intervals import SERVER, Varied, combined, level, rms, scatter_of
from sim.study.prices import dollars_per_million, kwh_per_million, price_of
from sim.study.service import Service

MOST = 20_000  # requests that draws replay
BOUNDED = ("slo_met_share", "goodput_per_s")  # may well be zero
Tell = Callable[[int, int], None]


def run_intervals(
    service: Service,
    result: Result,
    slo: Slo,
    drawn: Varied,
    *,
    seed: int = 0,
    most: int = MOST,
    tell: Tell | None = None,
) -> dict[str, Interval]:
    """The figures of a run by name (ttft_p50_ms, …, output_tokens_per_s, …), those that exist; empty for few requests.

    `drawn` is the service `varied`; `most` are the requests that draws replay; `tell` hears of (runs done, runs).
    """
    workload = result.workload
    if len(workload) < FEWEST:
        return {}
    figures, chance = figures_of(result, slo), sampling_sd(result, slo)
    short = workload.take(most) if most < len(workload) else workload
    centre = figures if short is workload else figures_of(service.run(short, seed=seed), slo)
    runs = [(source, one) for source, services in drawn.items() for one in services]
    moved: dict[str, list[Figures]] = {source: [] for source in drawn}
    for number, (source, one) in enumerate(runs, 1):
        moved[source].append(figures_of(one.run(short, seed=seed), slo))
        if tell:
            tell(number, len(runs))
    gpu = service.deployment.gpu.name
    return {
        name: interval_of(
            name,
            value,
            centre=centre.get(name, math.nan),
            moved={source: [one.get(name, math.nan) for one in drawn] for source, drawn in moved.items()},
            chance=chance.get(name, 0.0),
            residual=scatter_of(service).residual(name, gpu),
        )
        for name, value in figures.items()
    }


def interval_of(
    name: str, value: float, *, centre: float, moved: Mapping[str, Sequence[float]], chance: float, residual: float
) -> Interval:
    """One figure's interval; a share or a rate that may be zero on its own scale, all else on a logarithmic one.

    `moved` are the figure's values by source of doubt, where it is `centre` without; `chance` is what that of the
    traffic does to it, `residual` how far servers scatter in it if it is a latency; both are standard deviations.
    """
    bounded = name in BOUNDED

    def sd(source: str) -> float:
        if bounded:
            return rms([one - centre for one in moved[source] if math.isfinite(one - centre)])
        return rms([math.log(one / centre) for one in moved[source] if one > 0 and centre > 0])

    scatter = residual if moved[SERVER] and name.endswith("_ms") else sd(SERVER)
    # both the traffic that was simulated and the one that will come are draws of their kind
    by_source = {"kernels": sd("kernels"), "parameters": math.hypot(sd("parameters"), scatter)}
    by_source["sampling"] = math.sqrt(2) * chance
    if bounded:
        return level(value, by_source, most=1.0 if name == "slo_met_share" else math.inf)
    return combined(value, by_source)


def figures_of(result: Result, slo: Slo) -> Figures:
    """The run's figures that are numbers: percentiles and means of the latencies, rates, costs."""
    found: Figures = {}
    for name in LATENCIES:
        values = served(result, name)
        if values.size:
            figures = (*np.percentile(values, QUANTILES), values.mean())
            found |= {f"{name}_{q}_ms": float(v) for q, v in zip(STATISTICS, figures)}
    found |= {f"itl_{q}_ms": v for q, v in result.itl().items() if math.isfinite(v)}
    span, done = result.makespan_s, result.state.status == DONE
    if not (span > 0 and done.any()):
        return found
    output, prompt = (float(tokens[done].sum()) for tokens in (result.asked.output_tokens, result.asked.prompt_tokens))
    found["requests_per_s"] = float(done.sum()) / span
    found["output_tokens_per_s"] = output / span
    found["total_tokens_per_s"] = (output + prompt) / span
    found["goodput_per_s"], found["slo_met_share"] = result.goodput(slo)
    on, busy = result.deployment, float(result.logged.lines[:, L_NS].sum()) / 1e9 / span
    found["dollars_per_million_output_tokens"] = dollars_per_million(on, output / span, price_of(on.gpu.name))
    found["kwh_per_million_output_tokens"] = kwh_per_million(on, output / span, busy)
    return found
