"""One iteration, priced: rows in, nanoseconds, parts and counters out."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from sim.cost.deployment import Deployment, Host
from sim.cost.hardware import Gpu
from sim.cost.lower import lower
from sim.cost.price import price_step
from sim.cost.roofline import Roofline
from sim.cost.tables import PART_NAMES, Tables, scratch_for
from sim.cost.tally import tally
from sim.cost.times import KernelTimes
from sim.cost.work import work_done
from sim.plans.model import ModelShape
from sim.plans.plan import SkipPlan
from sim.serving.columns import N_ROWS, asked_of, state_of
from sim.serving.config import SchedulerConfig
from tests.gen import Row
from tests.planted import Planted

GPU = Gpu("toy", 10**9, 1e11, 1e13, 2e13, 1e10, 100.0)
CONFIG = SchedulerConfig(max_num_seqs=64, max_num_batched_tokens=512)
CONTEXT = 512


@dataclass(frozen=True)
class Priced:
    """What a step cost and what it did."""

    ns: int
    parts: dict[str, int]
    work: dict[str, float]


def tables_of(plan: SkipPlan, on: Deployment, times: KernelTimes) -> Tables:
    """The price list for small steps."""
    return lower(plan, on, times, CONFIG, max_context=CONTEXT)


def price(tables: Tables, rows: list[Row]) -> Priced:
    """The price of one iteration that holds these rows."""
    prompts, generated, first, tokens = (np.array(column, dtype=np.int64) for column in zip(*rows))
    asked = asked_of(np.zeros_like(prompts), prompts, np.full_like(prompts, CONTEXT))
    state = state_of(asked, max_num_seqs=len(rows), total_units=1, full_units=1)
    state.generated[:] = generated
    state.row_request[: len(rows)] = np.arange(len(rows))
    state.row_start[: len(rows)] = first
    state.row_tokens[: len(rows)] = tokens
    state.counts[N_ROWS] = len(rows)
    scratch = scratch_for(tables)
    tally(asked, state, tables, scratch)
    ns = price_step(tables, scratch)
    return Priced(
        ns=int(ns),
        parts=dict(zip(PART_NAMES, scratch.parts_ns.tolist())),
        work=work_done(tables, scratch),
    )


def decodes(prompts: list[int], fed: list[int]) -> list[Row]:
    """Rows that feed generated token `fed` of a sequence, without drafts."""
    return [Row(prompt, t + 1, prompt + t, 1) for prompt, t in zip(prompts, fed)]


hosts = st.builds(
    Host,
    step_ns=st.integers(0, 10_000) | st.integers(0, 10**6),
    row_ns=st.integers(0, 10_000),
    overlap=st.booleans(),
    graph_rows=st.just(0) | st.integers(0, 40) | st.just(10_000),
    graph_gap_ns=st.integers(0, 2_000),
    eager_launch_ns=st.integers(2_000, 20_000),
    graph_prompts=st.booleans(),
)

planted = st.builds(Planted, floor=st.integers(1, 9), per_row=st.integers(0, 5))
sources = st.just(Planted()) | planted | st.just(Roofline(GPU))


@st.composite
def deployments(draw: st.DrawFn, model: ModelShape) -> Deployment:
    """The model on one toy GPU or two, in any precision, under any host."""
    pairs = model.heads % 2 == 0 and (model.kv_heads % 2 == 0 or model.kv_heads == 1)
    return Deployment(
        model,
        GPU,
        tp=2 if pairs and draw(st.booleans()) else 1,
        weights=draw(st.sampled_from(("bf16", "fp8"))),
        kv=draw(st.sampled_from(("bf16", "fp8"))),
        host=draw(hosts),
    )
