"""The waterfall adds up, starts and ends where it must, and its shares are those of a plain count."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.tables import PART_NAMES
from sim.plans.plan import ATTN, FFN, KV
from sim.plans.spec import strategy_named
from sim.study.loads import NamedLoad
from sim.study.profile import PHASES, Profile, met_shares, profile_of
from sim.study.service import Service, kernel_times
from sim.study.waterfall import waterfall
from tests.gen import models, plans

SPECS = ("dense", "skip_decode", "ffn_skip", "swift_kv", "swift_kv:group=4", "swift_kv+skip_decode", "self_speculative",
         "static_depth", "early_exit", "cross_layer_kv")  # fmt: skip


@pytest.fixture(scope="module")
def profiles(h200):
    load, times = NamedLoad("azure-conv", 400), kernel_times("h200", "auto")
    services = {spec: Service(load, h200, strategy_named(spec, h200.model)) for spec in SPECS}
    return {spec: profile_of(service.run(load.together()), times) for spec, service in services.items()}


def adds_up(steps):
    total = steps.filter(pl.col("kind") == "total")["value"].item()
    losses = steps.filter(pl.col("kind") == "loss")["value"].sum()
    return total + losses, steps.filter(pl.col("kind") == "result")["value"].item()


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("gain", [None, 0.8, 1.7])
def test_the_steps_add_up_to_the_result(profiles, spec, gain):
    steps = waterfall(profiles["dense"], profiles[spec], gain)
    summed, result = adds_up(steps)
    assert summed == pytest.approx(result, abs=1e-12)
    times = profiles[spec].total_s / profiles["dense"].total_s
    assert result == pytest.approx(1 - 1 / gain if gain else 1 - times, abs=1e-12)


def test_the_dense_model_gains_and_loses_nothing(profiles):
    assert waterfall(profiles["dense"], profiles["dense"], 1.0)["value"].abs().max() < 1e-12


def test_the_start_is_the_nominal_skip_of_the_phase_it_acts_on(profiles, h200):
    for spec, phase in (("swift_kv", "prompt_skip"), ("skip_decode", "nominal_skip"), ("ffn_skip", "nominal_skip")):
        start = waterfall(profiles["dense"], profiles[spec])["value"][0]
        assert start == pytest.approx(getattr(strategy_named(spec, h200.model), phase))


def test_a_profile_splits_all_of_the_time_between_the_phases(profiles):
    for profile in profiles.values():
        for part in PART_NAMES:
            split = sum(profile.by_phase[p][part] for p in PHASES)
            assert split == pytest.approx(profile.seconds[part], abs=1e-9)
        assert profile.by_phase["prompt"]["kv"] == 0
        assert 0 <= profile.head_s <= profile.seconds["weights"]


def test_a_single_gpu_has_no_step_for_what_it_does_not_do(profiles):
    labels = waterfall(profiles["dense"], profiles["swift_kv"])["label"].to_list()
    assert "host work per step" in labels
    assert not any("all-reduce" in label for label in labels)


@given(st.data())
def test_met_shares_are_a_plain_count_over_every_token(data):
    model = data.draw(models())
    plan = data.draw(plans(model))
    n = data.draw(st.integers(1, 6))
    prompt = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)))
    output = np.array(data.draw(st.lists(st.integers(1, 30), min_size=n, max_size=n)))

    def work(flags, kept=1.0):
        ffn = (((flags & FFN) > 0) * kept).sum() * model.p_ffn
        return ((flags & ATTN) > 0).sum() * model.p_qo + ((flags & KV) > 0).sum() * model.p_kv + ffn

    full = model.layers * model.p_layer
    prompts = sum((p - 1) * work(plan.prompt) + work(plan.sampled) for p in prompt)
    decode = 0.0
    for length in output:
        for t in range(length - 1):
            awake = plan.gate is not None and t >= plan.gate.warmup_tokens
            decode += work(plan.decode[min(t, len(plan.decode) - 1)], 1 - plan.gate.skip if awake else 1.0)
    met = met_shares(plan, model, prompt, output)
    assert met["prompt"] == pytest.approx(1 - prompts / (full * prompt.sum()), abs=1e-9)
    fed = (output - 1).sum()
    assert met["decode"] == pytest.approx(1 - decode / (full * fed) if fed else 0.0, abs=1e-9)


shares = st.floats(0, 1)
seconds = st.dictionaries(st.sampled_from(PART_NAMES), st.floats(0.01, 100), min_size=len(PART_NAMES))


@given(seconds, seconds, st.lists(shares, min_size=7, max_size=7), st.floats(0.2, 5))
def test_any_two_profiles_add_up(dense_s, plan_s, numbers, gain):
    """Whatever the runs were: the steps telescope."""
    by_phase = {
        "prompt": {p: s * numbers[0] for p, s in dense_s.items()},
        "decode": {p: s * (1 - numbers[0]) for p, s in dense_s.items()},
    }
    pairs = [dict(zip(PHASES, numbers[i : i + 2])) for i in (1, 3, 5)]
    nothing = dict.fromkeys(PHASES, 0.0)
    dense = Profile("dense", dense_s, by_phase, dense_s["weights"] / 2, nothing, nothing, nothing)
    plan = Profile("plan", plan_s, by_phase, 0.0, *pairs)
    summed, result = adds_up(waterfall(dense, plan, gain))
    assert summed == pytest.approx(result, abs=1e-9)
    assert result == pytest.approx(1 - 1 / gain, abs=1e-9)
