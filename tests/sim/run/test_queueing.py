"""INV-38: one server, one token: the simulator is an M/D/1 or M/G/1 queue, and waits as long as the formulas say.

Pollaczek and Khinchine: W = λ E[S²] / (2 (1 - ρ)), the wait before service; S is read from the log. Confidence
intervals are of batch means, so that they are honest about the correlation of neighbours.
"""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from sim.cost.deployment import Deployment
from sim.plans.catalogue import model_named
from sim.plans.strategies import dense
from sim.run.result import Result
from sim.run.simulate import Simulation
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload
from tests.planted import Planted
from tests.sim.cost.steps import GPU

MODEL = model_named("opt-125m")
BATCHES, WARMUP = 40, 2000


def run(prompts: NDArray[np.int64], rate_per_ns: float, seed: int) -> Result:
    """Poisson arrivals at one server that takes one request at a time."""
    n = prompts.size
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_ns, n - 1)
    arrival = np.concatenate([[0], np.rint(np.cumsum(gaps)).astype(np.int64)])
    work = Workload(arrival, prompts, np.ones(n, np.int64))
    config = SchedulerConfig(max_num_seqs=1, max_num_batched_tokens=512)
    on = Deployment(MODEL, GPU, kv_blocks=1000)
    return Simulation(work, on, dense(MODEL), config, times=Planted(), max_context=1024).run()


def service_ns(prompts: list[int]) -> list[int]:
    """What each prompt takes alone."""
    alone = run(np.array(prompts), 1e-12, 0)
    return alone.iterations["duration_ns"].to_list()


def interval(values: NDArray[np.float64], level: float = 0.99) -> tuple[float, float]:
    """Mean, and half the width of its confidence interval, from batch means."""
    means = np.array([part.mean() for part in np.array_split(values[WARMUP:], BATCHES)])
    width = stats.t.ppf((1 + level) / 2, BATCHES - 1) * means.std(ddof=1) / np.sqrt(BATCHES)
    return float(means.mean()), float(width)


def check(prompts: NDArray[np.int64], expected_ns: float, rate: float, seed: int) -> None:
    result = run(prompts, rate, seed)
    frame = result.requests
    mean, width = interval((frame["scheduled_ns"] - frame["arrival_ns"]).to_numpy())
    assert width < 0.12 * expected_ns, "too wide to say anything"
    assert abs(mean - expected_ns) < width
    assert result.summary()["queue_peak"] > 1
    served = (frame["first_token_ns"] - frame["scheduled_ns"]).to_numpy()
    utilisation = float(served.sum()) / 1e9 / result.makespan_s
    assert utilisation == pytest.approx(result.summary()["busy_share"], rel=1e-9)
    assert utilisation == pytest.approx(rate * served.mean(), rel=0.02)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_constant_service_waits_as_m_d_1(load: float) -> None:
    (service,) = service_ns([64])
    rate = load / service
    wait = load * service / (2 * (1 - load))
    check(np.full(60_000, 64), wait, rate, seed=1)


@pytest.mark.parametrize("load", [0.3, 0.6])
def test_mixed_service_waits_as_m_g_1(load: float) -> None:
    """Long prompts are rare: the second moment decides."""
    short, long = service_ns([8, 500])
    share = 0.15
    rng = np.random.default_rng(7)
    prompts = np.where(rng.random(60_000) < share, 500, 8)
    mean, square = ((1 - share) * short**k + share * long**k for k in (1, 2))
    assert square > 1.5 * mean**2
    rate = load / mean
    check(prompts, rate * square / (2 * (1 - load)), rate, seed=3)
