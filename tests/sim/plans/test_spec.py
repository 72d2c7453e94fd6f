"""Specs: what users write, and what plans are called."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.errors import ElideError, InputError, PlanError, UnknownName
from sim.plans.catalogue import MODELS, model_named
from sim.plans.model import ModelShape
from sim.plans.spec import arguments_of, strategy_named
from sim.plans.strategies import STRATEGIES, compose, ffn_skip, skip_decode, swift_kv
from tests.gen import composed_plans, models, strategy_plans


@given(st.data(), models())
def test_a_plan_is_called_what_makes_it(data: st.DataObject, model: ModelShape) -> None:
    plan = data.draw(strategy_plans(model) | composed_plans(model))
    again = strategy_named(plan.name, model)
    assert (again.name, again.digest) == (plan.name, plan.digest)


def test_short_names_mean_the_papers_headlines() -> None:
    model = model_named("llama-3.1-8b")
    assert strategy_named("skip_decode", model).digest == skip_decode(model, speedup=2).digest
    assert strategy_named("ffn_skip", model).digest == ffn_skip(model, share=0.25).digest
    assert strategy_named("swift_kv", model).digest == swift_kv(model, keep=16, group=1).digest
    assert strategy_named("none", model).is_dense
    assert strategy_named("dense", model).is_dense


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (" Swift-KV : Keep = 16 , group=4 ", "swift_kv:keep=16,group=4"),
        ("skip_decode:speedup=2.0", "skip_decode:speedup=2"),
        ("skip-decode:warmup-layers=1,min_budget=4", "skip_decode:min_budget=4"),
        ("none+swift_kv", "swift_kv:keep=16"),
        ("swift_kv:group=4.0+skip_decode:speedup=2", "swift_kv:keep=16,group=4+skip_decode:speedup=2"),
        ("static_depth:drop=21/20", "static_depth:drop=20/21"),
        ("early_exit:kv_fill=true", "early_exit:at=16,kv_fill=1"),
        ("early_exit:at=8,kv_fill=0", "early_exit:at=8"),
    ],
)
def test_specs_have_a_normal_form(spec: str, name: str) -> None:
    assert strategy_named(spec, model_named("llama-3.1-8b")).name == name


def test_a_sum_is_a_composition() -> None:
    model = model_named("llama-3.1-8b")
    spec = "swift_kv:group=4+skip_decode:speedup=3"
    assert strategy_named(spec, model).digest == compose(swift_kv(model, group=4), skip_decode(model, speedup=3)).digest


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("swift_kb", UnknownName, "unknown strategy 'swift_kb': did you mean 'swift_kv'"),
        ("", UnknownName, "unknown strategy ''"),
        ("swift_kv+", UnknownName, "unknown strategy ''"),
        ("swift_kv:kep=3", InputError, "unknown argument 'kep': did you mean 'keep'.*swift_kv takes keep, group"),
        ("ffn_skip:skip=3", InputError, "unknown argument 'skip'"),
        ("dense:keep=3", InputError, "dense takes no arguments"),
        ("swift_kv:keep", InputError, "'keep' is not key=value"),
        ("swift_kv:keep=", InputError, "keep= is not a whole number"),
        ("swift_kv:keep=many", InputError, "keep=many is not a whole number"),
        ("swift_kv:keep=3.5", InputError, "keep=3.5 is not a whole number"),
        ("swift_kv:keep=nan", InputError, "keep=nan is not a whole number"),
        ("swift_kv:keep=inf", InputError, "keep=inf is not a whole number"),
        ("swift_kv:keep=3,keep=4", InputError, "keep is given twice"),
        ("skip_decode:speedup=fast", InputError, "speedup=fast is not a number"),
        ("early_exit:kv_fill=yes", InputError, "kv_fill=yes is not true or false"),
        ("early_exit:kv_fill=2", InputError, "kv_fill=2 is not true or false"),
        ("static_depth:drop=3/x", InputError, "drop=3/x is not a whole number"),
        ("skip_decode:speedup=nan", PlanError, "speedup=nan must be a number in 1..16"),
        ("skip_decode:speedup=0.5", PlanError, "speedup=0.5 must be a number in 1..16"),
        ("skip_decode:speedup=17", PlanError, "speedup=17.0 must be a number in 1..16"),
        ("skip_decode:speedup=2,max_budget=9", PlanError, "already decides the budgets"),
        ("skip_decode:max_budget=33", PlanError, r"max_budget=33 must be a whole number in 2\.\.32"),
        ("skip_decode:max_budget=9,min_budget=10", PlanError, r"min_budget=10 must be a whole number in 2\.\.9"),
        ("skip_decode:warmup_layers=32", PlanError, r"warmup_layers=32 must be a whole number in 0\.\.31"),
        ("skip_decode:schedule_tokens=1", PlanError, "schedule_tokens=1 must be a whole number"),
        ("swift_kv:keep=0", PlanError, r"keep=0 must be a whole number in 1\.\.32"),
        ("swift_kv:keep=33", PlanError, r"keep=33 must be a whole number in 1\.\.32"),
        ("swift_kv:group=3", PlanError, "group=3 must divide the 16 layers above keep=16"),
        ("swift_kv:group=0", PlanError, "group=0 must be a whole number"),
        ("cross_layer_kv:group=5", PlanError, "group=5 must divide the 32 layers of llama-3.1-8b"),
        ("unified_skip:speedup=17", PlanError, "speedup=17.0 must be a number in 1..16"),
        ("static_depth:drop=31", PlanError, r"drop=31 must be a whole number in 0\.\.30"),
        ("static_depth:drop=3/32", PlanError, r"drop=32 must be a whole number in 0\.\.31"),
        ("early_exit:at=0", PlanError, r"at=0 must be a whole number in 1\.\.32"),
        ("self_speculative:exit_layer=32", PlanError, r"exit_layer=32 must be a whole number in 1\.\.31"),
        ("self_speculative:acceptance=1.5", PlanError, r"acceptance=1.5 must be a number in 0\.\.1"),
        ("self_speculative:tokens=0", PlanError, "tokens=0 must be a whole number"),
        ("ffn_skip:share=0.9", PlanError, "share=0.9 is out of reach on llama-3.1-8b at any threshold.*at most 0.573"),
    ],
)
def test_bad_specs_get_one_clear_line(spec: str, error: type[ElideError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        strategy_named(spec, model_named("llama-3.1-8b"))
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="swift_kv:=,+-keg0123456789./ ndo", max_size=40), st.sampled_from(sorted(MODELS)))
def test_no_text_gets_a_traceback(spec: str, name: str) -> None:
    with suppress(ElideError):
        assert strategy_named(spec, MODELS[name]).layers == MODELS[name].layers


def test_too_shallow_a_model_is_said_to_be() -> None:
    tiny = ModelShape("tiny", "llama", 1, 8, 1, 1, 8, 8, 8, 8, gated_ffn=True, tied_embeddings=False)
    with pytest.raises(PlanError, match="the model is too shallow for this strategy"):
        strategy_named("self_speculative", tiny)
    with pytest.raises(PlanError, match=r"warmup_layers=1 must be a whole number in 0\.\.0"):
        strategy_named("skip_decode", tiny)


def test_the_catalogue_of_strategies_is_complete() -> None:
    assert set(STRATEGIES) == {
        "dense",
        "skip_decode",
        "ffn_skip",
        "swift_kv",
        "unified_skip",
        "static_depth",
        "early_exit",
        "self_speculative",
        "cross_layer_kv",
    }
    for strategy in STRATEGIES.values():
        assert "arXiv" in (strategy.__doc__ or "") or strategy.__name__ == "dense"
        assert strategy.__name__ == "dense" or arguments_of(strategy)
