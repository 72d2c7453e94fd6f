"""How many requests per second the simulator simulates on one core: `python -m benchmarks.speed [--json]`.

Workloads are those of `benchmarks.workloads`, each measured in a process of its own as `benchmarks.measure` says.

<name>_req_per_s     requests over processor seconds of a run; null where the trace is missing (../shared/data/traces)
growth_1m_over_10k   cost per request of the short workload at a million requests over that at 10,000, start-up apart
peak_rss_mib_1m      peak memory of the process that ran the million, interpreter and compiled loop included
startup_s            a run of a single request;  first_call_s  the first one in a process, which loads the compiled loop
compile_s            the first one with an empty cache, which compiles it: once per version of elide and machine
price_list_s         lowering kernel times to a price list, once per plan and deployment
vidur_req_per_s      the chunked workload in Vidur, where `--vidur` gives its folder (`benchmarks.vidur`)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.vidur import requests_per_s

SIZES = {"mooncake": 12_031, "azure": 19_366, "chunked": 100_000}
GROWTH = (10_000, 100_000, 1_000_000)


def measured(name: str, repeats: int, *sizes: int, cache: str | None = None) -> dict[str, Any] | None:
    """What a fresh process measured; None where it could not, its reason on standard error."""
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure", name, str(repeats), *map(str, sizes)],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **({"ELIDE_CACHE": cache} if cache else {})},
        cwd=Path(__file__).resolve().parents[1],
        text=True,
    )
    return json.loads(found.stdout) if found.returncode == 0 else None


def figures(repeats: int, *, most: int, compiling: bool, vidur: Path | None) -> dict[str, float | None]:
    """Every figure by name."""
    sizes = [*(size for size in GROWTH if size < most), most]
    measured("short", 1, 1)  # compiles, if nobody has
    ran = measured("short", repeats, *sizes)
    if ran is None:
        raise SystemExit("the short workload could not be run: see above")
    cost = {size: (ran["run_s"][str(size)] - ran["startup_s"]) / size for size in sizes}
    found: dict[str, float | None] = {
        "short_req_per_s": most / ran["run_s"][str(most)],
        "growth_1m_over_10k": cost[most] / cost[sizes[0]],
        "peak_rss_mib_1m": ran["peak_rss_mib"],
        **{f"ns_per_request_{size}": 1e9 * seconds for size, seconds in cost.items()},
        **{name: ran[name] for name in ("startup_s", "first_call_s", "price_list_s")},
    }
    for name, size in SIZES.items():
        one = measured(name, repeats, size)
        found[f"{name}_req_per_s"] = size / one["run_s"][str(size)] if one else None
    found["compile_s"] = None
    if compiling:
        with tempfile.TemporaryDirectory() as empty:
            fresh = measured("short", 1, 1, cache=empty)
            found["compile_s"] = fresh["first_call_s"] if fresh else None
    if vidur:
        found["vidur_req_per_s"] = requests_per_s(vidur, SIZES["chunked"] // 10)
        found["chunked_over_vidur"] = (found["chunked_req_per_s"] or 0) / found["vidur_req_per_s"]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="simulated requests per second on one core")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--requests", type=int, default=GROWTH[-1], help="of the long run of the short workload")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave out compile_s, half a minute or more")
    parser.add_argument("--vidur", type=Path, metavar="DIR", help="a checkout of Vidur to run the chunked workload in")
    given = parser.parse_args()
    found = figures(given.repeats, most=given.requests, compiling=not given.no_compile, vidur=given.vidur)
    if given.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:26} {'not measured' if value is None else f'{value:,.3f}'}\n")


if __name__ == "__main__":
    main()
