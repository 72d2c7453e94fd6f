"""DistServe's profiles: fitted step times of OPT models on A100-80G, by model and TP, for two engines.

    prefill     = a + b·Σ tokens + c·Σ tokens²                (milliseconds, one batch)
    decode step = a + b·Σ context tokens + c·batch             (one set below, one above a batch size threshold)

(simdistserve/estimators/time_estimator.py.) These are values of a fit, not measurements: each Point evaluates it where
the published table does, and says so. The file's name carries GPU and engine: profiler-a100-80g.vllm.json.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from calibration.importers.names import gpu_or_none, model_or_none
from calibration.importers.reading import Record, read_records
from calibration.points import Load, Point
from sim.errors import InputError

PROMPTS = (256, 512, 1024)
BATCHES = (1, 32, 128)
CONTEXT = 512
_NAME = re.compile(r"profiler-(.+?)g?\.(\w+)\.json")


def read_distserve(path: Path) -> list[Point]:
    """Per model and TP: prefill of one prompt at 256, 512, 1024 tokens, and a decode step at batch 1, 32, 128."""
    match = _NAME.fullmatch(path.name)
    gpu, engine = (gpu_or_none(match[1]), match[2]) if match else (None, None)
    (document,) = read_records(path)
    points = []
    for model, by_tp in document.data.items():
        if not isinstance(by_tp, Mapping):
            raise InputError(f"{path}: {model!r} holds no fits by tensor parallelism")
        for tp in by_tp:
            fit = Record(by_tp[tp], f"{path}: {model}, TP {tp}")
            points += _points(fit, model, int(tp), gpu, engine)
    return points


def prefill_ms(fit: Record, prompts: tuple[int, ...]) -> float:
    """Milliseconds of the prefill of one batch of prompts."""
    a, b, c = _three(fit, "prefill")
    return a + b * sum(prompts) + c * sum(tokens**2 for tokens in prompts)


def decode_step_ms(fit: Record, batch: int, context: int) -> float:
    """Milliseconds of one decode step of `batch` sequences of `context` tokens each."""
    large = batch >= fit.number("decoding_large_small_bs_threshold")
    a, b, c = _three(fit, "decoding_largebs" if large else "decoding_smallbs")
    return a + b * batch * context + c * batch


def _points(fit: Record, model: str, tp: int, gpu: str | None, engine: str | None) -> list[Point]:
    settings: list[tuple[dict[str, float], int, int, int]] = [
        ({"prefill_mean_ms": prefill_ms(fit, (tokens,))}, 1, tokens, 0) for tokens in PROMPTS
    ]
    settings += [({"decode_step_mean_ms": decode_step_ms(fit, b, CONTEXT)}, b, CONTEXT, 1) for b in BATCHES]
    return [
        Point(
            source=fit.where,
            measured=measured,
            load=Load("static_batch", batch),
            gpu=gpu,
            n_gpus=tp,
            tp=tp,
            model=model_or_none(model),
            model_label=model,
            weights_dtype="bf16",
            kv_dtype="bf16",
            engine=engine,
            engine_version="2024-01",
            isl=isl,
            osl=osl,
            notes=("value of a published fit, not a measurement",),
        )
        for measured, batch, isl, osl in settings
    ]


def _three(fit: Record, key: str) -> tuple[float, float, float]:
    value = fit.get(key)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
        raise InputError(f"{fit.where}: field {key!r} is not a list of three coefficients")
    return float(value[0]), float(value[1]), float(value[2])
