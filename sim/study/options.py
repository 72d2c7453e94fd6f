"""The command line's options, declared once for all commands; sim.study.settings says what they mean."""

import argparse
from typing import NoReturn

from sim.errors import InputError
from sim.run.metrics import Slo
from sim.study.engines import DEFAULT_ENGINE

REQUESTS = 8000  # of a synthetic load: enough for an overload of 1 % to show
HOST = {
    "step_ns": "CPU nanoseconds per step",
    "row_ns": "CPU nanoseconds per sequence and step",
    "graph_gap_ns": "nanoseconds between two kernels of a graph",
    "eager_launch_ns": "nanoseconds to launch a kernel without a graph",
    "graph_rows": "most tokens of a step that CUDA graphs replay",
}
FRONTEND = {
    "request_ns": "nanoseconds before the engine sees a request",
    "request_gap_ns": "of those, what one process does for one request after the other",
    "stream_token_ns": "nanoseconds that one process takes to send a token",
}


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are InputErrors: one line, exit status 2."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def add_json(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--json; the group of output options, to add others to."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="machine-readable result on stdout (docs/json.md)")
    return group


def add_search(parser: argparse.ArgumentParser, *, requests: int = REQUESTS) -> None:
    """What a search for capacities needs beside a workload: seeds, tolerance, and the demand."""
    add_workload(parser, requests=requests)
    group = parser.add_argument_group("search")
    group.add_argument("--demand-qps", type=float, default=100.0, metavar="QPS", help="requests per second (100)")
    group.add_argument(
        "--quality-floor", type=float, metavar="SHARE", help="of the dense model's score: 0.99 marks what is below it"
    )
    group.add_argument("--seed", type=int, default=0, help="the first seed")
    group.add_argument("--seeds", type=int, default=3, metavar="N", help="searches, each with its own traffic (3)")
    add_draws(group)
    group.add_argument("--tolerance", type=float, default=0.02, metavar="SHARE", help="width of the bracket (0.02)")


def add_draws(group: argparse._ArgumentGroup) -> None:
    """How often kernels and engine are drawn for the intervals."""
    from sim.study.intervals import DRAWS  # here: its polars is not on every machine that reads options

    what = f"draws of each source of doubt, for the 90 %% intervals ({DRAWS}); 0: of the traffic alone"
    group.add_argument("--draws", type=int, default=DRAWS, metavar="N", help=what)


def add_deployment(parser: argparse.ArgumentParser) -> None:
    """The model, the GPU, precisions, memory, kernel times and the host."""
    group = parser.add_argument_group("deployment")
    group.add_argument("--model", default="llama-3.1-8b", help="catalogue name or folder with a config.json")
    group.add_argument("--gpu", default="h200", help="h200, h100, a100-80, b200, … (sim/cost/gpus.toml)")
    group.add_argument("--tp", type=int, default=1, metavar="N", help="GPUs per replica (tensor parallel)")
    group.add_argument("--weights", default="bf16", help="bf16 or fp8")
    group.add_argument("--kv", default="bf16", help="bf16 or fp8")
    group.add_argument("--memory-utilization", type=float, default=0.9, metavar="SHARE")
    group.add_argument("--num-gpu-blocks", type=int, metavar="N", help="KV blocks as the server reports them")
    group.add_argument("--max-context", type=int, metavar="TOKENS", help="default: the model's")
    group.add_argument("--source", default="auto", help="kernel times: auto, measured, roofline or FILE.json")
    group = parser.add_argument_group("engine", "what is not given is the engine's own")
    group.add_argument(
        "--engine",
        default=DEFAULT_ENGINE,
        metavar="NAME",
        help=f"vllm-0.11, sglang, trtllm-1.0, …, or a .json of `calibration import --out` ({DEFAULT_ENGINE})",
    )
    for prefix, knobs in (("host", HOST), ("frontend", FRONTEND)):
        for name, what in knobs.items():
            group.add_argument(f"--{prefix}-{name.replace('_', '-')}", type=int, metavar="N", help=what)
    yes_or_no = argparse.BooleanOptionalAction
    group.add_argument("--host-overlap", action=yes_or_no, help="the CPU prepares a step while the GPU runs one")
    group.add_argument("--host-eager-prompts", action=yes_or_no, help="CUDA graphs replay pure decode steps alone")


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    """The scheduler's knobs, under vLLM's names."""
    group = parser.add_argument_group("scheduler", "what is not given is the engine's own")
    group.add_argument("--policy", help="chunked (vLLM V1), prefill_first (V0) or static")
    group.add_argument("--max-num-seqs", type=int, metavar="N")
    group.add_argument("--max-num-batched-tokens", type=int, metavar="N")
    group.add_argument("--long-prefill-token-threshold", type=int, metavar="N")
    group.add_argument("--block-tokens", type=int, metavar="N", help="tokens per KV block")
    group.add_argument(
        "--prefix-caching",
        action=argparse.BooleanOptionalAction,
        help="reuse blocks by hash, where the trace has hashes",
    )
    group.add_argument("--oversized", default="error", help="requests that never fit: error or refuse (and count)")


def add_workload(parser: argparse.ArgumentParser, *, requests: int) -> None:
    """What is asked: a trace, measured lengths or given ones."""
    group = parser.add_argument_group("workload")
    group.add_argument("--trace", metavar="FILE", help="CSV, JSONL, Parquet or ShareGPT JSON")
    group.add_argument("--sort", action="store_true", help="accept a trace whose rows are out of order")
    group.add_argument("--limit", type=int, metavar="N", help="only the first N requests of the trace")
    group.add_argument("--workload", metavar="NAME", help="azure-conv, azure-code or arxiv-summarization lengths")
    group.add_argument("--prompt-tokens", type=int, metavar="N", help="synthetic lengths, with --output-tokens")
    group.add_argument("--output-tokens", type=int, metavar="N")
    group.add_argument("--range-ratio", type=float, default=0.0, metavar="R", help="lengths uniform within ± R")
    group.add_argument("--arrivals", metavar="PROCESS", help="poisson, gamma:cv=2, bursty:peak=4, constant, offline")
    group.add_argument("--requests", type=int, default=requests, metavar="N", help=f"of a synthetic load ({requests})")
    group.add_argument("--tokens-per-char", type=float, metavar="X", help="for traces that hold text (ShareGPT)")


def add_slo(parser: argparse.ArgumentParser) -> None:
    """The latency limits."""
    base = Slo()
    group = parser.add_argument_group("service level")
    group.add_argument("--slo-ttft-ms", type=float, default=base.ttft_ms, metavar="MS")
    group.add_argument("--slo-tpot-ms", type=float, default=base.tpot_ms, metavar="MS")
    group.add_argument(
        "--slo-percentile", type=float, default=base.percentile, metavar="P", help="per cent that meet both"
    )
