"""A run as a Chrome trace, which https://ui.perfetto.dev opens: of the simulator and of the engine alike.

Trace Event Format, JSON object form. Each run has two processes: its iterations with counters (rows of the step, KV
memory, queue), and its requests, from arrival to last token, waiting, prompt and decode nested in each. Requests share
lanes, so that a lane holds one at a time. Times are microseconds from the first arrival, exact to the nanosecond.
"""

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Event = dict[str, object]
Column = NDArray[np.int64] | NDArray[np.float64]
US = 1000  # nanoseconds
FOREVER = 2**63 - 1
CLOCK = ("arrival_ns", "scheduled_ns", "first_token_ns", "last_token_ns")
REQUESTS = ("request", *CLOCK, "prompt_tokens", "output_tokens")
PHASES = ("waiting", "prompt", "decode")


@dataclass(frozen=True)
class Run:
    """What a trace needs of one run, in columns.

    `iterations`: start_ns, duration_ns, prompt_tokens, decode_rows, waiting, kv_share; more columns become arguments.
    `requests`, served ones only: the columns REQUESTS.
    """

    name: str
    iterations: Mapping[str, Column]
    requests: Mapping[str, Column]


def trace_text(runs: Sequence[Run], about: Mapping[str, object]) -> str:
    """The runs side by side as the text of one trace; `about` says what they were."""
    events: list[Event] = []
    for i, run in enumerate(runs):
        times = run.requests["arrival_ns"] if run.requests["arrival_ns"].size else run.iterations["start_ns"]
        start = int(times.min(initial=FOREVER))
        events += [*_named(2 * i, f"{run.name}: iterations"), *_iterations(run.iterations, 2 * i, start)]
        events += [*_named(2 * i + 1, f"{run.name}: requests"), *_requests(run.requests, 2 * i + 1, start)]
    trace = {"traceEvents": events, "displayTimeUnit": "ms", "otherData": dict(about)}
    return json.dumps(trace, separators=(",", ":"))


def kind_of(prompt_tokens: int, decode_rows: int) -> str:
    """What an iteration is called: prefill, decode, or mixed."""
    return "mixed" if prompt_tokens and decode_rows else "prefill" if prompt_tokens else "decode"


def _iterations(columns: Mapping[str, Column], pid: int, start_ns: int) -> Iterator[Event]:
    names, told = list(columns), dict.fromkeys(("rows", "KV memory in use", "requests waiting"))
    for values in zip(*(columns[name].tolist() for name in names)):
        row = dict(zip(names, values))
        begin, ns = row.pop("start_ns") - start_ns, row.pop("duration_ns")
        prompt, decode = row["prompt_tokens"], row["decode_rows"]
        yield _span(kind_of(prompt, decode), pid, 0, begin, ns, row)
        counters = {
            "rows": {"prompt tokens": prompt, "decoding sequences": decode},
            "KV memory in use": {"share": row["kv_share"]},
            "requests waiting": {"requests": row["waiting"]},
        }
        for name, figures in counters.items():
            if told[name] != figures:
                told[name] = figures
                yield {"name": name, "ph": "C", "pid": pid, "tid": 0, "ts": begin / US, "args": figures}


def _requests(columns: Mapping[str, Column], pid: int, start_ns: int) -> Iterator[Event]:
    lanes: list[tuple[int, int]] = []  # (free from, number)
    order = np.argsort(columns["arrival_ns"], kind="stable")
    names = list(columns)
    for values in zip(*(columns[name][order].tolist() for name in names)):
        row = dict(zip(names, values))
        ends = [row.pop(name) - start_ns for name in CLOCK]
        lane = heapq.heappop(lanes)[1] if lanes and lanes[0][0] <= ends[0] else len(lanes)
        heapq.heappush(lanes, (ends[-1], lane))
        yield _span(f"request {row['request']}", pid, lane, ends[0], ends[-1] - ends[0], row)
        for phase, begin, end in zip(PHASES, ends, ends[1:]):
            if end > begin:
                yield _span(phase, pid, lane, begin, end - begin, {})


def _span(name: str, pid: int, tid: int, begin_ns: int, ns: int, args: Mapping[str, object]) -> Event:
    event: Event = {"name": name, "ph": "X", "pid": pid, "tid": tid, "ts": begin_ns / US, "dur": ns / US}
    return event | {"args": dict(args)} if args else event


def _named(pid: int, name: str) -> Iterator[Event]:
    for kind, args in (("process_name", {"name": name}), ("process_sort_index", {"sort_index": pid})):
        yield {"name": kind, "ph": "M", "pid": pid, "tid": 0, "args": args}
