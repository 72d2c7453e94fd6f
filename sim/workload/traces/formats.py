"""The trace formats we know, told apart by the names of their columns.

One row of `FORMATS` is one format: adding one is adding a row. A format without arrival columns holds lengths only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim.errors import InputError
from sim.workload.traces.cells import Clock, date_clock, decimal_clock

_SECONDS = decimal_clock(9, "seconds")
_MILLISECONDS = decimal_clock(6, "milliseconds")
_MICROSECONDS = decimal_clock(3, "microseconds")
_NANOSECONDS = decimal_clock(0, "nanoseconds")


@dataclass(frozen=True)
class Format:
    """Names that one format gives its columns, and how it writes times."""

    name: str
    prompt: tuple[str, ...]  # any one of these
    output: tuple[str, ...]
    arrival: Mapping[str, Clock]
    also: tuple[str, ...] = ()  # further columns that tell it from its relatives
    hashes: str = ""  # the column of prefix-block ids, where there may be one
    failure: bool = False  # an output of 0 tokens records a request that failed
    remark: str = ""  # what a reader of the result must know


@dataclass(frozen=True)
class Layout:
    """A format and the columns of one file that hold it."""

    format: Format
    prompt: str
    output: str
    arrival: str  # "" for lengths only


_AZURE = Format("Azure 2023/2024", ("ContextTokens",), ("GeneratedTokens",), {"TIMESTAMP": date_clock})
_BURST = Format("BurstGPT v1/v2", ("Request tokens",), ("Response tokens",), {"Timestamp": _SECONDS}, failure=True)
_VIDUR = Format("Vidur", ("num_prefill_tokens",), ("num_decode_tokens",), {"arrived_at": _SECONDS})

FORMATS: tuple[Format, ...] = (
    replace(_AZURE, name="Azure 2025 multimodal", also=("NumImages",), remark="images are not modelled"),
    _AZURE,
    replace(_BURST, name="BurstGPT v3", also=("Session ID", "Elapsed time")),
    _BURST,
    Format("Mooncake", ("input_length",), ("output_length",), {"timestamp": _MILLISECONDS}, hashes="hash_ids"),
    Format("splitwise", ("prompt_size",), ("token_size",), {"arrival_timestamp": _SECONDS}),
    _VIDUR,
    replace(_VIDUR, name="Vidur lengths", arrival={}),
    Format("LLMServingSim", ("input_toks",), ("output_toks",), {"arrival_time_ns": _NANOSECONDS}),
    Format("LLMServingSim log", ("input_toks",), ("output_toks",), {"arrival_time": _SECONDS}),
    Format(
        "generic",
        ("input_tokens", "prompt_tokens", "input_len", "prompt_len", "input_length", "prompt_length", "isl"),
        ("output_tokens", "completion_tokens", "output_len", "completion_len", "output_length", "osl"),
        {
            **dict.fromkeys(("arrival", "arrival_s", "arrival_time", "arrival_time_s", "arrived_at"), _SECONDS),
            **dict.fromkeys(("arrival_ms", "arrival_time_ms"), _MILLISECONDS),
            **dict.fromkeys(("arrival_us", "arrival_time_us"), _MICROSECONDS),
            **dict.fromkeys(("arrival_ns", "arrival_time_ns"), _NANOSECONDS),
        },
    ),
)

KNOWN = (
    "known: Azure (TIMESTAMP, ContextTokens, GeneratedTokens), BurstGPT (Timestamp, Request tokens, Response tokens),"
    " splitwise (arrival_timestamp, prompt_size, token_size), Vidur (arrived_at, num_prefill_tokens,"
    " num_decode_tokens), Mooncake JSONL (timestamp, input_length, output_length, hash_ids), LLMServingSim JSONL"
    " (input_toks, output_toks, arrival_time_ns), ShareGPT JSON (conversations), or CSV, Parquet or JSONL with"
    " input_tokens, output_tokens and arrival in seconds"
)


def layout_of(path: Path, columns: Sequence[str]) -> Layout:
    """The first format that the columns fit; raises InputError for none, or for two names of one thing."""
    for form in FORMATS:
        prompt, output = _of(form.prompt, columns), _of(form.output, columns)
        arrival = _of(tuple(form.arrival), columns)
        timed = bool(arrival) or not form.arrival or (form.name == "generic" and not _looks_timed(columns))
        if not (prompt and output and timed and set(form.also) <= set(columns)):
            continue
        for names in (prompt, output, arrival):
            if len(names) > 1:
                raise InputError(f"{path}: columns {' and '.join(map(repr, names))} say the same thing; keep one")
        return Layout(form, prompt[0], output[0], arrival[0] if arrival else "")
    shown = ", ".join(map(str, columns))[:200] or "none"
    raise InputError(f"{path}: no trace format has these columns: {shown}; {KNOWN}")


def _of(names: tuple[str, ...], columns: Sequence[str]) -> list[str]:
    return [name for name in names if name in columns]


def _looks_timed(columns: Sequence[str]) -> bool:
    """Whether some column speaks of time in a way the generic format does not define: then its unit is unknown."""
    return any(word in name.lower() for name in columns for word in ("time", "arriv"))
