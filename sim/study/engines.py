"""The engine that serves: a fitted profile, over which what a person states about host, frontend and scheduler wins.

What is stated is known: it leaves the fitted parameters, so it does not widen intervals either.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sim.cost.deployment import Deployment, Frontend, Host
from sim.cost.hardware import Gpu
from sim.cost.profiles import ELSEWHERE, HOST, POOLED, EngineProfile, profile_named
from sim.errors import InputError
from sim.serving.config import SchedulerConfig

DEFAULT_ENGINE = "vllm-0.11"  # the newest vLLM whose servers were measured; a generic host would have no error known
UNITS = {"ms": 1e6, "us": 1e3}  # nanoseconds
# what a person states in nanoseconds, by name: the profile's parameter and its unit
IN_NS = {f"{name[:-3]}_ns": (name, UNITS[name[-2:]]) for name in HOST}


def stated(
    profile: EngineProfile, bare: Deployment, ns: Mapping[str, int], switches: Mapping[str, object]
) -> EngineProfile:
    """The profile with the parameters of IN_NS and the switches that are stated, for a deployment like `bare`.

    A profile may know that hosts beside some GPUs are slower; what is stated is of the host as it is, so the profile
    becomes one of the hosts beside this GPU.
    """
    parameters: dict[str, float] = {}
    if ns:
        served = profile.on(bare)
        beside = {**vars(served.host), **vars(served.frontend), **ns}
        parameters = {parameter: beside[name] / unit for name, (parameter, unit) in IN_NS.items()}
        profile = replace(profile, provenance={k: v for k, v in profile.provenance.items() if k != "host"})
    known = {IN_NS[name][0] for name in ns}
    kept = [i for i, name in enumerate(profile.fitted) if name not in known]
    covariance = tuple(tuple(profile.covariance[i][j] for j in kept) for i in kept)
    return replace(
        profile,
        parameters={**profile.parameters, **parameters},
        switches={**profile.switches, **switches},
        fitted=tuple(profile.fitted[i] for i in kept),
        covariance=covariance,
    )


def scheduler_under(profile: EngineProfile, gpu: Gpu, given: Mapping[str, Any]) -> SchedulerConfig:
    """The engine's scheduler on a GPU with the settings that are given.

    Of the two limits of a step, sequences and tokens, the one that is not given makes room for the one that is.
    Raises InputError for settings that are none.
    """
    base, chosen = profile.config(gpu), dict(given)
    if "max_num_seqs" not in chosen and "max_num_batched_tokens" in chosen:
        chosen["max_num_seqs"] = max(1, min(base.max_num_seqs, chosen["max_num_batched_tokens"]))
    if "max_num_batched_tokens" not in chosen and "max_num_seqs" in chosen:
        chosen["max_num_batched_tokens"] = max(base.max_num_batched_tokens, chosen["max_num_seqs"])
    return replace(base, **chosen)


def on_engine(deployment: Deployment, profile: EngineProfile | None) -> Deployment:
    """The deployment with the engine's host and frontend; as it is without an engine.

    Raises InputError where it brings a host or frontend of its own: which of the two is meant?
    """
    if profile is None:
        return deployment
    served = profile.on(deployment)
    own = (deployment.host, deployment.frontend)
    if own not in ((Host(), Frontend()), (served.host, served.frontend)):
        raise InputError(
            f"the deployment has a host or frontend of its own, and so has engine {profile.name}; give engine=None, or"
            " the engine with these parameters stated (sim.study.engines.stated)"
        )
    return served


def caveat(profile: EngineProfile | None, gpu: str) -> str:
    """What to know of an engine before believing figures on that GPU; empty where servers on it were measured."""
    if profile is None:
        return "no engine is named: kernels as they were measured, a typical host, and the errors of an unknown engine"
    gpus = profile.provenance.get("gpus") or ()
    if not gpus:
        like = profile.provenance.get("like")
        source = f"those of {like}" if like else "expectations"
        return f"no server of {profile.name} was measured: its parameters are {source}, and intervals are wide"
    if gpu in gpus:
        return ""
    servers = f"{profile.name} was fitted to servers on {', '.join(gpus)}"
    return f"{servers}; on {gpu}, servers are taken to scatter {ELSEWHERE:g} times as widely around it"


def profile_of(engine: EngineProfile | str | None) -> EngineProfile | None:
    """The profile that is meant: by itself, by name or file, or none. Raises UnknownName, InputError."""
    return profile_named(engine) if isinstance(engine, str) else engine


def unmeasured() -> EngineProfile:
    """The profile that says how far off an engine may be that nobody measured."""
    return profile_named(POOLED)
