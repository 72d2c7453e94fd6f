# %% [markdown]
# # 3 · The simulator against queueing theory
#
# A simulator of a queue can be wrong in ways that look plausible. Where a queue has an exact solution it must be met.
# A replica that serves one request at a time is such a queue: its service times are what the price list says, its
# waiting times are what theory says.
#
# Each estimate below comes from several independent seeds. The bound is four standard errors of their mean, wide enough
# to hold always and narrow enough to notice an error of a few per cent.

# %%
import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.run.simulate import simulate
from sim.serving.config import SchedulerConfig
from sim.study.pictures.style import themed
from sim.workload.arrivals import Constant, Poisson
from sim.workload.generate import closed_loop, synthetic
from sim.workload.lengths import Fixed, RangeRatio

pio.renderers.default = "plotly_mimetype"
model = model_named("llama-3.1-8b")
on, dense = Deployment(model, gpu_named("h200")), strategy_named("dense", model)
one_by_one = SchedulerConfig(max_num_seqs=1)
SEEDS, REQUESTS = range(6), 8000


def alone(prompts, outputs, requests=2000):
    """Service times in seconds: a closed loop of one never queues."""
    work = closed_loop(requests=requests, concurrency=1, prompts=prompts, outputs=outputs, seed=99)
    return simulate(work, on, dense, one_by_one).requests["e2e_ms"].to_numpy() / 1e3


def waits(prompts, outputs, arrivals):
    """Mean time in the queue in seconds, one figure per seed."""
    means = []
    for seed in SEEDS:
        work = synthetic(requests=REQUESTS, arrivals=arrivals, prompts=prompts, outputs=outputs, seed=seed)
        frame = simulate(work, on, dense, one_by_one).requests
        means.append(float((frame["scheduled_ns"] - frame["arrival_ns"]).mean()) / 1e9)
    return np.array(means)


# %% [markdown]
# ## M/D/1
#
# Prompts of 512 tokens and one token of output: a request is one step, and all steps take the same time S. At
# utilisation ρ the mean wait is W = ρ·S / (2·(1 − ρ)).

# %%
service = alone(Fixed(512), Fixed(1), 20)
S = service.mean()
assert np.ptp(service) == 0
loads = (0.3, 0.5, 0.7, 0.8)
found = {rho: waits(Fixed(512), Fixed(1), Poisson(rho / S)) for rho in loads}
theory = {rho: rho * S / (2 * (1 - rho)) for rho in loads}
for rho in loads:
    error = found[rho].std(ddof=1) / np.sqrt(len(SEEDS))
    mean = f"{found[rho].mean() * 1e3:6.2f} ± {error * 1e3:.2f} ms simulated"
    print(f"ρ = {rho}: {mean}, {theory[rho] * 1e3:6.2f} ms in theory")

# %% [markdown]
# **Claim: the simulated wait is the one of M/D/1 at every load.**

# %%
for rho in loads:
    error = found[rho].std(ddof=1) / np.sqrt(len(SEEDS))
    assert abs(found[rho].mean() - theory[rho]) < 4 * error, rho
    assert 4 * error < 0.25 * theory[rho], rho  # the check can fail

# %% [markdown]
# ## D/D/1
#
# **Claim: evenly spaced requests never wait below capacity.** One nanosecond of waiting would fail.

# %%
assert waits(Fixed(512), Fixed(1), Constant(0.99 / S)).max() == 0

# %% [markdown]
# ## M/G/1
#
# Outputs of 1 to 127 tokens: service times vary. Pollaczek and Khinchine: W = λ·E[S²] / (2·(1 − ρ)). The
# moments come from the same distribution of lengths, served one at a time without a queue.

# %%
outputs = RangeRatio(64, 0.999)
service = alone(Fixed(512), outputs)
rho = 0.7
rate = rho / service.mean()
general = waits(Fixed(512), outputs, Poisson(rate))
predicted = rate * (service**2).mean() / (2 * (1 - rho))
error = general.std(ddof=1) / np.sqrt(len(SEEDS))
moments = predicted * 4 * service.std() / service.mean() / np.sqrt(service.size)  # the moments are estimates, too
print(f"{general.mean():.4f} ± {error:.4f} s simulated, {predicted:.4f} s in theory")

# %% [markdown]
# **Claim: it is the wait of M/G/1, and clearly not that of M/D/1.**

# %%
assert abs(general.mean() - predicted) < 4 * error + moments
assert general.mean() - 4 * error > rho * service.mean() / (2 * (1 - rho))

# %% [markdown]
# ## Little's law
#
# With batching there is no closed form, yet L = λ·W holds for every system: mean number of requests present =
# rate × mean time present. The left side comes from the log of iterations, which knows how many ran and waited as each
# one ended; the right side from the requests' own clocks. The log takes the state at an iteration's end for all of it,
# so the two agree to the little that happens within an iteration.

# %%
work = synthetic(requests=6000, arrivals=Poisson(20), prompts=RangeRatio(1000, 0.5), outputs=RangeRatio(200, 0.9))
result = simulate(work, on, dense)
steps, frame = result.iterations, result.requests
present = ((steps["running"] + steps["waiting"]) * steps["duration_ns"]).sum() / 1e9 / result.makespan_s
passing = len(frame) / result.makespan_s * frame["e2e_ms"].mean() / 1e3
print(f"L = {present:.2f} from iterations, λW = {passing:.2f} from requests, up to {steps['running'].max()} in a batch")

# %% [markdown]
# **Claim: the two differ by less than 2 %.** And exactly: **every token of every request was emitted once.**

# %%
assert abs(present / passing - 1) < 0.02
assert result.state.generated.sum() == work.output_tokens.sum()
assert steps["prompt_tokens"].sum() == work.prompt_tokens.sum()

# %% [markdown]
# ## A queue that cannot stand still
#
# **Claim: beyond capacity throughput stays at 1/S, and the wait grows with the length of the run**: no figure taken
# from an overloaded run is a latency of the server.

# %%
lengths = (1000, 2000, 4000)
runs = []
for requests in lengths:
    work = synthetic(requests=requests, arrivals=Poisson(1.5 / S), prompts=Fixed(512), outputs=Fixed(1), seed=1)
    runs.append(simulate(work, on, dense, one_by_one))
rates = [len(run.requests) / run.makespan_s for run in runs]
mean_waits = [run.requests["ttft_ms"].mean() for run in runs]
assert all(abs(rate * S - 1) < 0.01 for rate in rates)
assert mean_waits[1] > 1.7 * mean_waits[0]
assert mean_waits[2] > 1.7 * mean_waits[1]

# %%
rho = np.linspace(0.05, 0.9, 50)
figure = go.Figure(go.Scatter(x=rho, y=rho / (2 * (1 - rho)), name="M/D/1", line={"color": "#3d4450"}))
mean = [found[r].mean() / S for r in loads]
spread = [4 * found[r].std(ddof=1) / np.sqrt(len(SEEDS)) / S for r in loads]
figure.add_scatter(x=loads, y=mean, error_y={"array": spread}, mode="markers", name="simulated, ± 4 standard errors")
themed(figure, "Does a request wait as long as theory says?", height=420)
figure.update_xaxes(title="utilisation ρ")
figure.update_yaxes(title="wait, in service times")
figure
