"""python -m engine generate | bench | tiny"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from transformers.utils import logging

from engine.bench import Bench, roofline_of, roofline_table, rows_of, table_of
from engine.config import read_config
from engine.llm import LLM
from engine.loading import DTYPES, device_named
from engine.recorder import Recorder, write_trace
from engine.sampler import SamplingParams
from engine.tiny import FAMILIES, make_tiny
from sim.errors import ElideError, InputError
from sim.plans.catalogue import MODELS
from sim.plans.model import ModelShape
from sim.serving.config import SchedulerConfig
from sim.serving.trace import Run

STRATEGIES = ("dense", "skip_decode:speedup=2", "ffn_skip", "swift_kv", "early_exit", "self_speculative")
WIDTH = 140  # of a table that goes to a file


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 after one line that says what was wrong."""
    options = _parser().parse_args(arguments)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        {"generate": _generate, "bench": _bench, "tiny": _tiny}[options.command](options)
    except ElideError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine", description="Run language models under skip strategies.")
    commands = parser.add_subparsers(dest="command", required=True)
    generate = commands.add_parser("generate", help="continue prompts")
    _model_options(generate)
    generate.add_argument("--strategy", help="a spec such as swift_kv:keep=16 (default: dense, or the checkpoint's)")
    generate.add_argument("--prompt", action="append", required=True, help="may be given several times")
    generate.add_argument("--max-tokens", type=int, default=64)
    generate.add_argument("--temperature", type=float, default=0.0, help="0, the default, is greedy")
    generate.add_argument("--top-k", type=int, default=0)
    generate.add_argument("--top-p", type=float, default=1.0)
    generate.add_argument("--min-p", type=float, default=0.0)
    generate.add_argument("--seed", type=int)
    generate.add_argument("--repetition-penalty", type=float, default=1.0)
    generate.add_argument("--stop", action="append", default=[], help="a string that ends the text; may be repeated")
    generate.add_argument("--ignore-eos", action="store_true")
    generate.add_argument("--stream", action="store_true", help="print the text of a single prompt as it comes")
    bench = commands.add_parser("bench", help="time strategies against dense and against transformers")
    _model_options(bench)
    bench.add_argument("--strategy", action="append", help=f"may be repeated (default: {', '.join(STRATEGIES)})")
    bench.add_argument("--prompts", type=int, default=8, help="requests at once")
    bench.add_argument("--prompt-tokens", type=int, default=64)
    bench.add_argument("--max-tokens", type=int, default=32)
    bench.add_argument("--repeats", type=int, default=3)
    bench.add_argument("--no-transformers", action="store_true", help="leave transformers out of the comparison")
    tiny = commands.add_parser("tiny", help="write a tiny random model with a tokenizer")
    tiny.add_argument("folder", type=Path)
    tiny.add_argument("--family", default="llama", help=", ".join(FAMILIES))
    tiny.add_argument("--layers", type=int, default=8)
    tiny.add_argument("--seed", type=int, default=0)
    return parser


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder with config.json and *.safetensors; bench: or a name")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", default="auto", help=f"auto, {', '.join(DTYPES)}")
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--max-num-batched-tokens", type=int, default=2048)
    parser.add_argument("--kv-blocks", type=int, help="KV memory in blocks of all caches (default: what fits)")
    parser.add_argument("--agreement", type=float, default=0.0, help="share of tokens to compare with a dense run")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("--trace-out", type=Path, metavar="FILE.json", help="a run for ui.perfetto.dev (Chrome trace)")


def _model(name: str) -> Path | ModelShape:
    """A folder; where there is none, a shape of the catalogue, with random weights."""
    folder = Path(name).expanduser()
    return folder if folder.is_dir() or name not in MODELS else MODELS[name]


def _scheduler(options: argparse.Namespace) -> SchedulerConfig:
    return SchedulerConfig(
        max_num_seqs=options.max_num_seqs, max_num_batched_tokens=options.max_num_batched_tokens, prefix_caching=True
    )


def _generate(options: argparse.Namespace) -> None:
    llm = LLM(
        options.model,
        plan=options.strategy,
        device=options.device,
        dtype=options.dtype,
        scheduler=_scheduler(options),
        kv_blocks=options.kv_blocks,
        agreement=options.agreement,
    )
    params = SamplingParams(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        seed=options.seed,
        repetition_penalty=options.repetition_penalty,
        stop=tuple(options.stop),
        ignore_eos=options.ignore_eos,
    )
    for note in llm.notes:
        print(f"note: {note}", file=sys.stderr)
    recorder = Recorder(llm)
    if options.stream:
        _stream(llm, options.prompt, params)
        _write_trace(options, [recorder.run()])
        return
    completions = llm.generate(options.prompt, params, progress=not options.json)
    _write_trace(options, [recorder.run()])
    if options.json:
        print(json.dumps({"completions": [asdict(c) for c in completions], "metrics": llm.metrics.summary()}))
    else:
        for prompt, completion in zip(options.prompt, completions):
            print(prompt + completion.text)
    failed = [c.error for c in completions if c.error]
    if failed:
        raise InputError(failed[0])


def _write_trace(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    if options.trace_out:
        write_trace(options.trace_out, runs, read_config(Path(options.model)), device_named(options.device).type)


def _stream(llm: LLM, prompts: Sequence[str], params: SamplingParams) -> None:
    if len(prompts) != 1:
        raise InputError(f"--stream prints one text, not {len(prompts)}; give one --prompt")
    print(prompts[0], end="", flush=True)
    for chunk in llm.stream(prompts[0], params):
        print(chunk.text, end="", flush=True)
        if chunk.error:
            raise InputError(chunk.error)
    print()


def _bench(options: argparse.Namespace) -> None:
    bench = Bench(
        model=_model(options.model),
        strategies=tuple(options.strategy or STRATEGIES),
        prompts=options.prompts,
        prompt_tokens=options.prompt_tokens,
        max_tokens=options.max_tokens,
        repeats=options.repeats,
        device=options.device,
        dtype=options.dtype,
        scheduler=_scheduler(options),
        kv_blocks=options.kv_blocks,
        transformers=not options.no_transformers,
        agreement=options.agreement,
    )

    def note(text: str) -> None:
        print(f"note: {text}", file=sys.stderr)

    traced: list[Run] = []
    rows, kernels = rows_of(bench, note=note, traced=traced if options.trace_out else None), []
    _write_trace(options, traced)
    try:
        kernels = roofline_of(bench)
    except InputError as error:
        note(str(error))
    if options.json:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
        print(json.dumps(about | {"rows": rows, "kernels": kernels}))
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table_of(bench, rows))
    if kernels:
        console.print(roofline_table(kernels))


def _tiny(options: argparse.Namespace) -> None:
    print(make_tiny(options.folder, options.family, layers=options.layers, seed=options.seed))


if __name__ == "__main__":
    sys.exit(main())
