"""What stands between client and engine delays, and never changes what the engine does when it is neutral."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment, Frontend, Host
from sim.cost.hardware import gpu_named
from sim.errors import InputError
from sim.plans.catalogue import model_named
from sim.plans.strategies import dense
from sim.run.result import Result
from sim.run.simulate import Simulation
from sim.serving.config import SchedulerConfig
from sim.workload.workload import Workload

MODEL = model_named("opt-125m")
CONFIG = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=64)
MS = 1_000_000


def run(frontend: Frontend, *, n: int = 24, slots: int = 0, stepwise: bool = False, host: Host | None = None) -> Result:
    rng = np.random.default_rng(n)
    arrivals = np.zeros(n, np.int64) if slots else np.cumsum(rng.integers(0, 3 * MS, n))
    workload = Workload(
        arrival_ns=arrivals - arrivals[0],
        prompt_tokens=rng.integers(1, 60, n),
        output_tokens=rng.integers(1, 20, n),
        concurrency=slots,
    )
    deployment = Deployment(MODEL, gpu_named("h100"), frontend=frontend, host=host or Host())
    return Simulation(workload, deployment, dense(MODEL), CONFIG, max_context=128).run(stepwise=stepwise)


FRONTENDS = st.builds(
    Frontend,
    request_ns=st.integers(0, 5 * MS),
    request_gap_ns=st.integers(0, 2 * MS),
    stream_token_ns=st.integers(0, MS),
)


@given(FRONTENDS, st.integers(2, 24), st.sampled_from([0, 3]))
def test_the_compiled_loop_and_its_oracle_agree(frontend: Frontend, n: int, slots: int) -> None:
    fast = run(frontend, n=n, slots=slots)
    slow = run(frontend, n=n, slots=slots, stepwise=True)
    assert fast.requests.equals(slow.requests)


@given(st.integers(0, 20 * MS))
def test_a_delay_before_the_engine_is_added_to_ttft_alone(request_ns: int) -> None:
    plain, late = run(Frontend()), run(Frontend(request_ns=request_ns))
    assert late.state.first_token_ns.tolist() == (plain.state.first_token_ns + request_ns).tolist()
    assert late.state.last_token_ns.tolist() == (plain.state.last_token_ns + request_ns).tolist()


def test_a_slow_stream_bounds_throughput_and_grows_tpot() -> None:
    per_token = 2 * MS
    plain, slow = run(Frontend(), slots=8), run(Frontend(stream_token_ns=per_token), slots=8)
    tokens = int(slow.asked.output_tokens.sum())
    assert slow.makespan_s >= tokens * per_token / 1e9
    assert plain.makespan_s < slow.makespan_s
    tpot = [r.requests["tpot_ms"].drop_nulls().mean() for r in (plain, slow)]
    assert tpot[0] < tpot[1]  # type: ignore[operator]


def test_requests_that_come_together_are_seen_one_after_the_other() -> None:
    result = run(Frontend(request_gap_ns=50 * MS), slots=24)
    seen = np.sort(result.state.scheduled_ns)
    assert (np.diff(seen) >= 50 * MS).all()


def test_prompt_steps_without_graphs_wait_for_their_launches() -> None:
    graphs = Host(eager_launch_ns=100_000)
    eager = replace(graphs, graph_prompts=False)
    with_graphs, without = (run(Frontend(), host=host) for host in (graphs, eager))
    ttft = [r.requests["ttft_ms"].drop_nulls().mean() for r in (with_graphs, without)]
    assert ttft[0] < ttft[1]  # type: ignore[operator]
    kinds = without.iterations
    decode = kinds.filter(kinds["prompt_tokens"] == 0)["launch_ns"]
    mixed = kinds.filter(kinds["prompt_tokens"] > 0)["launch_ns"]
    assert decode.max() < mixed.min()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["request_ns", "request_gap_ns", "stream_token_ns"])
def test_negative_delays_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        Frontend(**{name: -1})
