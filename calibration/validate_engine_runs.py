"""The simulator's half of a validation: every recorded run again, with an interval of what it may really be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from calibration.engine_runs import gpu_of, simulation_of
from calibration.setting import Setting, shape_of
from calibration.validate_engine_rows import Compared, figures
from sim.cost.measured import Measured
from sim.cost.profiles import EngineProfile, read_profile
from sim.errors import InputError
from sim.run.simulate import Simulation
from sim.run.uncertainty import interval, variations
from sim.workload.workload import Workload

OWN = ("kernels", "parameters")  # sources of error; the requests are the same, so sampling is none


def simulators_of(coefficients: Path, profile: str) -> tuple[Measured, EngineProfile]:
    """Kernels and profile of the engine. Raises InputError where a file is something else."""
    engine = read_profile(Path(profile))
    blank = gpu_of("cpu", 1.0, 1.0)
    facts = Measured.read(coefficients, gpu=blank).provenance
    try:
        device, ceilings = str(facts["device"]), facts["ceilings"]
        gpu = gpu_of(device, ceilings["copy_bytes_per_s"], ceilings["flops_per_s"])  # type: ignore[index]
    except (KeyError, TypeError) as cause:
        raise InputError(f"{coefficients}: does not say what it was measured on ({cause!r}); use fit's file") from cause
    return Measured.read(coefficients, gpu=gpu), engine


def compare(done: Mapping[str, Any], times: Measured, profile: EngineProfile, *, draws: int) -> list[Compared]:
    """A row per plan, share and figure. Raises InputError where record and coefficients are of different machines."""
    here, there = str(done["head"]["device"]), str(times.provenance["device"])
    if here != there:
        raise InputError(f"the engine ran on {here}, the kernels were measured on {there}; measure there too")
    shape = shape_of(done["head"])
    rows = []
    for run in done["runs"]:
        setting = Setting(**run["setting"])
        columns = {name: np.array(run[name]) for name in ("arrival_ns", "prompt_tokens", "output_tokens")}
        work = Workload(columns["arrival_ns"], columns["prompt_tokens"], columns["output_tokens"], name="recorded")
        one = simulation_of(setting, shape, times.gpu, work, profile.scaled(times), profile.host)
        rows += _compared(run, columns, one, profile, draws=draws)
    return rows


def _compared(
    run: Mapping[str, Any], columns: Mapping[str, Any], one: Simulation, profile: EngineProfile, *, draws: int
) -> list[Compared]:
    arrival, outputs = columns["arrival_ns"], columns["output_tokens"]
    took = [figures(arrival, np.array(t["first_ns"]), np.array(t["last_ns"]), outputs) for t in run["times"]]
    centre = _simulated(one)
    drawn: dict[str, list[dict[str, float]]] = {source: [] for source in OWN}
    for variation in variations(one, profile, draws=draws):
        if variation.source in OWN:
            drawn[variation.source].append(_simulated(variation.simulation))
    rows = []
    for name, value in centre.items():
        seen = [t[name] for t in took if name in t]
        if not seen:
            continue
        scatter = profile.residual(name, one.deployment.gpu.name)
        told = interval(value, {source: [d[name] for d in drawn[source]] for source in OWN}, scatter)
        rows.append(
            Compared(
                str(run["setting"]["plan"]), float(run["share"]), name,
                float(np.median(seen)), min(seen), max(seen), value, told.low, told.high,
            )
        )  # fmt: skip
    return rows


def _simulated(one: Simulation) -> dict[str, float]:
    state = one.run().state
    work = one.workload
    return figures(work.arrival_ns, state.first_token_ns, state.last_token_ns, work.output_tokens)
