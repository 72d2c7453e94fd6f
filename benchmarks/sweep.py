"""How many points of a sweep one core computes: `python -m benchmarks.sweep [--points 1000] [--json]`.

A point is the capacity of Llama-3.1-8B under the default SLO, found by search over runs of 500 requests with lengths of
Azure's conversations: ten plans on two GPUs in two precisions, each with as many values of max_num_seqs as make up the
number of points. One process; processor time, compilation apart. The sweep is then run again from its store.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

from sim.study.sweep import Sweep

VARY = {
    "strategy": ["dense", "swift_kv:keep={keep}", "skip_decode:speedup={speedup}", "ffn_skip"],
    "keep": [8, 12, 16, 20, 24],
    "speedup": [1.25, 1.5, 2.0],
    "gpu": ["h100", "h200"],
    "weights": ["bf16", "fp8"],
}
FAMILIES = 10 * 2 * 2
LEAST_SEQS, STEP = 16, 8


def sweep_of(points: int, store: Path) -> Sweep:
    """The sweep with at least so many points."""
    seqs = [LEAST_SEQS + STEP * i for i in range(-(-points // FAMILIES))]
    return Sweep({**VARY, "max_num_seqs": seqs}, {"requests": 500, "seeds": 1}, workers=1, store=store)


def measure(points: int) -> dict[str, float]:
    """Every figure by name."""
    with TemporaryDirectory() as folder:
        store = Path(folder)
        sweep_of(1, store / "warm").run()
        before = process_time()
        sweep = sweep_of(points, store / "sweep")
        table = sweep.run()
        computed_s = process_time() - before
        before = process_time()
        again = replace(sweep)
        assert again.run().equals(table)
        assert again.reused == table["key"].n_unique()
        return {
            "points": len(table),
            "feasible": int(table["feasible"].sum()),
            "processor_s": computed_s,
            "points_per_processor_s": len(table) / computed_s,
            "again_from_store_s": process_time() - before,
            "store_mib": sum(file.stat().st_size for file in (store / "sweep").rglob("*.parquet")) / 2**20,
        }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="points of a sweep per processor second")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--points", type=int, default=1000, help=f"rounded up to a multiple of {FAMILIES}")
    given = parser.parse_args()
    figures = measure(given.points)
    if given.json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    for name, value in figures.items():
        sys.stdout.write(f"{name:24} {value:,.2f}\n")


if __name__ == "__main__":
    main()
