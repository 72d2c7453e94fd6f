"""What an engine adds to kernels and scheduler: fitted to measured servers, kept as data in `engines/<name>.json`.

A profile holds few physical parameters (host time per step and sequence, launches, the factors of its kernels, the
frontend), the scheduler's defaults of that version, how well the parameters are known, and how far predictions were
off on servers that the fit did not see.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.cost.deployment import Deployment, Frontend, Host
from sim.cost.hardware import Gpu
from sim.cost.scaled import Factors, Scaled
from sim.cost.times import KernelTimes, times_for
from sim.errors import InputError, UnknownName
from sim.serving.config import SchedulerConfig

FOLDER = Path(__file__).with_name("engines")
HOST = ("step_ms", "row_us", "graph_gap_us", "eager_launch_us", "request_ms", "request_gap_ms", "stream_token_us")
POOLED = "pooled"  # for an engine that nobody measured
FACTORS = tuple(one.name for one in fields(Factors))
PARAMETERS = (*HOST, *FACTORS)
UNKNOWN_SD = 0.3  # where nobody measured a server
ELSEWHERE = 1.5  # widening on a GPU that no measured server of the engine had
# Hosts of A100s are a CPU generation older: decode steps that wait for launches take 45 ms beside A100 (EPYC of 2019)
# and 29.5 ms beside H100 (Xeon of 2023) in splitwise's table, whatever the number of GPUs.
SLOWER_HOSTS = {"a100-40": 1.5, "a100-80": 1.5, "a100-pcie": 1.5}
TAIL = 1.5  # widening of a 90th or higher percentile


@dataclass(frozen=True)
class EngineProfile:
    """One engine (and version) as the simulator sees it.

    `parameters` are by name, in the unit of the name, factors without. `fitted` names those that data moved, and
    `covariance` is of their logarithms, [fitted, fitted]. `residual_sd` is by family of metrics (ttft, tpot, e2e,
    throughput) what no parameter explains, as a share: how far servers scatter around the fit.
    """

    name: str
    engine: str
    versions: tuple[str, ...]
    parameters: Mapping[str, float]
    fitted: tuple[str, ...]
    covariance: tuple[tuple[float, ...], ...]
    residual_sd: Mapping[str, float]
    scheduler: Mapping[str, Any]
    switches: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        unknown = set(self.parameters) - set(PARAMETERS)
        if unknown:
            raise UnknownName("engine parameter", min(unknown), PARAMETERS)
        missing = set(PARAMETERS) - set(self.parameters)
        if missing:
            raise InputError(f"engine profile {self.name!r}: parameter {min(missing)!r} is missing")

    @property
    def host(self) -> Host:
        """The host's side of a step."""
        p = self.parameters
        return Host(
            step_ns=round(p["step_ms"] * 1e6),
            row_ns=round(p["row_us"] * 1e3),
            overlap=bool(self.switches["overlap"]),
            graph_rows=int(self.switches["graph_rows"]),
            graph_gap_ns=round(p["graph_gap_us"] * 1e3),
            eager_launch_ns=round(p["eager_launch_us"] * 1e3),
            graph_prompts=bool(self.switches["graph_prompts"]),
        )

    @property
    def frontend(self) -> Frontend:
        """What stands between client and engine."""
        p = self.parameters
        return Frontend(
            request_ns=round(p["request_ms"] * 1e6),
            request_gap_ns=round(p["request_gap_ms"] * 1e6),
            stream_token_ns=round(p["stream_token_us"] * 1e3),
        )

    @property
    def factors(self) -> Factors:
        """How the engine's kernels compare with the measured ones."""
        return Factors(**{name: self.parameters[name] for name in FACTORS})

    def times(self, gpu: str, *, source: KernelTimes | None = None) -> KernelTimes:
        """Kernel times of the GPU under this engine's factors."""
        return self.scaled(source or times_for(gpu))

    def scaled(self, source: KernelTimes, moved: Mapping[str, float] | None = None) -> KernelTimes:
        """A source under this engine's factors, or under some that are already in it, moved by the given ratios."""
        if moved is None:
            return Scaled(source, self.factors, self.name)
        return Scaled(source, Factors(**{name: moved[name] for name in FACTORS}), self.name)

    def residual(self, figure: str, gpu: str) -> float:
        """How far a figure of a server scatters around the fit, as a standard deviation of its logarithm.

        Wider for a tail than for a mean, and for a GPU that no measured server of this engine had.
        """
        family = next((name for name in ("ttft", "tpot", "itl", "e2e") if figure.startswith(name)), "throughput")
        sd = self.residual_sd.get({"itl": "tpot"}.get(family, family), UNKNOWN_SD)
        tail = TAIL if re.search(r"_p9\d", figure) else 1.0
        return sd * tail * (1.0 if gpu in self.provenance.get("gpus", ()) else ELSEWHERE)

    def config(self, gpu: Gpu, **known: Any) -> SchedulerConfig:
        """The scheduler as this version configures itself on the GPU; `known` settings win."""
        small = gpu.memory_bytes < 70e9 or gpu.name.startswith("a100")
        chosen = {**self.scheduler, **(self.scheduler.get("small_gpu", {}) if small else {})}
        names = {one.name for one in fields(SchedulerConfig)}
        given = {k: v for k, v in {**chosen, **known}.items() if k in names}
        given["max_num_seqs"] = max(1, int(given["max_num_seqs"]) - int(self.scheduler.get("slots_kept", 0)))
        given["max_num_batched_tokens"] = max(int(given["max_num_batched_tokens"]), given["max_num_seqs"])
        return SchedulerConfig(**given)

    def on(self, deployment: Deployment) -> Deployment:
        """The deployment under this engine's host and frontend."""
        return replace(deployment, host=self.host_beside(deployment.gpu), frontend=self.frontend)

    def host_beside(self, gpu: Gpu) -> Host:
        """The host that comes with a GPU; as it is where the profile does not say that it is of a newer server."""
        by = SLOWER_HOSTS.get(gpu.name, 1.0) if self.provenance.get("host") == "h100" else 1.0
        own = self.host
        return replace(
            own,
            step_ns=round(by * own.step_ns),
            row_ns=round(by * own.row_ns),
            eager_launch_ns=round(by * own.eager_launch_ns),
        )

    def drawn(self, rng: np.random.Generator) -> "EngineProfile":
        """The profile with its fitted parameters drawn from how well they are known (log-normal)."""
        return self.at(rng.standard_normal(len(self.fitted)))

    def at(self, deviations: NDArray[np.float64]) -> "EngineProfile":
        """The profile whose fitted parameters lie so many standard deviations off, along their joint axes."""
        if not self.fitted:
            return self
        values, axes = np.linalg.eigh(np.array(self.covariance))
        moved = axes @ (np.sqrt(np.maximum(values, 0.0)) * deviations)
        drawn = {name: self.parameters[name] * float(np.exp(step)) for name, step in zip(self.fitted, moved)}
        return replace(self, parameters={**self.parameters, **drawn})


def profile_named(spec: str) -> EngineProfile:
    """The profile of "vllm-0.11", "sglang", "trtllm-1.0.0rc3".

    The version decides by its longest prefix ("0.11.0" fits "0.11"); an unknown version takes the engine's newest
    profile that is not newer, an unknown engine raises UnknownName. A path to a .json file is read.
    """
    if spec.endswith(".json"):
        return read_profile(Path(spec))
    wanted, version = _split(spec)
    known = profiles()
    ours = [profile for profile in known.values() if profile.engine == wanted]
    if not ours:
        raise UnknownName("engine", spec, sorted({p.engine for p in known.values()}))
    if version is None:
        return max(ours, key=lambda one: _order(one.versions[-1]))
    exact = [(len(v), one.name) for one in ours for v in one.versions if _fits(version, v)]
    if exact:
        return known[max(exact)[1]]
    older = [one for one in ours if _order(one.versions[0]) <= _order(version)]
    if older:
        return max(older, key=lambda one: _order(one.versions[-1]))
    return min(ours, key=lambda one: _order(one.versions[0]))


@cache
def profiles() -> Mapping[str, EngineProfile]:
    """Every profile that ships, by name."""
    return MappingProxyType({path.stem: read_profile(path) for path in sorted(FOLDER.glob("*.json"))})


def read_profile(path: Path) -> EngineProfile:
    """The profile in a file. Raises InputError naming the file where it is none."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return EngineProfile(
            name=path.stem,
            engine=str(facts["engine"]),
            versions=tuple(facts["versions"]),
            parameters={k: float(v) for k, v in facts["parameters"].items()},
            fitted=tuple(facts["fitted"]),
            covariance=tuple(tuple(float(x) for x in row) for row in facts["covariance"]),
            residual_sd={k: float(v) for k, v in facts["residual_sd"].items()},
            scheduler=dict(facts["scheduler"]),
            switches=dict(facts["switches"]),
            provenance=dict(facts["provenance"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as cause:
        if isinstance(cause, InputError):
            raise
        raise InputError(f"{path}: not an engine profile ({cause!r})") from cause


def _split(spec: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"([a-z][a-z-]*?)(?:-(\d[\w.]*))?", spec.strip().lower())
    if match is None:
        raise InputError(f"engine {spec!r}: write name-version, as in vllm-0.11")
    return match[1], match[2]


def _fits(version: str, prefix: str) -> bool:
    """Whether "0.11.0" is a "0.11", and "1.0.0rc3" a "1.0.0rc"."""
    return version == prefix or version.startswith(prefix if prefix.endswith("rc") else f"{prefix}.")


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", version)[:3])
