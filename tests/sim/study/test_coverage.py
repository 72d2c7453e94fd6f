"""INV-40. Planted servers: drawn from what is not known of kernels, engine and servers, under traffic of their own.

Nine in ten intervals should hold what such a server shows; the tests ask for a share that chance allows.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from sim.cost.perturbed import Perturbed
from sim.cost.profiles import profile_named
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.study.capacity import capacity_of
from sim.study.intervals import slower, varied
from sim.study.loads import NamedLoad
from sim.study.run_intervals import figures_of, run_intervals
from sim.study.service import Service

SLO = Slo()
QPS = 12.0
SCATTER = 0.05
ENGINE = replace(
    profile_named("vllm-0.11"),
    fitted=("step_ms", "weights", "compute"),
    covariance=((0.04, 0.0, 0.0), (0.0, 0.0025, 0.0), (0.0, 0.0, 0.0025)),
    residual_sd=dict.fromkeys(("ttft", "tpot", "e2e", "throughput"), SCATTER),
    provenance={"gpus": ["h200"]},
)


def service(on, requests):
    plan = strategy_named("swift_kv", on.model)
    load = NamedLoad("azure-conv", requests)
    return Service(load, ENGINE.on(on), plan, ENGINE.config(on.gpu), engine=ENGINE)


def planted(known: Service, rng: np.random.Generator) -> Service:
    """A server as it may be: its own kernels and parameters."""
    drawn = ENGINE.drawn(rng)
    moved = {name: value / ENGINE.parameters[name] for name, value in drawn.parameters.items()}
    kernels = Perturbed(ENGINE.scaled(known.times, moved), int(rng.integers(10**6, 2**31)))
    return replace(known, deployment=drawn.on(known.deployment), kernels=kernels)


def test_intervals_of_a_run_cover_nine_servers_in_ten(h200):
    rng, known = np.random.default_rng(11), service(h200, 1500)
    found = run_intervals(known, known.at(QPS), SLO, varied(known, draws=8))
    hits = []
    for number in range(40):
        seen = figures_of(planted(known, rng).at(QPS, 100 + number), SLO)
        for name in ("ttft_p50_ms", "ttft_p90_ms", "tpot_mean_ms", "itl_mean_ms", "e2e_mean_ms", "output_tokens_per_s"):
            measured = seen[name] * (math.exp(SCATTER * rng.standard_normal()) if name.endswith("_ms") else 1.0)
            hits.append(found[name].low <= measured <= found[name].high)
    assert 0.82 < np.mean(hits) < 0.97


@pytest.mark.parametrize("requests", [1000, 4000])
def test_intervals_of_a_capacity_cover_nine_servers_in_ten(h200, requests):
    rng, known = np.random.default_rng(12), service(h200, requests)
    found = capacity_of(known, SLO)
    long = replace(known, load=NamedLoad("azure-conv", 6000))
    hits = []
    for number in range(25):
        server = slower(planted(long, rng), math.expm1(SCATTER * rng.standard_normal()))
        hits.append(found.low <= capacity_of(server, SLO, seeds=(100 + number,), draws=0).qps <= found.high)
    assert np.mean(hits) > 0.75
    assert found.high / found.low < 1.6  # and they say something
