# %% [markdown]
# # 7 · Your own strategy in fifteen lines
#
# A strategy is a function from a model's shape to a plan. Once the table exists, everything else follows from it: its
# laws are checked, its steps are priced, its capacity is found, and the engine executes the very same table. Here is
# one that elide does not have: *attention skipping*. Some of the later layers lose their attention for everybody,
# prompt and answer alike, and keep their feed-forward block (the idea of He et al., "What Matters in Transformers?",
# arXiv 2406.15786; which layers to choose has to be measured).

# %%
import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import plotly.io as pio

from sim.cost.deployment import Deployment
from sim.cost.hardware import gpu_named
from sim.errors import PlanError
from sim.plans.catalogue import model_named
from sim.plans.model import ModelShape
from sim.plans.plan import ATTN, FFN, FULL, SkipPlan, plan_of
from sim.plans.spec import strategy_named
from sim.plans.strategies import compose, dense, skip_decode
from sim.run.metrics import Slo
from sim.run.simulate import simulate
from sim.study.capacity import capacity_of
from sim.study.loads import NamedLoad
from sim.study.pictures import plan_table
from sim.study.service import Service

pio.renderers.default = "plotly_mimetype"


# %%
def attention_skip(model: ModelShape, *, drop: int = 8) -> SkipPlan:
    """A plan without attention in `drop` layers, centred at three quarters of the depth; FFNs all run."""
    start = round(0.75 * model.layers - drop / 2)
    if drop < 0 or start < 1 or start + drop > model.layers:
        raise PlanError(f"attention_skip: drop={drop} does not fit {model.layers} layers")
    row = np.full(model.layers, FULL)
    row[start : start + drop] = FFN
    return plan_of(model.layers, name=f"attention_skip:drop={drop}", prompt=row, sampled=row, decode=row[None])


# %% [markdown]
# ## The plan
#
# **Claim: it obeys the laws that every strategy is held to**: turned down to nothing it is the dense plan, impossible
# arguments are refused, and layers without attention own no cache.

# %%
model = model_named("llama-3.1-8b")
plan = attention_skip(model)
assert attention_skip(model, drop=0).digest == dense(model).digest
assert plan.caches.size == model.layers - 8
assert plan.nominal_skip == plan.prompt_skip == 8 / (2 * model.layers)
try:
    attention_skip(model, drop=40)
    refused = False
except PlanError:
    refused = True
assert refused
plan_table(plan)

# %% [markdown]
# **Claim: it composes with the others, in any order.** SkipDecode skips whole layers of generated tokens, attention
# skipping the attention of some that are left.

# %%
depth = skip_decode(model, speedup=2)
both = compose(plan, depth)
assert both.digest == compose(depth, plan).digest
assert not (both.decode[0] & ATTN & ~plan.decode[0]).any()
both.name, round(both.nominal_skip, 3)

# %% [markdown]
# ## The price
#
# Attention weighs little (a fifth of a layer's parameters), but its cache is what fills the memory. **Claim: less
# than a tenth of the weight traffic is saved, but exactly a quarter of the KV reads, and more than a third more
# tokens fit into KV memory.**

# %%
on = Deployment(model, gpu_named("h200"))
load = NamedLoad("azure-conv", 2000)
results = {p.name: simulate(load.at(10), on, p) for p in (dense(model), plan)}
base, mine = results["dense"].summary(), results[plan.name].summary()
more = mine["kv_capacity_tokens"] / base["kv_capacity_tokens"]
realised = mine["realised"]
for name, value in realised.items():
    print(f"{name:>22}: {value:.1%}")
assert more > model.layers / plan.caches.size  # the weights that nobody runs need not be loaded either
assert realised["weight_bytes_saved"] < 0.1
assert abs(realised["kv_read_bytes_saved"] - 0.25) < 1e-9
print(f"{more:.2f}x the tokens in KV memory, TPOT {base['tpot_ms']['p50']:.2f} → {mine['tpot_ms']['p50']:.2f} ms")

# %% [markdown]
# **Claim: what it saves does not fade with the batch**, for every row skips the same layers; under load its capacity is
# above the dense model's.

# %%
assert mine["tpot_ms"]["p50"] < base["tpot_ms"]["p50"]
slo = Slo(ttft_ms=1000, tpot_ms=50)
found = {p.name: capacity_of(Service(load, on, p), slo) for p in (dense(model), plan)}
gain = found[plan.name].ratio_to(found["dense"])
print(f"{found['dense'].qps:.1f} → {found[plan.name].qps:.1f} requests per second: {gain.value:.2f}x")
print(f"90 % interval: {gain.low:.2f}x to {gain.high:.2f}x")
assert gain.low > 1

# %% [markdown]
# A plan with a name of its own can be given to `Study` and to the command line once it stands in
# `sim.plans.strategies.STRATEGIES`; the how-to [add a strategy](../docs/howto-add-a-strategy.md) says what else belongs
# to it. **Claim: until then the name is unknown, and the error says what is known.**

# %%
try:
    strategy_named("attention_skip", model)
    message = ""
except LookupError as error:
    message = str(error)
assert "swift_kv" in message
message

# %% [markdown]
# ## The execution
#
# The engine takes the same object. A tiny random Llama on the CPU is enough to see it run; real checkpoints need
# nothing else but their folder. This last part needs the engine: `pip install -e '.[engine]'`.

# %%
engine_here = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
if engine_here:
    from engine.llm import LLM
    from engine.sampler import SamplingParams
    from engine.tiny import make_tiny

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make_tiny(Path(folder) / "tiny", "llama", layers=8)
        engines = {"dense": LLM(checkpoint, plan="dense", device="cpu")}
        shape = engines["dense"].config.shape
        engines["ours"] = LLM(checkpoint, plan=attention_skip(shape, drop=2), device="cpu")
        prompts = ["A layer that is skipped", "Weights are shared traffic"]
        greedy = SamplingParams(max_tokens=16, ignore_eos=True)
        answers = {name: llm.generate(prompts, greedy) for name, llm in engines.items()}
        for name, llm in engines.items():
            told = llm.metrics.summary()
            shares = ("skip_requested", "weight_bytes_skip_realised", "kv_read_skip_realised")
            print(f"{name:>6}: {told['iterations']} iterations, " + ", ".join(f"{s} {told[s]:.3f}" for s in shares))
else:
    print("skipped: the engine is not installed; pip install -e '.[engine]'")

# %% [markdown]
# **Claim: the engine skipped what the plan says, no more and no less; the simulator counts the same share.** The texts
# differ from the dense model's: whether they are as good is a question for a measurement, not for this notebook.

# %%
if engine_here:
    asked = engines["ours"].metrics
    assert asked.blocks_asked / asked.blocks_dense == 1 - 2 / (2 * shape.layers)
    assert engines["dense"].metrics.blocks_asked == engines["dense"].metrics.blocks_dense
    assert 1 - asked.kv_read_bytes / asked.kv_read_bytes_dense == 2 / shape.layers
    assert [a.token_ids for a in answers["ours"]] != [a.token_ids for a in answers["dense"]]
