"""A gate whose rates somebody measured: `python -m calibration quality profile` writes the file, pricing reads it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.errors import InputError, PlanError
from sim.plans.rules import FfnGate, Together


def measured_gate(file: str, layers: int, share: float, *, aged: bool) -> FfnGate:
    """The gate of a profile that leaves out `share`, for a model of `layers` layers.

    With it come the shares of steps in which all of B rows skipped a layer's FFN at once: rows of any age, as in
    continuous batching, or of one age (`aged`). Of another depth, layers are taken at the same relative height and the
    run is scaled; the source then says so. Raises InputError for what is no profile, PlanError for a share that it has
    no gate for.
    """
    path = Path(file)
    try:
        data = dict(json.loads(path.read_text(encoding="utf-8")))
        gates = {float(g["target"]): g for g in data["gates"] if "skip" in g}
        if share not in gates:
            raise PlanError(f"ffn_skip: {file} has gates for share={', '.join(map(str, gates))}, not {share}")
        return _gate(gates[share], str(data["model"]), layers, "aged" if aged else "mixed")
    except PlanError:
        raise
    except OSError as cause:
        raise InputError(f"ffn_skip: profile={file} cannot be read ({cause.strerror or cause})") from cause
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as cause:
        raise InputError(f"ffn_skip: profile={file} is no profile ({type(cause).__name__}: {cause})") from cause


def _gate(gate: Mapping[str, Any], model: str, layers: int, batch: str) -> FfnGate:
    skip = np.array(gate["skip"], dtype=np.float64)
    rates = _at_height(skip, layers)
    scale = layers / skip.size
    joints = [joint for joint in gate["joint"] if int(joint["rows"]) > 1]
    rows = [int(joint["rows"]) for joint in joints]
    together = [_at_height(np.array(joint[batch], dtype=np.float64), layers) for joint in joints]
    return FfnGate(
        float(gate["threshold"]),
        round(scale * int(gate["cold_layers"])),
        max(1, round(scale * int(gate["run_length"]))),
        int(gate["cadence"]),
        int(gate["warmup_tokens"]),
        rates,
        "measured" if scale == 1 else f"measured on the {skip.size} layers of {model} and stretched",
        Together(np.array([1, *rows]), np.array([rates, *together])),
    )


def _at_height(by_layer: NDArray[np.float64], layers: int) -> NDArray[np.float64]:
    if by_layer.ndim != 1 or not by_layer.size:
        raise ValueError("rates have to be lists by layer")
    return np.interp(np.linspace(0, 1, layers), np.linspace(0, 1, by_layer.size), by_layer)
