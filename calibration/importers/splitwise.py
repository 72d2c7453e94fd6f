"""splitwise-sim's perf_model.csv: static batches of Llama-2-70B and BLOOM-176B on DGX A100 and H100, vLLM of 2023.

One row per run; a setting was run five times or more. Times in milliseconds: `prompt_time` prefills the whole batch,
`token_time` is one decode step. `e2e_time` is not read: it is prompt_time + token_time · (token_size − 1) in 922 of
1,260 rows, and off by up to 60 times in the others, nearly all with more than 128 output tokens or batches above 16.
`*-pcap` hardware ran under a power cap. The modified vLLM schedules nothing: kernel shape, and the host overhead of
2023.
"""

from pathlib import Path

import polars as pl

from calibration.importers.names import gpu_or_none, model_or_none
from calibration.points import Load, Point
from calibration.units import check_plausible
from sim.errors import InputError

SETTING = ("model", "hardware", "tensor_parallel", "prompt_size", "batch_size", "token_size")
TIMES = ("prompt_time", "token_time")


def read_splitwise(path: Path) -> list[Point]:
    """One Point per setting, medians over its runs, in the order of the file. Raises InputError for other columns."""
    try:
        frame = pl.read_csv(path)
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise InputError(f"{path}: not readable as CSV ({cause})") from cause
    absent = [name for name in (*SETTING, *TIMES) if name not in frame.columns]
    if absent:
        raise InputError(f"{path}: columns {', '.join(absent)} are missing")
    medians = frame.group_by(SETTING, maintain_order=True).agg(
        pl.len().alias("runs"), *(pl.col(name).median() for name in TIMES)
    )
    return [_point(path, row) for row in medians.iter_rows(named=True)]


def _point(path: Path, row: dict[str, object]) -> Point:
    hardware, model, tp = str(row["hardware"]), str(row["model"]), int(str(row["tensor_parallel"]))
    capped = hardware.endswith("-pcap")
    measured = {"prefill_p50_ms": float(str(row["prompt_time"])), "decode_step_p50_ms": float(str(row["token_time"]))}
    check_plausible(measured, None, where=path)
    return Point(
        source=str(path),
        measured=measured,
        load=Load("static_batch", float(str(row["batch_size"]))),
        gpu=gpu_or_none(hardware.removesuffix("-pcap")),
        n_gpus=tp,
        tp=tp,
        model=model_or_none(model),
        model_label=model,
        weights_dtype="bf16",
        kv_dtype="bf16",
        engine="vllm",
        engine_version="2023",
        isl=float(str(row["prompt_size"])),
        osl=float(str(row["token_size"])),
        requests=int(str(row["runs"])),
        flags={"power_capped": True} if capped else {},
        notes=("static batch, modified vLLM of 2023",),
    )
