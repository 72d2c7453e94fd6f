"""The whole examination of a model: every plan, raw and adapted, written as it goes, taken up where it stopped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from calibration.provenance import provenance
from calibration.quality.adapting import DISTIL, RECORD, TUNE, adapt_to, task_source
from calibration.quality.answers import ask
from calibration.quality.examine import Row, Sheet, examine, task_rows
from calibration.quality.sampling import held_out
from calibration.quality.similarity import watch
from calibration.quality.suite import Candidate, named, of_families, suite
from calibration.quality.table import BENCHMARK, read_table, summary_of, write_table
from calibration.quality.tasks import Item, tasks_of
from calibration.quality.vocabulary import Vocabulary
from calibration.quality.votes import vote_sheet
from calibration.quality.world import read_world
from engine.adapt import Recipe
from engine.adapt_folder import read_twin, tokenizer_of
from sim.errors import InputError
from sim.plans.plan import SkipPlan

DATA = Path(__file__).resolve().parents[1] / "data" / "quality"
BATCH, ALONE, ALONE_ITEMS = 64, 1, 3  # rows at once; and how many items per task are asked one by one
WARNING = "CPU-size model trained here on synthetic tasks: ranking may transfer, magnitudes do not"


@dataclass
class Run:
    """What is examined, how, and where the adapted models are kept."""

    folder: Path
    out: Path  # the JSON file
    adapted: Path  # folder of adapted models, one per plan
    count: int = 100  # items per task
    seed: int = 0
    plans: Sequence[str] = ()  # specs; the suite when empty
    families: Sequence[str] = ()  # of the suite; all when empty
    adapt: bool = True
    distil: Recipe = DISTIL
    tune: Recipe = TUNE
    device: str = "cpu"
    note: str = WARNING
    summaries: list[Row] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    absent: list[Row] = field(default_factory=list)


def examine_all(run: Run, *, progress: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """The table of the model, as it was written to `run.out`. Raises InputError and PlanError for unusable input."""
    tokenizer_of(run.folder)
    vocabulary = Vocabulary(read_world(run.folder))
    tasks = tasks_of(vocabulary)
    items = held_out(tasks, "test", count=run.count, seed=run.seed)
    head = _head(run, items)
    twin = read_twin(run.folder, device=run.device)
    if run.plans:
        candidates = named(run.plans, twin.shape)
    else:
        calibrate = held_out(tasks, "calibrate", count=64, seed=run.seed)
        candidates = suite(twin.shape, watch(twin, calibrate))
        if run.families:
            candidates = of_families(candidates, run.families)
    _take_up(run, head)
    dense = examine(run.folder, items, _plan(candidates[0]), rows=BATCH, device=run.device)
    for candidate in candidates:
        if candidate.plan is None:
            _leave_out(run, candidate, candidate.why_not)
            continue
        for weights in _weights(run, candidate, twin.shape.family):
            if not _have(run, candidate, weights):
                progress(f"{candidate.label}, {weights}")
                folder = run.folder if weights == "raw" else _adapted(run, candidate.plan, progress)
                _add(run, candidate, weights, folder, items, dense, vocabulary)
                run.summaries[-1]["measured"] = _when(head)
                write_table(run.out, head, run.summaries, run.rows, run.absent)
    write_table(run.out, head, run.summaries, run.rows, run.absent)
    return read_table(run.out)


def weights_hash(folder: Path) -> str:
    """Sixteen hex digits of a model's weights."""
    return sha256(b"".join(f.read_bytes() for f in sorted(folder.glob("*.safetensors")))).hexdigest()[:16]


def _head(run: Run, items: Sequence[Item]) -> dict[str, Any]:
    counts = {name: sum(item.task == name for item in items) for name in dict.fromkeys(item.task for item in items)}
    source = f"{run.note}; test split, greedy, {run.count} items per task, seed {run.seed}"
    return {
        "model": run.folder.resolve().name,
        "benchmark": BENCHMARK,
        "source": source,
        "weights": weights_hash(run.folder),
        "items": counts,
        "seed": run.seed,
        "batch_rows": BATCH,
        "provenance": provenance(),
    }


def _when(head: dict[str, Any]) -> dict[str, Any]:
    return {name: head["provenance"][name] for name in ("date", "commit")}


def _take_up(run: Run, head: dict[str, Any]) -> None:
    """What an earlier run of the same weights, items and seed has already measured."""
    if run.out.exists():
        before = read_table(run.out)
        if all(before.get(name) == head[name] for name in ("model", "weights", "items", "seed")):
            run.summaries, run.rows, run.absent = before["summaries"], before["rows"], before["absent"]
            for s in run.summaries:  # of when the plan was examined, which the head forgets
                s.setdefault("measured", _when(before))


def _leave_out(run: Run, candidate: Candidate, why_not: str) -> None:
    absent = {"strategy": candidate.family, "setting": candidate.setting, "why_not": why_not}
    run.absent += [absent] if absent not in run.absent else []


def _weights(run: Run, candidate: Candidate, family: str) -> tuple[str, ...]:
    """The weights that a plan is examined on."""
    if candidate.need.startswith("distil") and family == "opt":
        _leave_out(run, candidate, "adapted: SwiftKV's checkpoint format defines no OPT")
        return ("raw",)
    return ("raw", "adapted") if run.adapt and candidate.need != "nothing" else ("raw",)


def _have(run: Run, candidate: Candidate, weights: str) -> bool:
    return any(s["digest"] == candidate.key and s["weights"] == weights for s in run.summaries)


def _plan(candidate: Candidate) -> SkipPlan:
    if candidate.plan is None:
        raise InputError(f"{candidate.label}: {candidate.why_not}")
    return candidate.plan


def _adapted(run: Run, plan: SkipPlan, progress: Callable[[str], None]) -> Path:
    """The folder of the model adapted to a plan: made now, or by an earlier run."""
    folder = run.adapted / plan.digest
    if not (folder / RECORD).exists():
        source = task_source(run.folder, seed=run.seed)

        def tell(step: int, text: str) -> None:
            if step % 20 == 0:
                progress(f"  {plan.name}: step {step}, {text}")

        adapt_to(run.folder, folder, plan, source, distil=run.distil, tune=run.tune, device=run.device, progress=tell)
    return folder


def _add(
    run: Run, candidate: Candidate, weights: str, folder: Path, items: list[Item], dense: Sheet, vocabulary: Vocabulary
) -> None:
    """Examine one plan on one set of weights, and put it into the table."""
    plan = _plan(candidate)
    if candidate.vote:
        sheet = vote_sheet(folder, items, plan, rows=candidate.vote, device=run.device)
    else:
        sheet = dense if plan.is_dense else examine(folder, items, plan, rows=BATCH, device=run.device)
    rows = list(task_rows(sheet, dense, vocabulary, seed=run.seed))
    summary = summary_of(candidate, plan, weights, rows, seed=run.seed)
    summary["twin_disagrees"] = sheet.disagreements
    if candidate.vote:
        summary["realised"] = {f"{candidate.vote} rows": sheet.answers.realised}
    else:
        few = [items[i] for row in rows for i in sheet.of(row["task"])[:ALONE_ITEMS]]
        alone = ask(folder, few, plan, rows=ALONE, device=run.device)
        summary["realised"] = {f"{BATCH} rows": sheet.answers.realised, f"{ALONE} row": alone.realised}
    summary["notes"] = list(sheet.answers.notes)
    key = {name: summary[name] for name in ("strategy", "setting", "weights", "digest")}
    run.summaries.append(summary)
    run.rows += [{**key, **row} for row in rows]
