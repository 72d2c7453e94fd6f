# %% [markdown]
# # 4 · Capacity for your traffic
#
# Bring a trace, a latency limit and the price of a GPU; get requests per second per GPU, GPUs, dollars, and what every
# figure's interval is. The traffic below is drawn from the lengths of Azure's 2023 conversation trace, which ship with
# elide, so that the notebook runs anywhere. **To use your own, set `TRACE` to a file**: Azure, Mooncake, BurstGPT,
# ShareGPT, splitwise and Vidur formats are recognised, and so is any CSV with arrivals, input and output tokens.

# %%
import math
from dataclasses import replace

import plotly.io as pio
import polars as pl

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.study.capacity import capacity_of
from sim.study.loads import TraceLoad
from sim.study.pictures import cost_quality, latency_curves
from sim.study.prices import dollars_per_million
from sim.study.quality import qualities
from sim.study.service import Service
from sim.study.study import Study
from sim.workload.generate import named_workload
from sim.workload.traces import read_trace

pio.renderers.default = "plotly_mimetype"
WIDE = {"tbl_width_chars": 140, "tbl_cols": -1, "fmt_str_lengths": 40, "tbl_hide_column_data_types": True}

TRACE = None  # "my_trace.csv"
MODEL, GPU = "llama-3.1-8b", "h200"
LIMITS = Slo(ttft_ms=1000, tpot_ms=40, percentile=90)
PRICE = 3.5  # dollars per GPU-hour: yours, not ours
DEMAND = 100.0  # requests per second at your peak

# %% [markdown]
# ## The trace
#
# A file that cannot be used is refused with file, line, column and value; nothing is dropped silently. Here a small
# CSV is written first and then read as yours would be.

# %%
if TRACE is None:
    drawn = named_workload("azure-conv", requests=2500, qps=10, seed=7)
    columns = ("arrival_ns", "prompt_tokens", "output_tokens")
    frame = pl.DataFrame({name: getattr(drawn, name) for name in columns})
    frame = frame.with_columns(pl.col("arrival_ns") / 1e9).rename(
        {"arrival_ns": "arrival_s", "prompt_tokens": "input_tokens"}
    )
    frame.write_csv("my_trace.csv")
    TRACE = "my_trace.csv"
trace = read_trace(TRACE)
{name: round(value, 1) for name, value in trace.stats().items()}

# %% [markdown]
# **Claim: the trace that was read is the file, row by row.**

# %%
written = pl.read_csv(TRACE)
if "input_tokens" in written.columns:
    assert len(trace) + trace.failed == len(written)
    assert trace.prompt_tokens.tolist() == written["input_tokens"].to_list()

# %% [markdown]
# ## The study
#
# Each strategy's capacity is searched for: the largest rate at which 90 % of requests meet both limits while the queue
# stands still. The trace keeps its own burstiness, its gaps are stretched. Seed 0 is the trace itself, other seeds are
# resamples of its contiguous blocks; the interval is what they disagree about.

# %%
study = Study(
    deployment=Deployment(model_named(MODEL), gpu_named(GPU)),
    load=TraceLoad(trace),
    strategies=("skip_decode:speedup=2", "swift_kv"),
    demand_qps=DEMAND,
    slo=LIMITS,
    seeds=(0, 1, 2),
    gpu_price=PRICE,
    batching=False,
    workers=1,
)
rows = study.run()
shown = ("strategy", "max_qps_per_gpu", "max_qps_low", "max_qps_high", "gpus", "gpus_low", "gpus_high", "gain")
with pl.Config(**WIDE, float_precision=2):
    print(rows.select(shown))

# %% [markdown]
# **Claim: the intervals hold their figure, and GPUs are whole ones.**

# %%
for row in rows.iter_rows(named=True):
    assert row["max_qps_low"] <= row["max_qps_per_gpu"] <= row["max_qps_high"], row["strategy"]
    assert row["gpus"] == math.ceil(DEMAND / row["max_qps_per_gpu"]), row["strategy"]
    assert row["gpus_low"] <= row["gpus"] <= (row["gpus_high"] or math.inf)

# %%
study.figure()

# %% [markdown]
# ## Latency by load
#
# Hollow markers miss the limits.

# %%
latency_curves(study.outcome.frames["points"], LIMITS)

# %% [markdown]
# **Claim: at four fifths of its capacity the dense model meets the limits, and latency never falls as load rises by
# half or more.**

# %%
dense = study.outcome.frames["points"].filter(pl.col("strategy") == "dense").sort("qps")
assert dense.filter(pl.col("qps") <= 0.8001 * rows["max_qps_per_gpu"][0])["within_slo"].all()
tpot = dict(zip(dense["qps"].to_list(), dense["tpot_p90_ms"].to_list()))
assert all(slow <= fast for a, slow in tpot.items() for b, fast in tpot.items() if b >= 1.5 * a)

# %% [markdown]
# ## Money and quality
#
# The price is an input: **claim: doubling it doubles the cost and changes nothing else.** Energy is the board's full
# power for the busy share of the time, an upper bound.

# %%
on = study.deployment
for row in rows.iter_rows(named=True):
    tokens_per_s = row["output_tokens_per_s_per_gpu"]
    assert math.isclose(row["dollars_per_million_output_tokens"], dollars_per_million(on, tokens_per_s, PRICE))
    assert math.isclose(dollars_per_million(on, tokens_per_s, 2 * PRICE), 2 * row["dollars_per_million_output_tokens"])
with pl.Config(**WIDE, float_precision=3):
    print(
        rows.select(
            "strategy", "dollars_per_million_output_tokens", "kwh_per_million_output_tokens", "quality", "quality_how"
        )
    )

# %% [markdown]
# Quality is the share of the dense model's score, and stays empty where nobody measured or published it for this model
# and plan. **Claim: no quality is invented**: every entry is from a file, with what it was measured on beside it.

# %%
known = qualities(MODEL)
for row in rows.iter_rows(named=True):
    if row["strategy"] == "dense":
        assert row["quality"] == 1
    elif row["plan_digest"] in known:
        assert row["quality"] == known[row["plan_digest"]].score
    else:
        assert row["quality"] is None

# %%
cost_quality(rows)

# %% [markdown]
# ## What if the limits were tighter, or the trace shorter?
#
# **Claim: a tighter limit never gives more capacity** (the search's own tolerance is 2 %). **And a short trace is a
# poor guide, which the answer says itself**: 500 requests are over before a queue could show whether it grows. Bring
# some thousands of them.

# %%
service = Service(study.load, on, strategy_named("dense", on.model))
loose = capacity_of(service, LIMITS)
tight = capacity_of(service, replace(LIMITS, tpot_ms=12))
short = capacity_of(replace(service, load=TraceLoad(trace.take(500))), LIMITS)
settings = ((f"TPOT ≤ {LIMITS.tpot_ms:g} ms", loose), ("TPOT ≤ 12 ms", tight), ("first 500 requests alone", short))
for what, found in settings:
    interval = f"[{found.low:.2f}, {found.high:.2f}]"
    print(f"{what:>25}: {found.qps:5.2f} {interval} requests per second, ended by the {found.limited_by}")
assert tight.qps <= loose.qps * 1.02
assert short.note
assert not loose.note
short.note

# %% [markdown]
# The same from a shell, with a report that opens offline:
# `python -m sim study --trace my_trace.csv --slo-tpot-ms 40 --gpu-price 3.5 --html out/study.html`
