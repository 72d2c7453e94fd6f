"""INV-42. The engine that serves: its profile fills in what is not stated; what is stated wins and is known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cost.deployment import Deployment, Host
from sim.cost.hardware import GPUS, gpu_named
from sim.cost.profiles import FOLDER, profile_named, profiles
from sim.errors import InputError, UnknownName
from sim.plans.catalogue import model_named
from sim.plans.spec import strategy_named
from sim.study import cli
from sim.study.engines import IN_NS, on_engine, scheduler_under, stated
from sim.study.loads import NamedLoad
from sim.study.service import Service, kernel_times
from sim.study.settings import deployment_of, engine_of, scheduler_of
from sim.study.study import Study

ENGINES = st.sampled_from(sorted(profiles()))
FITTED = profile_named("vllm-0.11")


def parsed(*argv):
    return cli.parser().parse_args(["simulate", *argv])


def known(names, sd=0.1):
    """The fitted profile with a covariance in which parameters hang together."""
    joint = sd**2 * (0.5 * np.eye(len(names)) + 0.5)
    return replace(FITTED, fitted=tuple(names), covariance=tuple(map(tuple, joint.tolist())))


@given(ENGINES, st.sampled_from(sorted(GPUS)), st.sets(st.sampled_from(sorted(IN_NS))), st.integers(0, 10**8))
def test_what_is_stated_wins_and_the_rest_is_the_engines(engine, gpu, names, value):
    """Beside every GPU, also beside those whose hosts a profile takes to be slower."""
    profile, bare = profile_named(engine), Deployment(model_named("opt-125m"), gpu_named(gpu))
    on = stated(profile, bare, dict.fromkeys(names, value), {})
    ours, usual = on.on(bare), profile.on(bare)
    for side in ("host", "frontend"):
        mine, base = vars(getattr(ours, side)), vars(getattr(usual, side))
        assert mine == {name: value if name in names else base[name] for name in base}
    assert on.factors == profile.factors


@given(st.sets(st.sampled_from(sorted(IN_NS))), st.integers(0, 999))
def test_what_is_stated_is_known(names, seed):
    """No draw of the parameters moves it; what is not stated stays as uncertain as it was."""
    profile = known(("step_ms", "row_us", "request_ms", "weights"))
    bare = Deployment(model_named("opt-125m"), gpu_named("h100"))
    on = stated(profile, bare, dict.fromkeys(names, 777_000), {})
    assert not set(on.fitted) & {IN_NS[name][0] for name in names}
    assert np.allclose(np.array(on.covariance), 0.01 * (0.5 * np.eye(len(on.fitted)) + 0.5))
    drawn = on.drawn(np.random.default_rng(seed))
    assert all(drawn.parameters[IN_NS[name][0]] == on.parameters[IN_NS[name][0]] for name in names)
    assert drawn.parameters["weights"] != on.parameters["weights"]


@given(ENGINES, st.integers(1, 5000), st.integers(1, 20000))
def test_given_limits_of_a_step_win_and_the_other_makes_room(engine, seqs, tokens):
    profile, gpu = profile_named(engine), gpu_named("h100")
    few = scheduler_under(profile, gpu, {"max_num_batched_tokens": tokens})
    assert few.max_num_batched_tokens == tokens
    assert few.max_num_seqs == min(tokens, profile.config(gpu).max_num_seqs)
    many = scheduler_under(profile, gpu, {"max_num_seqs": seqs})
    assert many.max_num_seqs == seqs
    assert many.max_num_batched_tokens == max(seqs, profile.config(gpu).max_num_batched_tokens)
    assert scheduler_under(profile, gpu, {}) == profile.config(gpu)
    if seqs > tokens:
        with pytest.raises(InputError, match="below max_num_seqs"):
            scheduler_under(profile, gpu, {"max_num_seqs": seqs, "max_num_batched_tokens": tokens})


@pytest.mark.parametrize("engine", ["vllm-0.11", "vllm-0.6.3", "sglang", "trtllm-1.0.0rc3", "vllm"])
def test_options_not_given_are_the_engines(engine):
    args = parsed("--engine", engine, "--gpu", "h100")
    profile = profile_named(engine)
    on = deployment_of(args)
    assert (on.host, on.frontend) == (profile.host, profile.frontend)
    assert scheduler_of(args) == profile.config(gpu_named("h100"))


def test_options_that_are_given_win():
    args = parsed(
        "--engine", "vllm-0.6", "--host-step-ns", "5", "--host-graph-rows", "9", "--host-overlap",
        "--no-host-eager-prompts", "--frontend-request-ns", "6", "--policy", "static", "--block-tokens", "32",
        "--no-prefix-caching", "--long-prefill-token-threshold", "64", "--max-num-seqs", "3",
    )  # fmt: skip
    on, config = deployment_of(args), scheduler_of(args)
    assert on.host == replace(profile_named("vllm-0.6").host, step_ns=5, graph_rows=9, overlap=True, graph_prompts=True)
    assert on.frontend.request_ns == 6
    assert (config.policy, config.block_tokens, config.prefix_caching) == ("static", 32, False)
    assert (config.long_prefill_token_threshold, config.max_num_seqs) == (64, 3)
    assert "step_ms" not in engine_of(args).fitted


def test_a_profile_file_is_an_engine(tmp_path, capsys):
    facts = json.loads((FOLDER / "vllm-0.10.json").read_text())
    facts["parameters"]["step_ms"] = 7.5
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(facts))
    assert deployment_of(parsed("--engine", str(path))).host.step_ns == 7_500_000
    argv = ["simulate", "--requests", "60", "--qps", "3", "--json", "--engine"]
    answers = []
    for engine in (str(path), "vllm-0.10"):
        assert cli.main([*argv, engine]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    slow, usual = (answer["tpot_ms"]["p50"] for answer in answers)
    assert slow > usual + 5
    assert [answer["engine"] for answer in answers] == ["mine", "vllm-0.10"]


def test_the_engines_factors_scale_the_kernels(h200):
    plan = strategy_named("dense", h200.model)
    load = NamedLoad("azure-conv", 60)
    bare = Service(load, h200, plan)
    slow = replace(FITTED, parameters={**FITTED.parameters, "weights": 2.0, "compute": 2.0})
    assert bare.times is kernel_times("h200", "auto")
    both = [replace(bare, engine=engine).at(1.0).summary()["tpot_ms"]["p50"] for engine in (None, slow)]
    assert both[1] > 1.5 * both[0]


def test_a_deployment_that_brings_its_own_host_says_so(h200):
    own = replace(h200, host=Host(step_ns=1))
    assert on_engine(own, None) is own
    with pytest.raises(InputError, match="host or frontend of its own"):
        on_engine(own, FITTED)
    assert on_engine(on_engine(h200, FITTED), FITTED) == FITTED.on(h200)


def test_a_study_runs_on_its_engine(h200):
    study = Study(deployment=h200, engine="sglang", strategies=("swift_kv",))
    sglang = profile_named("sglang")
    for service in study.services:
        assert service.engine is sglang
        assert service.deployment == sglang.on(h200)
        assert service.config == sglang.config(h200.gpu)
    bare = Study(deployment=h200, engine=None).services[0]
    assert (bare.deployment, bare.engine) == (h200, None)
    with pytest.raises(UnknownName, match="engine"):
        _ = Study(deployment=h200, engine="vlm").services
