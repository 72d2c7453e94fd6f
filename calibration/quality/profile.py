"""A model's own profile: similarities by layer and position, the gates they allow, and what batches agree on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.quality.examine import PLACES
from calibration.quality.joint import joint_rates
from calibration.quality.similarity import Watched, fit_gate, watch
from calibration.quality.suite import SHARES, gate_plan
from calibration.quality.tasks.item import Item
from engine.adapt_model import Twin
from sim.errors import PlanError


def profile_of(twin: Twin, items: Sequence[Item], *, seed: int) -> dict[str, Any]:
    """The profile over a calibration set, ready for JSON; lists by layer are L long.

    `ffn_similarity` is cos(stream before, after the FFN), `block_similarity` the same over the whole layer (one minus
    it is ShortGPT's block influence, arXiv 2403.03853). Each gate has its rates as rows of the plan met them, and the
    joint statistics of batches.
    """
    seen = watch(twin, items)
    return {
        "layers": twin.shape.layers,
        "tokens": len(seen.place),
        "items": len(items),
        "ffn_similarity": _rows(seen.ffn.mean(axis=0)),
        "ffn_similarity_std": _rows(seen.ffn.std(axis=0)),
        "block_similarity": _rows(seen.block.mean(axis=0)),
        "by_position": _by_position(seen, seen.ffn),
        "by_task": _by_task(seen, items),
        "gates": [_gate(twin, items, seen, share, seed) for share in SHARES],
    }


def _gate(twin: Twin, items: Sequence[Item], seen: Watched, share: float, seed: int) -> dict[str, Any]:
    try:
        fit = fit_gate(seen, share)
    except PlanError as error:
        return {"target": share, "why_not": str(error)}
    plan = gate_plan(twin.shape, seen, share)
    met = watch(twin, items, plan)
    after = met.place >= fit.warmup_tokens
    starts = met.skipped[after].argmax(axis=1)[met.skipped[after].any(axis=1)]
    return {
        "target": share,
        "threshold": fit.threshold,
        "run_length": fit.run_length,
        "cold_layers": fit.cold_layers,
        "cadence": fit.cadence,
        "warmup_tokens": fit.warmup_tokens,
        "digest": plan.digest,
        "replayed_share": round(fit.share, 5),
        "share": round(float(met.skipped[after].mean()), 5),
        "skip": _rows(met.skipped[after].mean(axis=0)),
        "start_layers": np.bincount(starts, minlength=twin.shape.layers).tolist(),
        "by_position": _by_position(met, met.skipped),
        "joint": joint_rates(met, warmup_tokens=fit.warmup_tokens, seed=seed),
    }


def _rows(values: Any) -> list[float]:
    return [round(float(v), 5) for v in values]


def _by_position(seen: Watched, values: Any) -> dict[str, list[float]]:
    """Means by layer of generated tokens at a position (0: the first that is fed back)."""
    out = {}
    for low, high in PLACES:
        there = (seen.place >= low) & (seen.place < high)
        if there.any():
            name = f"{low}" if high == low + 1 else f"{low}-{high - 1}" if high < 10**9 else f"{low}+"
            out[name] = _rows(values[there].mean(axis=0))
    return out


def _by_task(seen: Watched, items: Sequence[Item]) -> dict[str, list[float]]:
    task = np.array([item.task for item in items])[seen.item]
    return {name: _rows(seen.ffn[task == name].mean(axis=0)) for name in dict.fromkeys(task.tolist())}


def write_profile(file: Path, profile: dict[str, Any]) -> None:
    """Write it as JSON, one gate per line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = [f' "{k}": {json.dumps(v, ensure_ascii=False)}' for k, v in profile.items() if k != "gates"]
    gates = ",\n".join("  " + json.dumps(g) for g in profile["gates"])
    file.write_text("{\n" + ",\n".join(parts) + f',\n "gates": [\n{gates}\n ]\n}}\n', encoding="utf-8")
