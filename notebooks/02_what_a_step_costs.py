# %% [markdown]
# # 2 · What a step costs
#
# The simulator prices a step kernel by kernel: matrix products, attention, what moves memory, all-reduces, and the
# host's work around them. Kernel times are fits of public measurements; where there are none, a roofline stands in.
# This notebook looks at both, at how good the fits are on shapes they never saw, and at the price of a whole step.

# %%
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import polars as pl

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.cost.times import times_for
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.simulate import simulate
from sim.study.operations import GEMM, operations
from sim.study.pictures import attribution
from sim.study.pictures import roofline as picture
from sim.study.pictures.style import themed
from sim.workload.generate import closed_loop
from sim.workload.lengths import Fixed

pio.renderers.default = "plotly_mimetype"
model, gpu = model_named("llama-3.1-8b"), gpu_named("h200")
on = Deployment(model, gpu)
measured, roofline = times_for("h200"), times_for("h200", source="roofline")
measured.label, roofline.label

# %% [markdown]
# ## A matrix product over the number of rows
#
# The FFN's down projection: its weights are read once, however many rows (tokens of the step) pass through. Time stays
# flat until the arithmetic takes longer than the reading.

# %%
rows = np.unique(np.geomspace(1, 4096, 60).astype(int))
n, k = model.hidden, model.ffn
fits, inside = measured.gemm(rows, n, k, "bf16")
bound = roofline.gemm(rows, n, k, "bf16")[0]
figure = go.Figure(
    [
        go.Scatter(x=rows, y=fits / 1e3, name="fit of measurements", line={"color": "#1f4e79"}),
        go.Scatter(x=rows, y=bound / 1e3, name="roofline", line={"color": "#d55e00", "dash": "dash"}),
    ]
)
themed(figure, f"How long does [rows, {k}] × [{k}, {n}] in bf16 take on an H200?", height=420)
figure.update_xaxes(type="log", title="rows")
figure.update_yaxes(type="log", title="µs")
figure

# %% [markdown]
# **Claim: 64 rows cost less than a fifth more than one; 4,096 rows cost at least ten times as much.** The ridge of the
# datasheet, where both take equally long, lies at FLOP/s over bytes per second: about 206 rows.

# %%
one, some, many = measured.gemm(np.array([1, 64, 4096]), n, k, "bf16")[0]
assert some < 1.2 * one
assert many > 10 * one
ridge = gpu.flops("bf16") / gpu.bandwidth_bytes_per_s
assert 150 < ridge < 250, ridge
assert inside.all()
round(ridge)

# %% [markdown]
# ## Every operation on the roofline
#
# FLOPs per byte to the right, FLOP/s attained upwards, larger markers for more rows. The line is the datasheet. Hollow
# markers are priced outside the domain that was measured.

# %%
counted = operations(on, measured)
picture(counted, bytes_per_s=gpu.bandwidth_bytes_per_s, flops_per_s=gpu.flops("bf16"))

# %% [markdown]
# **Claim: no matrix product is faster than the datasheet allows, and at one row each of the large ones (FFN up and
# down, head) reaches at least 60 % of the bandwidth.** And the counts are the model's: a layer's products are two FLOPs
# for each of its parameters.

# %%
products = counted.filter(pl.col("kind") == GEMM)
for (name,), mine in products.group_by("operation", maintain_order=True):
    ceiling = np.minimum((mine["flops"] / mine["bytes"]).to_numpy() * gpu.bandwidth_bytes_per_s, gpu.flops("bf16"))
    share = (mine["flops"] / mine["ns"] * 1e9).to_numpy() / ceiling
    assert share.max() <= 1.0, (name, share.max())
    print(f"{name:>16}: {share[0]:.0%} of the bandwidth at one row, {share[-1]:.0%} of the FLOP/s at 4,096")
    assert share[0] >= 0.6 or name in ("QKV", "attention output"), name
layer = products.filter(pl.col("rows") == 1, pl.col("operation") != "LM head")
assert layer["flops"].sum() == 2 * model.p_layer

# %% [markdown]
# ## How good are the fits?
#
# Each coefficients file says how far the fit is from measurements that it was fitted to, and from others that it was
# not. Relative errors, H200:

# %%
fits = measured.provenance["fits"]
table = pl.DataFrame(
    [
        {"kernel": name, "measured on": which.replace("_", " "), "points": error["points"]}
        | {f"{q} error %": round(100 * error[q], 1) for q in ("median", "p90", "bias")}
        for name, fit in fits.items()
        for which, error in fit["residuals"].items()
        if which in ("in_sample", "held_out")
    ]
)
with pl.Config(tbl_rows=-1, tbl_width_chars=120, tbl_hide_column_data_types=True):
    print(table)

# %% [markdown]
# **Claim: on held-out points every kernel's median error is below 6 %, and never more than 2.5 times the error on the
# points of the fit.** The tails are longer: one held-out point in ten is off by more than 7 to 18 %, by kernel.

# %%
for name, fit in fits.items():
    if "held_out" in fit["residuals"]:
        seen, unseen = fit["residuals"]["in_sample"], fit["residuals"]["held_out"]
        assert unseen["median"] < 0.06, (name, unseen)
        assert unseen["median"] < 2.5 * seen["median"] + 0.01, (name, seen, unseen)
        assert unseen["p90"] < 0.2, (name, unseen)
sorted(name for name, fit in fits.items() if "held_out" not in fit["residuals"])  # fitted, but never held out

# %% [markdown]
# ## A decode step, by batch
#
# 512 tokens of prompt, 128 decode steps, all sequences in step with each other. *Weights* is what one row would cost,
# *compute* what the others add, *KV* what decode attention takes.

# %%
steps = []
for batch in (1, 8, 64, 256):
    work = closed_loop(requests=batch, concurrency=batch, prompts=Fixed(512), outputs=Fixed(129))
    result = simulate(work, on, strategy_named("dense", model))
    decode = result.iterations.filter(pl.col("kind") == "decode")
    total = decode["duration_ns"].sum()
    parts = ("weights", "kv", "compute", "pointwise", "launch", "host")
    shares = {f"{part} %": round(100 * decode[f"{part}_ns"].sum() / total, 1) for part in parts}
    ms = total / len(decode) / 1e6
    steps.append({"batch": batch, "step ms": round(ms, 2), "µs per token": round(1e3 * ms / batch, 1)} | shares)
steps = pl.DataFrame(steps)
steps

# %% [markdown]
# **Claim: 256 sequences take less than three times as long as one, so a token becomes about a hundred times cheaper;
# the share of the weights falls with the batch and the share of the KV cache rises.** That is why a strategy that
# saves weights is worth less on a busy server than on an idle one.

# %%
assert steps["step ms"][-1] < 3 * steps["step ms"][0]
assert steps["µs per token"][0] > 80 * steps["µs per token"][-1]
assert steps["weights %"].is_sorted(descending=True)
assert steps["kv %"].is_sorted()

# %%
attribution(result.attribution())

# %% [markdown]
# **Claim: the parts add up to the step, to the nanosecond. Some time is priced outside the measured domain, and all of
# it is the LM head**, which is wider than any matrix that was measured. Every result carries that share.

# %%
frame = result.iterations
every = [c for c in frame.columns if c.endswith("_ns") and c not in ("start_ns", "duration_ns")]
assert frame.select(pl.sum_horizontal(every)).to_series().equals(frame["duration_ns"], check_names=False)
inside = dict(products.filter(pl.col("rows") == 256).select("operation", "measured").iter_rows())
assert inside == {name: name != "LM head" for name in inside}
assert 0 < result.summary()["extrapolated_share"] < 0.1
print(f"{result.summary()['extrapolated_share']:.1%} of the busy time is extrapolated")
