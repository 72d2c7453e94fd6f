# %% [markdown]
# # 1 · What each strategy does to the layer table
#
# A skip strategy is a table: for every token position and every layer, which of three things the token does there.
# It may *attend* (query the cache and add to the residual stream), run the *feed-forward* block, and leave its *keys
# and values* in the layer's cache. A layer in which it does nothing is the identity.
#
# This notebook draws the tables and steps through them token by token. Nothing here needs a GPU or a weight.
#
# First all together: press ▶, or drag the slider. Each column is a token, prompt first; generated tokens follow at
# growing distances.

# %%
import numpy as np
import plotly.io as pio
import polars as pl

from sim.errors import PlanError
from sim.plans.catalogue import model_named
from sim.plans.plan import ATTN, FFN, FULL, KV, plan_of
from sim.plans.spec import strategy_named
from sim.study.pictures import plan_steps, plan_table

pio.renderers.default = "plotly_mimetype"
model = model_named("llama-3.1-8b")
PROMPT = 100  # tokens of the prompt in the pictures below
TOKENS = [*range(0, 32, 4), *range(32, 257, 32)]  # generated tokens in the picture that plays
SPECS = ("skip_decode:speedup=2", "ffn_skip:share=0.25", "swift_kv:group=4", "swift_kv+skip_decode:speedup=2")
SIGNS = {FULL: "█", ATTN | FFN: "▓", KV: "k", 0: "·"}
plans = {spec: strategy_named(spec, model) for spec in SPECS}
picture = plan_steps(plans, TOKENS)
picture

# %% [markdown]
# **Claim: the picture is the plan.** In its last frame, SkipDecode's last token is full in the layers that the table
# lets it run; a SwiftKV prompt token is full in layers 0 to 15 alone.

# %%
shown = {spec: np.array(cells.z)[:, [0, -1]] for spec, cells in zip(SPECS, picture.data)}  # first and last token
skip = plans["skip_decode:speedup=2"]
assert ((shown["skip_decode:speedup=2"][:, 1] == 0) == (skip.flags_at(PROMPT + 256, PROMPT) == FULL)).all()
assert np.flatnonzero(shown["swift_kv:group=4"][:, 0] == 0).tolist() == list(range(16))

# %% [markdown]
# ## The same as text
#
# One line per token, one sign per layer.


# %%
def stepped(plan, positions):
    """One line per position: what the token there does in layer 0, 1, … L - 1."""
    names = {PROMPT - 2: "prompt", PROMPT - 1: "last of prompt"}
    for position in positions:
        flags = plan.flags_at(position, PROMPT)
        print(f"{names.get(position, f'generated {position - PROMPT}'):>15} {''.join(SIGNS[f] for f in flags)}")


first = [PROMPT - 2, PROMPT - 1]
print("█ full layer   ▓ attends to a shared cache, runs the FFN   k keys and values only   · nothing\n")
stepped(strategy_named("dense", model), [*first, PROMPT])

# %% [markdown]
# ## SkipDecode: later tokens run fewer layers
#
# The prompt runs in full. The budget of generated tokens falls over 256 tokens; what is left are the first layer and
# the topmost ones. Read the lines as time passing.

# %%
stepped(skip, [*first, *range(PROMPT, PROMPT + 257, 16)])

# %%
plan_table(skip)

# %% [markdown]
# **Claim: a later token never runs a layer that an earlier one left out**, and on average over the schedule half of
# the layers run.

# %%
runs = (skip.decode & FFN) > 0  # [tokens, layers]
assert not (runs[1:] & ~runs[:-1]).any()
schedule = np.array([((skip.flags_at(PROMPT + t, PROMPT) & FFN) > 0).sum() for t in range(256)])
assert abs(schedule.mean() - model.layers / 2) < 0.01, schedule.mean()
int(schedule[0]), int(schedule[-1]), float(schedule.mean())

# %% [markdown]
# That order is what makes it work with a KV cache. A token that attends in a layer needs the keys of *all* tokens
# before it. **Claim: the other way round is refused**: if the first generated token left layer 16 and above
# alone, the second may not come back to them.

# %%
half = np.where(np.arange(model.layers) < 16, FULL, 0)
try:
    plan_of(model.layers, name="comes back", decode=np.stack([half, np.full(model.layers, FULL)]), monotone=False)
    refused = ""
except PlanError as error:
    refused = str(error)
assert "breaks KV-safety" in refused
refused

# %% [markdown]
# A cache that no later token reads is dead, and its pages go back to the pool while the request still runs.
# **Claim: SkipDecode ends with as many live caches as its last budget has layers.**

# %%
live = skip.live_caches  # caches still needed after t generated tokens
assert live[0] == model.layers
assert live[-1] == schedule[-1]
assert (np.diff(live) <= 0).all()
live[:: max(1, live.size // 16)].tolist()

# %% [markdown]
# ## SwiftKV: the prompt runs half of the layers
#
# Prompt tokens stop after layer 16; keys and values of all later layers are projected from the one stream that
# reaches it. The last token of the prompt runs everything, for its output is sampled. So does every generated token.

# %%
swift = strategy_named("swift_kv", model)
stepped(swift, [*first, PROMPT, PROMPT + 1])

# %% [markdown]
# **Claim: SwiftKV halves the prompt's blocks, saves nothing of a generated token's, and drops no keys.**

# %%
assert swift.prompt_skip == 0.5
assert swift.nominal_skip == 0.0
assert ((swift.prompt & KV) > 0).all()
swift.kv_input.tolist()  # the layer whose input stream the keys come from

# %% [markdown]
# With AcrossKV, groups of the later layers share one cache. **Claim: groups of four leave 16 + 16 / 4 = 20 of 32
# caches, so the same memory holds 1.6 times the tokens.**

# %%
across = strategy_named("swift_kv:group=4", model)
stepped(across, [*first, PROMPT])
assert across.caches.size == 16 + 16 // 4
assert model.layers / across.caches.size == 1.6

# %%
plan_table(across)

# %% [markdown]
# ## FFN skipping: which layers depends on the token
#
# A gate looks at how far a layer's FFN moved the stream; once it moved little, a run of following FFNs is left out.
# No table can hold that, so the plan is the dense one with a gate, and the gate has a skip *rate* per layer.

# %%
gated = strategy_named("ffn_skip:share=0.25", model)
pl.DataFrame({"layer": np.arange(model.layers), "tokens that skip its FFN": gated.gate.skip.round(3)}).filter(
    pl.col("tokens that skip its FFN") > 0
)

# %% [markdown]
# **Claim: a quarter of all FFNs goes, attention stays, and the outermost five layers at either end always run.**

# %%
assert abs(gated.gate.mean_skip - 0.25) < 0.01
assert (gated.decode == FULL).all()
assert not gated.gate.skip[:5].any()
assert not gated.gate.skip[-5:].any()

# %% [markdown]
# ## Together
#
# Two plans compose to what both of them run. **Claim: the order does not matter, and where SkipDecode skips a layer,
# so does the composition.**

# %%
both = strategy_named("swift_kv+skip_decode:speedup=2", model)
stepped(both, [*first, *range(PROMPT, PROMPT + 257, 64)])
assert both.digest == strategy_named("skip_decode:speedup=2+swift_kv", model).digest
for t in range(256):
    mine, theirs = both.flags_at(PROMPT + t, PROMPT), skip.flags_at(PROMPT + t, PROMPT)
    assert not (mine & FFN & ~theirs).any()

# %% [markdown]
# ## Neutral settings
#
# **Claim: a strategy turned down to nothing *is* the dense plan**, digest and all. So a comparison with dense measures
# the skipping and not the strategy's machinery.

# %%
for spec in ("skip_decode:speedup=1", "swift_kv:keep=32", "ffn_skip:share=0", "unified_skip:speedup=1"):
    assert strategy_named(spec, model).is_dense, spec

# %% [markdown]
# Next: what a step costs, in [02](02_what_a_step_costs.ipynb). Your own strategy: [07](07_your_own_strategy.ipynb).
