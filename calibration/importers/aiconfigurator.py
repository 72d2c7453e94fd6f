"""Tidy frames from the kernel tables of NVIDIA's AIConfigurator (Parquet, one file per op, GPU and engine version).

Their layout: `<system>/vllm-<version>/{gemm,context_attention,generation_attention,custom_allreduce}_perf.parquet`,
latencies in ms. What their columns mean, found in the tables and in the collector that wrote them:

- gemm: CUDA-graph replays of six layers with different weights, so weights above 8 MB come from memory, not from L2;
  short bursts, so clocks are those of a cool GPU. `fp8` contains the quantisation of the input; `fp8_block` has
  128x128 scales and ran without a graph.
- context_attention: whole prompts (`step` is 0 throughout); generation_attention: `step` cached tokens and one new.
  The same buffers are replayed, so caches that fit into L2 are warm. vLLM 0.14 and 0.24 rows contain the KV write
  (time grows with the KV heads at equal query heads), 0.19 rows do not.
- H200, vLLM 0.19: context rows do not grow with the number of query heads. Such a table is refused.
- custom_allreduce: `message_size` in 16-bit elements, eager and in a CUDA graph. (vLLM's kernel turns from one shot to
  two at 256 KiB on 8 GPUs and 512 KiB on 4: the table jumps at 131,072 and 262,144. Large messages move at 440 GB/s
  per GPU on NVLink of 450 when read so, at half of that when read as bytes.)
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from sim.errors import InputError

DTYPES = {"bfloat16": "bf16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}
GEMM = ("gemm_dtype", "m", "n", "k", "latency")
ATTENTION = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "kv_cache_dtype", "latency")
ALL_REDUCE = ("num_gpus", "message_size", "backend", "latency")
FILES = {
    "gemm": "gemm",
    "prefill": "context_attention",
    "decode": "generation_attention",
    "reduce": "custom_allreduce",
}
ABOUT = ("version", "device")


def read_gemm(path: Path) -> pl.DataFrame:
    """GEMMs: engine, device, dtype, m, n, k, ns; the median where a point was measured twice."""
    frame = _read(path, (*ABOUT, *GEMM))
    tidy = _about(frame).select(
        *ABOUT, pl.col("gemm_dtype").replace_strict(DTYPES, default=None).alias("dtype"), "m", "n", "k", "ns"
    )
    return _settled(path, tidy, ["m", "n", "k"])


def read_attention(path: Path) -> pl.DataFrame:
    """Attention without a window: rows, new, context (cached tokens), heads, kv_heads, head_dim, dtype, ns.

    `dtype` is that of the KV cache.
    """
    frame = _read(path, (*ABOUT, *ATTENTION))
    if "window_size" in frame.columns:
        frame = frame.filter(pl.col("window_size") == 0)
    tidy = _about(frame).select(
        *ABOUT,
        pl.col("batch_size").alias("rows"),
        pl.col("isl").alias("new"),
        pl.col("step").alias("context"),
        pl.col("num_heads").alias("heads"),
        pl.col("num_key_value_heads").alias("kv_heads"),
        "head_dim",
        pl.col("kv_cache_dtype").replace_strict(DTYPES, default=None).alias("dtype"),
        "ns",
    )
    settled = _settled(path, tidy, ["rows", "new", "heads", "kv_heads", "head_dim"])
    _check_heads_count(path, settled)
    return settled


def _check_heads_count(path: Path, tidy: pl.DataFrame) -> None:
    """Long prompts must cost more with four times the query heads; raises InputError where they do not."""
    keys = ["new", "kv_heads", "head_dim", "dtype"]
    long = tidy.filter((pl.col("new") >= 4096) & (pl.col("rows") == 1)).select(*keys, "heads", "ns")
    wide = long.with_columns((pl.col("heads") // 4).alias("heads")).rename({"ns": "wide_ns"})
    ratio = long.join(wide, on=[*keys, "heads"]).select((pl.col("wide_ns") / pl.col("ns")).median()).item()
    if ratio is not None and ratio < 1.5:
        raise InputError(
            f"{path}: prompts cost {ratio:.2f} times as much with four times the query heads; "
            "this table did not measure them: use another version's"
        )


def read_all_reduce(path: Path) -> pl.DataFrame:
    """All-reduces captured in a CUDA graph: tp, message_bytes, ns."""
    frame = _read(path, (*ABOUT, *ALL_REDUCE)).filter(pl.col("backend") == "vllm_graph")
    tidy = _about(frame).select(
        *ABOUT,
        pl.lit("bf16").alias("dtype"),
        pl.col("num_gpus").alias("tp"),
        (2 * pl.col("message_size")).alias("message_bytes"),
        "ns",
    )
    return _settled(path, tidy, ["tp", "message_bytes"])


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as cause:
        raise InputError(f"{path}: not a readable Parquet file ({cause})") from cause
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(f"{path}: lacks column {', '.join(missing)}; it has {', '.join(frame.columns)}")
    if frame.is_empty():
        raise InputError(f"{path}: holds no rows")
    bad = frame.filter(~(pl.col("latency").is_finite() & (pl.col("latency") > 0)))
    if not bad.is_empty():
        raise InputError(f"{path}: {bad.height} latencies are not positive, the first is {bad['latency'][0]!r} ms")
    return frame


def _about(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns((pl.col("latency") * 1e6).alias("ns"))


def _settled(path: Path, tidy: pl.DataFrame, sizes: list[str]) -> pl.DataFrame:
    """One row a point, sizes checked, dtypes known."""
    unknown = tidy.filter(pl.col("dtype").is_null())
    if not unknown.is_empty():
        raise InputError(f"{path}: {unknown.height} rows of an unknown dtype; known: {', '.join(DTYPES)}")
    for name in sizes:
        low = tidy[name].min()
        if not isinstance(low, int) or low < 1:
            raise InputError(f"{path}: {name} = {low!r} must be at least 1")
    keys = [name for name in tidy.columns if name != "ns"]
    return tidy.group_by(keys, maintain_order=True).agg(pl.col("ns").median())


def where(root: Path, system: str, version: str) -> Mapping[str, Path]:
    """The files of one system (h200_sxm) and engine version below the folder of their tables. Raises InputError."""
    folder = root / system / f"vllm-{version}"
    if not folder.is_dir():
        known = sorted(str(p.relative_to(root)) for p in root.glob("*/vllm-*"))
        raise InputError(f"{folder}: no such folder; known: {', '.join(known) or 'none'}")
    return {op: folder / f"{name}_perf.parquet" for op, name in FILES.items()}
