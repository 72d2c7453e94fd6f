"""The chunked workload in Vidur, for comparison: `python -m benchmarks.vidur DIR [--python PYTHON] [--requests N]`.

DIR is a checkout of microsoft/vidur, PYTHON has its requirements installed (default: DIR/venv/bin/python). Counted is
the processor time of Vidur's event loop alone, its metrics and traces off, its tables of execution times made before:
all that could be left out was. Its linear predictor fills these tables (the forests take an hour and give tables
of the same size). Clones often lack Vidur's large attention table; then one made of elide's own times stands in, which
is good enough for speed and for nothing else.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from sim.cost.times import times_for
from sim.errors import InputError

MODEL = "meta-llama/Meta-Llama-3-8B"
HEADS, KV_HEADS, HEAD_DIM, BLOCK = 32, 8, 128, 16
PREDICTOR = "linear_regression_execution_time_predictor_config"
LENGTHS = "uniform_request_length_generator_config"
OPTIONS: dict[str, object] = {
    "replica_config_device": "a100",
    "replica_config_model_name": MODEL,
    "replica_config_tensor_parallel_size": 1,
    "replica_config_num_pipeline_stages": 1,
    "cluster_config_num_replicas": 1,
    "request_generator_config_type": "synthetic",
    "length_generator_config_type": "uniform",
    f"{LENGTHS}_min_tokens": 64,
    f"{LENGTHS}_max_tokens": 2048,
    f"{LENGTHS}_prefill_to_decode_ratio": 4,
    "interval_generator_config_type": "poisson",
    "poisson_request_interval_generator_config_qps": 6,
    "replica_scheduler_config_type": "sarathi",
    "sarathi_scheduler_config_batch_size_cap": 128,
    "sarathi_scheduler_config_chunk_size": 512,
    "execution_time_predictor_config_type": "linear_regression",
    f"{PREDICTOR}_polynomial_degree": 2,
    f"{PREDICTOR}_num_training_job_threads": 1,
}
OFF = ("write_metrics", "write_json_trace", "enable_chrome_trace", "store_plots")
LOOP = """
import json, os, time
from vidur.config import SimulationConfig
from vidur.simulator import Simulator
from vidur.utils.random import set_seeds
config = SimulationConfig.create_from_cli_args()
set_seeds(config.seed)
simulator = Simulator(config)
before = time.process_time()
simulator.run()
print("SECONDS", time.process_time() - before, flush=True)
os._exit(0)  # its exit handler would write what was switched off
"""


def requests_per_s(folder: Path, requests: int, python: Path | None = None) -> float:
    """Requests per processor second of Vidur's event loop. Raises InputError where Vidur does not run there."""
    python = python or folder / "venv" / "bin" / "python"
    with tempfile.TemporaryDirectory() as scratch:
        options = dict(OPTIONS)
        options["synthetic_request_generator_config_num_requests"] = requests
        options["metrics_config_output_dir"] = options["metrics_config_cache_dir"] = scratch
        if not (folder / "data/profiling/compute/a100" / MODEL / "attention.csv").is_file():
            table = Path(scratch) / "attention.csv"
            write_stand_in(table)
            options[f"{PREDICTOR}_attention_input_file"] = str(table)
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        flags += [f"--no-metrics_config_{name}" for name in OFF]
        ran = subprocess.run([str(python), "-c", LOOP, *flags], cwd=folder, capture_output=True, text=True, check=False)
    seconds = [line.split()[1] for line in ran.stdout.splitlines() if line.startswith("SECONDS")]
    if not seconds:
        raise InputError(f"Vidur did not run in {folder} with {python}: {(ran.stderr or ran.stdout).strip()[-300:]}")
    return requests / float(seconds[0])


def write_stand_in(path: Path) -> None:
    """An attention table in Vidur's format, its times elide's for the same GPU and shape."""
    times = times_for("a100-80")
    names = ("attn_input_reshape", "attn_kv_cache_save", "attn_prefill", "attn_decode", "attn_output_reshape")
    shape = {
        "n_embd": HEADS * HEAD_DIM,
        "n_q_head": HEADS,
        "n_kv_head": KV_HEADS,
        "block_size": BLOCK,
        "num_tensor_parallel_workers": 1,
        "max_model_len": 4096,
    }
    chunks = [64, *range(128, 4097, 128)]
    rows = [(1, new, context) for new, context in product(chunks, range(0, 4097, 256)) if new + context <= 4096]
    rows += [(batch, 0, context) for batch, context in product((1, 2, 4, 8, 16, 32, 64, 96, 128), range(64, 4097, 64))]
    with path.open("w", newline="") as file:
        columns = [f"time_stats.{name}.median" for name in names]
        held = ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill")
        table = csv.DictWriter(file, [*columns, *shape, *held])
        table.writeheader()
        for batch, new, context in rows:
            prefill = times.prefill_attention(new, context, HEADS, KV_HEADS, HEAD_DIM, "bf16")[0][0] if new else 0.0
            decode = 0.0 if new else times.decode_attention(batch, context, HEADS, KV_HEADS, HEAD_DIM, "bf16")[0][0]
            spent = dict(zip(columns, (0.0, 0.01, prefill / 1e6, decode / 1e6, 0.0)))
            table.writerow({**spent, **shape, **dict(zip(held, (batch, new, context, new > 0)))})


def main() -> None:
    """Print requests per second."""
    parser = argparse.ArgumentParser(description="requests per second of Vidur's event loop")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    given = parser.parse_args()
    try:
        found = requests_per_s(given.folder, given.requests, given.python)
    except InputError as error:
        parser.exit(2, f"{error}\n")
    sys.stdout.write(json.dumps({"vidur_req_per_s": found}) + "\n")


if __name__ == "__main__":
    main()
