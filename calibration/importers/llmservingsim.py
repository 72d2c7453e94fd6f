"""A folder of LLMServingSim's `bench`: what one real vLLM server did with one workload, request by request.

`requests.jsonl`: input_toks, output_toks, arrival_time (epoch s), queued_ts, scheduled_ts, first_token_ts,
last_token_ts (engine clock, s). `meta.json`: vLLM version, engine arguments, KV blocks, device. `timeseries.csv`:
running, waiting, kv_cache_pct every second. Latencies are the engine's own: they contain queueing, but no network and
no tokenisation. `workload_of` gives the very arrivals and lengths, so that a simulation replays the run instead of
its averages.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calibration.importers.names import dtype_or_none, gpu_or_none, model_or_none
from calibration.importers.reading import Record, read_records, summary
from calibration.points import Load, Point
from calibration.units import check_plausible
from sim.errors import InputError
from sim.workload.workload import Workload

_FLAGS = {
    "num_gpu_blocks": "kv_cache.num_gpu_blocks",
    "block_size": "kv_cache.block_size",
    "gpu_memory_utilization": "kv_cache.gpu_memory_utilization",
    "prefix_caching": "kv_cache.enable_prefix_caching",
    "max_num_seqs": "engine_kwargs.max_num_seqs",
    "max_num_batched_tokens": "engine_kwargs.max_num_batched_tokens",
    "max_model_len": "engine_kwargs.max_model_len",
}
_COLUMNS = ("input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts")


def read_llmservingsim(folder: Path) -> list[Point]:
    """The one Point of a bench folder. Raises InputError where requests.jsonl or meta.json is missing or broken."""
    (meta,) = read_records(folder / "meta.json")
    columns = _columns(folder / "requests.jsonl")
    measured = _measured(columns)
    osl = float(columns["output_toks"].mean())
    check_plausible(measured, osl, where=folder)
    arrivals = columns["arrival_time"]
    span = float(arrivals.max() - arrivals.min())
    label = str(meta.get("model", ""))
    tp = int(meta.number("engine_kwargs.tensor_parallel_size"))
    weights = dtype_or_none(str(meta.get("engine_kwargs.dtype", "")))
    kv = str(meta.get("engine_kwargs.kv_cache_dtype", "auto"))
    return [
        Point(
            source=str(folder),
            measured=measured,
            load=Load("qps", (len(arrivals) - 1) / span) if span > 0 else None,
            gpu=gpu_or_none(str(meta.get("hardware.device_name", ""))),
            n_gpus=tp * int(meta.optional("engine_kwargs.data_parallel_size") or 1),
            tp=tp,
            model=model_or_none(label),
            model_label=label,
            weights_dtype=weights,
            kv_dtype=weights if kv == "auto" else dtype_or_none(kv),
            engine="vllm",
            engine_version=str(meta.get("vllm_version", "")) or None,
            isl=float(columns["input_toks"].mean()),
            osl=osl,
            requests=len(arrivals),
            flags={name: value for name, key in _FLAGS.items() if (value := meta.get(key)) is not None},
            notes=("engine clock: no network, no tokenisation", *_pressure(folder / "timeseries.csv")),
        )
    ]


def workload_of(folder: Path) -> Workload:
    """The run's requests with their measured arrivals, sorted; times from the first arrival."""
    columns = _columns(folder / "requests.jsonl")
    order = np.argsort(columns["arrival_time"], kind="stable")
    seconds = columns["arrival_time"][order]
    return Workload(
        arrival_ns=np.rint((seconds - seconds[0]) * 1e9).astype(np.int64),
        prompt_tokens=columns["input_toks"][order].astype(np.int64),
        output_tokens=columns["output_toks"][order].astype(np.int64),
        name=folder.name,
        source=str(folder),
    )


def _columns(path: Path) -> dict[str, Any]:
    records: list[Record] = read_records(path)
    return {name: np.array([record.number(name) for record in records]) for name in _COLUMNS}


def _measured(columns: dict[str, Any]) -> dict[str, float]:
    queued, first, last = (columns[name] for name in ("queued_ts", "first_token_ts", "last_token_ts"))
    outputs = columns["output_toks"]
    if (first < queued).any() or (last < first).any():
        row = int(np.argmax((first < queued) | (last < first))) + 1
        raise InputError(f"requests.jsonl:{row}: queued_ts ≤ first_token_ts ≤ last_token_ts does not hold")
    several = outputs > 1
    seconds = float(last.max() - queued.min())
    return (
        summary("ttft", (first - queued) * 1e3)
        | summary("tpot", (last - first)[several] / (outputs[several] - 1) * 1e3)
        | summary("e2e", (last - queued) * 1e3)
        | {
            "requests_per_s": len(outputs) / seconds,
            "output_tokens_per_s": float(outputs.sum()) / seconds,
            "total_tokens_per_s": float((columns["input_toks"] + outputs).sum()) / seconds,
        }
    )


def _pressure(path: Path) -> tuple[str, ...]:
    if not path.exists():
        return ()
    series = pl.read_csv(path)
    peak, running = series["kv_cache_pct"].to_numpy().max(), series["running"].to_numpy().max()
    return (f"KV cache up to {peak:g} % full, at most {running:g} sequences running",)
