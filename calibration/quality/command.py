"""`python -m calibration quality train | run | adapt | profile | import`."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils import logging

from calibration.provenance import provenance
from calibration.quality.adapting import DISTIL, TUNE, adapt_to, scaled, task_source, text_source
from calibration.quality.budget import budget_of
from calibration.quality.lm_eval import import_harness
from calibration.quality.profile import profile_of, write_profile
from calibration.quality.run import DATA, Run, examine_all
from calibration.quality.sampling import held_out
from calibration.quality.show import absent, markdown
from calibration.quality.sizes import SIZES, size_named
from calibration.quality.table import read_table, write_csv
from calibration.quality.tasks import tasks_of
from calibration.quality.train import Training, train
from calibration.quality.vocabulary import Vocabulary
from calibration.quality.world import FILE, read_world
from engine.adapt import Recipe
from engine.adapt_folder import read_twin
from engine.config import read_config
from sim.errors import InputError, UnknownName
from sim.plans.spec import strategy_named
from sim.study.numerals import percent
from sim.study.options import Parser
from sim.study.terminal import console, show_table, write_text

FOREIGN = {"distil": Recipe(steps=500), "tune": Recipe(steps=500, adam_lr=2e-5)}  # for models that are not ours
EXAMPLE = """\
examples:
  python -m calibration quality train --size cpu --family llama --out out/quality/tiny-llama
  python -m calibration quality run --model out/quality/tiny-llama
  python -m calibration quality adapt --model DIR --plan swift_kv:keep=16 --text chat.jsonl --out DIR-swiftkv
  python -m calibration quality import results.json --model llama-3.1-8b --plan swift_kv --dense dense.json
"""


def add_arguments(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Declare the command and its parts."""
    declare(commands.add_parser("quality", help="what skipping does to a model's answers", epilog=EXAMPLE))


def declare(quality: Parser) -> Parser:
    """The parser with its parts."""
    parts = quality.add_subparsers(dest="part", required=True, metavar="PART")
    for part in (_train, _run, _show, _adapt, _profile, _import):
        part(parts)
    return quality


def _part(
    parts: "argparse._SubParsersAction[Parser]", name: str, help: str, run: Callable[[argparse.Namespace], None]
) -> Parser:
    parser = parts.add_parser(name, help=help)

    def start(args: argparse.Namespace) -> int:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if getattr(args, "device", None) == "cuda" and not torch.cuda.is_available():
            raise InputError("--device cuda: this machine has no usable NVIDIA GPU; use cpu")
        run(args)
        return 0

    parser.set_defaults(run=start)
    return parser


def _train(parts: "argparse._SubParsersAction[Parser]") -> None:
    parser = _part(parts, "train", "train a small model from scratch", train_model)
    parser.add_argument("--size", default="cpu", help=", ".join(SIZES))
    parser.add_argument("--family", default="llama", help="llama or opt")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="say what the run will take, and train nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, metavar="N", help="default: the size's")
    parser.add_argument("--lr-scale", type=float, default=1.0, metavar="X", help="times the size's learning rates")
    _device(parser)


def train_model(args: argparse.Namespace) -> None:
    """Train, with a bar."""
    if args.family not in ("llama", "opt"):
        raise UnknownName("family", args.family, ("llama", "opt"))
    if args.check:
        found = budget_of(size_named(args.size), args.family, steps=args.steps, seed=args.seed)
        show_table(
            console(), f"training {args.size}, {args.family}", ("what", ""), [(k, str(v)) for k, v in found.items()]
        )
        return
    run = Training(
        size_named(args.size),
        args.family,
        args.out,
        seed=args.seed,
        steps=args.steps,
        lr_scale=args.lr_scale,
        device=args.device,
        compiled=args.device == "cuda",
        workers=min(12, os.cpu_count() or 1) if args.device == "cuda" else 0,
    )
    with _bar() as bar:
        task = bar.add_task("training", total=run.total)
        train(run, progress=lambda step, text: bar.update(task, completed=step, description=text))
    console().print(f"{args.out}: trained {run.total} steps", soft_wrap=True)


def _run(parts: "argparse._SubParsersAction[Parser]") -> None:
    parser = _part(parts, "run", "examine a model under plans, raw and adapted", run_plans)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--plans", nargs="*", default=(), metavar="SPEC", help="default: the whole suite")
    parser.add_argument("--only", nargs="*", default=(), metavar="FAMILY", help="of the suite, such as ffn_skip")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: calibration/data/quality/MODEL.json")
    parser.add_argument("--adapted", type=Path, metavar="DIR", help="where adapted models are kept")
    parser.add_argument("--raw", action="store_true", help="adapt nothing")
    parser.add_argument("--items", type=int, default=100, metavar="N", help="per task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--distil-steps", type=int, metavar="N", help=f"default {DISTIL.steps}")
    parser.add_argument("--tune-steps", type=int, metavar="N", help=f"default {TUNE.steps}")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="the rows by task, too")
    _device(parser)


def run_plans(args: argparse.Namespace) -> None:
    """Examine, and show a table."""
    name = args.model.resolve().name
    run = Run(
        folder=args.model,
        out=args.out or DATA / f"{name}.json",
        adapted=args.adapted or Path("out") / "quality" / f"{name}-adapted",
        count=args.items,
        seed=args.seed,
        plans=tuple(args.plans),
        families=tuple(args.only),
        adapt=not args.raw,
        distil=scaled(DISTIL, steps=args.distil_steps, lr=None),
        tune=scaled(TUNE, steps=args.tune_steps, lr=None),
        device=args.device,
    )
    with _bar() as bar:
        task = bar.add_task("dense", total=None)
        table = examine_all(run, progress=lambda text: bar.update(task, description=text))
    if args.csv:
        write_csv(args.csv, table["rows"])
    console().print(f"{name}: {table['source']}\n\n{markdown(table)}", soft_wrap=True, markup=False)


def _show(parts: "argparse._SubParsersAction[Parser]") -> None:
    parser = _part(parts, "show", "a table that `run` wrote, in Markdown", show_plans)
    parser.add_argument("model", metavar="MODEL", help="a committed table's name, or a file")


def show_plans(args: argparse.Namespace) -> None:
    """Print it; nothing is run."""
    file = Path(args.model)
    table = read_table(file if file.suffix == ".json" else DATA / f"{file}.json")
    console().print(markdown(table), soft_wrap=True, markup=False)
    console().print(absent(table), soft_wrap=True, markup=False)


def _adapt(parts: "argparse._SubParsersAction[Parser]") -> None:
    parser = _part(parts, "adapt", "distil for SwiftKV, fine-tune for SkipDecode", adapt_model)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--plan", required=True, metavar="SPEC")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--text", type=Path, metavar="FILE", help="jsonl to train on; default: the model's own tasks")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--lr", type=float, metavar="RATE", help="AdamW's; Muon's, where used, moves along")
    parser.add_argument("--seed", type=int, default=0)
    _device(parser)


def adapt_model(args: argparse.Namespace) -> None:
    """Adapt, and say what it changed."""
    plan = strategy_named(args.plan, read_config(args.model).shape)
    if args.text is None and not (args.model / FILE).exists():
        raise InputError(f"{args.model}: was not trained on our tasks (no {FILE}); give --text FILE.jsonl")
    if args.text:
        source, recipes = text_source(args.model, args.text, seed=args.seed), FOREIGN
    else:
        source, recipes = task_source(args.model, seed=args.seed), {"distil": DISTIL, "tune": TUNE}
    made = {name: scaled(recipe, steps=args.steps, lr=args.lr) for name, recipe in recipes.items()}
    with _bar() as bar:
        task = bar.add_task("adapting", total=None)
        tell = lambda step, text: bar.update(task, description=f"step {step}: {text}")  # noqa: E731
        done = adapt_to(args.model, args.out, plan, source, **made, device=args.device, progress=tell)
    rows = [
        (d.method, f"{d.dense['loss']:.4f}", f"{d.before['loss']:.4f}", f"{d.after['loss']:.4f}",
         percent(d.dense["accuracy"]), percent(d.before["accuracy"]), percent(d.after["accuracy"]))
        for d in done
    ]  # fmt: skip
    columns = ("stage", "loss dense", "before", "after", "tokens right dense", "before", "after")
    show_table(console(), f"{args.out}: {plan.name}, held-out text", columns, rows)


def _profile(parts: "argparse._SubParsersAction[Parser]") -> None:
    parser = _part(parts, "profile", "similarities, gates, and what batches agree on", profile_model)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: …/data/quality/profiles/MODEL.json")
    parser.add_argument("--html", metavar="FILE", help="draw it, too")
    parser.add_argument("--items", type=int, default=64, metavar="N", help="per task, of the calibrate split")
    parser.add_argument("--seed", type=int, default=0)
    _device(parser)


def profile_model(args: argparse.Namespace) -> None:
    """Profile, write, draw."""
    name = args.model.resolve().name
    tasks = tasks_of(Vocabulary(read_world(args.model)))
    items = held_out(tasks, "calibrate", count=args.items, seed=args.seed)
    source = f"calibrate split, {args.items} items per task, seed {args.seed}; rates of this model, nobody else's"
    head = {"model": name, "source": source, "provenance": provenance()}
    profile = head | profile_of(read_twin(args.model, device=args.device), items, seed=args.seed)
    out = args.out or DATA / "profiles" / f"{name}.json"
    write_profile(out, profile)
    if args.html:
        from calibration.quality.picture import profile_page  # plotly is not everywhere where torch is

        write_text(args.html, profile_page(profile, head["provenance"]))
    console().print(f"{out}: {profile['tokens']} generated tokens", soft_wrap=True)


def _import(parts: "argparse._SubParsersAction[Parser]") -> None:
    parser = _part(parts, "import", "read a result of lm-evaluation-harness", import_result)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--model", required=True, help="catalogue name or folder with a config.json")
    parser.add_argument("--plan", default="dense", metavar="SPEC", help="the plan that it was measured under")
    parser.add_argument("--dense", type=Path, metavar="FILE", help="the dense model's result")
    parser.add_argument("--metric", metavar="NAME", help="one metric for all tasks")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: calibration/data/quality/MODEL-lm-eval.json")


def import_result(args: argparse.Namespace) -> None:
    """Import, and say what was found."""
    out = args.out or DATA / f"{Path(args.model).name}-lm-eval.json"
    data = import_harness(args.file, model=args.model, plan=args.plan, dense=args.dense, out=out, metric=args.metric)
    console().print(f"{out}: {data['benchmark']}, {len(data['plans'])} plans", soft_wrap=True)


def _device(parser: Parser) -> None:
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console(), transient=True)
