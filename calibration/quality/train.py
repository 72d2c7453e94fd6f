"""A small decoder from scratch: a plain loop, steps that depend on seed and number alone, and a run that resumes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from calibration.provenance import provenance
from calibration.quality.forced import forced, perplexity
from calibration.quality.sampling import held_out
from calibration.quality.sizes import TRAINING, Family, Size
from calibration.quality.steps import prepared
from calibration.quality.tasks import Task, tasks_of
from calibration.quality.vocabulary import Vocabulary
from engine.adapt_data import Texts
from engine.adapt_folder import load_tensors, read_twin, save_tensors, write_folder
from engine.adapt_model import Twin
from engine.adapt_optim import Optimisers, check_finite
from sim.errors import InputError
from sim.plans.plan import SkipPlan, plan_of

PROGRESS = "progress.json"
Curve = list[dict[str, Any]]


@dataclass(frozen=True)
class Training:
    """What is trained, where to, and how often it is saved and looked at."""

    size: Size
    family: Family
    out: Path
    seed: int = 0
    steps: int | None = None  # of the size, if not given
    lr_scale: float = 1.0
    device: str = "cpu"
    compiled: bool = False
    workers: int = 0  # processes that prepare steps ahead; a fast GPU waits for one
    save_every: int = 100
    look_every: int = 100

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.size.steps if self.steps is None else self.steps

    @property
    def resume_folder(self) -> Path:
        """Where an unfinished run lies."""
        return self.out / "unfinished"


def train(run: Training, *, progress: Callable[[int, str], None] = lambda step, text: None) -> Path:
    """The folder of the trained model: bfloat16 safetensors, HF config, tokenizer, tasks, and `training.json`.

    An unfinished run in the same folder is taken up where it was saved, and ends as if it had never stopped. Raises
    InputError when the loss stops being a number (what was saved stays), or the unfinished run is of another kind.
    """
    vocabulary = Vocabulary(run.size.world)
    tasks = tasks_of(vocabulary)
    twin = _new(run, vocabulary)
    optimisers = Optimisers(
        twin.named_parameters(),
        steps=run.total,
        lr=run.size.lr * run.lr_scale,
        adam_lr=run.size.adam_lr * run.lr_scale,
    )
    first, curve, spent = _resume(run, twin, optimisers)
    plan = plan_of(run.size.layers, name="dense")
    forward = torch.compile(twin) if run.compiled else twin
    began = perf_counter() - spent
    for step, batches in prepared(run.size, run.seed, range(first, run.total), full=run.compiled, workers=run.workers):
        loss = gradients(twin, forward, [b.to(twin.device) for b in batches], plan)
        check_finite(loss, step=step, kept=_kept(run))
        optimisers.step(step)
        progress(step + 1, f"loss {loss:.3f}")
        if (step + 1) % run.look_every == 0 or step + 1 == run.total:
            seconds = round(perf_counter() - began, 1)
            curve.append({"step": step + 1, "seconds": seconds, "loss": round(float(loss), 4), **look(twin, tasks)})
        if (step + 1) % run.save_every == 0 and step + 1 < run.total:
            _save(run, twin, optimisers, step + 1, curve, perf_counter() - began)
    return _finish(run, twin, vocabulary, curve)


def gradients(twin: Twin, forward: Callable[..., Tensor], batches: list[Texts], plan: SkipPlan) -> Tensor:
    """The mean cross-entropy over all counted tokens of the batches; its gradients are left in the parameters."""
    count = sum(int(b.counted.sum()) for b in batches)
    total = torch.zeros((), device=twin.device)
    for b in batches:
        schedule = twin.schedule(plan, b.prompt, b.tokens.shape[1])
        with torch.autocast(twin.device.type, torch.bfloat16, enabled=twin.device.type == "cuda"):
            streams = forward(b.tokens, schedule)
            logits = twin.logits(b.predicting(streams))
        loss = cross_entropy(logits, b.targets, reduction="sum") / count
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def look(twin: Twin, tasks: Mapping[str, Task], *, count: int = 32) -> dict[str, float]:
    """Share of answers of the calibrate split that are right in every token, by task; for code its perplexity."""
    plan = plan_of(twin.shape.layers, name="dense")
    seen: dict[str, float] = {}
    for name in tasks:
        items = held_out(tasks, "calibrate", count=count, seed=0, only=[name])
        scores = forced(twin, items, plan)
        prose = items[0].prose
        seen[name] = round(perplexity(scores) if prose else sum(bool(s.right.all()) for s in scores) / len(scores), 4)
    return seen


def _new(run: Training, vocabulary: Vocabulary) -> Twin:
    """A model with random weights, by way of a folder that transformers writes and everybody can read."""
    torch.manual_seed(run.seed)
    config = AutoConfig.for_model(run.family, **run.size.config(run.family, len(vocabulary)))
    hf = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    start = run.resume_folder / "start"
    start.mkdir(parents=True, exist_ok=True)
    hf.save_pretrained(start)
    vocabulary.save(start)
    return read_twin(start, device=run.device)


def _key(run: Training) -> dict[str, Any]:
    return {"size": run.size.name, "family": run.family, "seed": run.seed, "total": run.total, "lr": run.lr_scale}


def _save(run: Training, twin: Twin, optimisers: Optimisers, step: int, curve: Curve, seconds: float) -> None:
    """Weights, optimiser and progress; the progress file comes last and names the others: a cut leaves the old set."""
    folder = run.resume_folder
    old = [f for f in folder.glob("*.safetensors") if f.is_file()]
    tensors = {name: p.detach().cpu().contiguous() for name, p in twin.named_parameters()}
    save_tensors(tensors, folder / f"weights-{step}.safetensors")
    save_tensors(optimisers.state(), folder / f"optimiser-{step}.safetensors")
    progress = {"step": step, "seconds": seconds, "run": _key(run), "curve": curve}
    (folder / "progress.part").write_text(json.dumps(progress), encoding="utf-8")
    (folder / "progress.part").replace(folder / PROGRESS)
    for file in old:
        file.unlink()


def _resume(run: Training, twin: Twin, optimisers: Optimisers) -> tuple[int, Curve, float]:
    """(first step to do, curve, seconds spent) of a saved run, or of a new one."""
    file = run.resume_folder / PROGRESS
    if not file.exists():
        return 0, [], 0.0
    saved = json.loads(file.read_text(encoding="utf-8"))
    if saved["run"] != _key(run):
        raise InputError(f"{file}: an unfinished run of another kind ({saved['run']}); finish it or remove the folder")
    step = int(saved["step"])
    with torch.no_grad():
        weights = load_tensors(run.resume_folder / f"weights-{step}.safetensors")
        for name, p in twin.named_parameters():
            p.copy_(weights[name])
    optimisers.restore(load_tensors(run.resume_folder / f"optimiser-{step}.safetensors"))
    return step, list(saved["curve"]), float(saved["seconds"])


def _kept(run: Training) -> str:
    file = run.resume_folder / PROGRESS
    if not file.exists():
        return "nothing had been saved yet"
    return f"{run.resume_folder} keeps step {json.loads(file.read_text(encoding='utf-8'))['step']}"


def _finish(run: Training, twin: Twin, vocabulary: Vocabulary, curve: Curve) -> Path:
    """Write the folder and clear the unfinished run away."""
    write_folder(twin, run.out, dtype=torch.bfloat16, like=run.resume_folder / "start")
    run.size.world.write(run.out)
    record = {
        "model": run.out.resolve().name,
        "parameters": sum(p.numel() for p in twin.parameters()),
        "note": run.size.note,
        "recipe": _key(run) | {"mix": dict(run.size.mix), "muon_lr": run.size.lr, "adam_lr": run.size.adam_lr},
        "curve": curve,
        "provenance": provenance(),
    }
    (run.out / TRAINING).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    rmtree(run.resume_folder)
    return run.out
