"""The runs of a campaign as data: which commands, in which order, and how long each may take."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 585  # of a run
TINY = "tiny"  # the folder of a rehearsal's model
PAPERS = {  # what each paper is about
    "depth": ("dense", *(f"skip_decode:speedup={x}" for x in (2, 3, 4, 5))),
    "ffn": ("dense", "ffn_skip:share=0.1", "ffn_skip:share=0.25"),
    "prompts": (
        "dense", "swift_kv:keep=16", "swift_kv:keep=24", "swift_kv:keep=16,group=2", "swift_kv:keep=16,group=4",
        "swift_kv:keep=16+skip_decode:speedup=2",
    ),
}  # fmt: skip
SERVED = ("dense", "swift_kv", "skip_decode:speedup=2", "ffn_skip:share=0.25", "swift_kv+skip_decode:speedup=2")
SMALL = ("dense", "swift_kv")
KERNELS = ("gemm", "decode_attention", "prefill_attention", "norm", "keys", "activation", "masked_ffn", "sample")
ON_DEVICE = ("tests/engine/kernels/on_device", "tests/engine/test_segments.py")
# warnings of the versions that are there are no errors, and pytest's own settings are not ours
PLAIN = ("-q", "--tb", "short", "-W", "default", "--override-ini", "addopts=")


@dataclass(frozen=True)
class Step:
    """One command, `python -m …`, and the seconds that it may take. `under` runs it under another program."""

    name: str
    words: tuple[str, ...]
    seconds: int
    under: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """Where a run writes, which model it is about, and whether it is a rehearsal on a CPU."""

    out: Path
    model: str
    dry: bool

    @property
    def engine(self) -> tuple[str, ...]:
        """Model and device, as every command takes them."""
        return "--model", str(self.out / TINY) if self.dry else self.model, *self.device

    @property
    def device(self) -> tuple[str, ...]:
        """The device alone."""
        return "--device", "cpu" if self.dry else "cuda"

    @property
    def trained(self) -> str:
        """Where the trained model lies: too large to be carried home, there as long as the machine is."""
        return str(Path("out") / "quality" / ("rehearsal" if self.dry else "h200-llama"))

    def path(self, name: str) -> str:
        """A file of the run."""
        return str(self.out / name)

    def made(self, *steps: Step) -> list[Step]:
        """The steps; in a rehearsal they need a model first."""
        words = ("engine", "tiny", str(self.out / TINY), "--layers", "4")
        return [Step("a tiny model", words, 60), *steps] if self.dry else [*steps]

    def measure(self, name: str, seconds: int, *words: str) -> Step:
        """A step of measuring into the run's folder, with what is there already taken up."""
        budget = 2 if self.dry else seconds - 25  # loading and the last item come on top
        common = ("--out", str(self.out), "--resume", "--budget-s", str(budget))
        return Step(name, ("calibration", "measure", *self.engine, *common, *words), seconds)


def check(t: Target) -> list[Step]:
    """Kernels against float64 references, the whole engine on them, graphs: the tests that need a GPU."""
    return [Step("tests", ("pytest", *(ON_DEVICE[1:] if t.dry else ON_DEVICE), "-m", "gpu", *PLAIN), 560)]


def soak(t: Target) -> list[Step]:
    """Replay is eager, tokens are transformers', thousands of random steps lose nothing."""
    return [Step("soak", ("tests.gpu_soak", *(("--dry",) if t.dry else ("--steps", "1500"))), 560)]


def sanitize(t: Target) -> list[Step]:
    """Attention under compute-sanitizer, where the machine has it."""
    under = () if t.dry else ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9")
    tests = ON_DEVICE[1] if t.dry else f"{ON_DEVICE[0]}/test_attention.py"
    return [Step("memcheck", ("pytest", tests, "-m", "gpu", "-x", *PLAIN), 560, under)]


def ceilings(t: Target) -> list[Step]:
    """Copy bandwidth, matmul rate, launches, replays, the gap between graphs."""
    return t.made(
        t.measure("ceilings", 120, "--only", "copy", "product", "launch", "replay"),
        Step("table", ("calibration", "shares", str(t.out)), 30),
    )


def kernels(t: Target) -> list[Step]:
    """Each kernel's share of its ceiling, and other tiles for those of our own."""
    return t.made(
        t.measure("ceilings", 60, "--only", "copy", "product"),
        t.measure("kernels", 170, "--only", *KERNELS),
        Step("table", ("calibration", "shares", str(t.out)), 30),
        Step("tiles", ("calibration", "tune", *t.engine, "--out", str(t.out), "--resume", "--budget-s", "280"), 320),
    )


def measure(t: Target) -> list[Step]:
    """The whole grid and whole steps, as far as the time goes; run it again to go on."""
    return t.made(t.measure("measure", 570, *(("--plans", *SMALL, "--repeats", "1") if t.dry else ())))


def bench(t: Target) -> list[Step]:
    """The papers' settings on the engine, and transformers on the same machine."""
    sets = ("depth", "ffn") if t.model.startswith("opt") else ("prompts",)
    seconds = 420 // len(sets)
    only = ("--only", "copy", "product", "step", "--repeats", "2", "--plans")
    steps = [t.measure(f"{one}", seconds, "--bursts", one, *only, *(SMALL if t.dry else PAPERS[one])) for one in sets]
    sizes = ("2", "8", "4") if t.dry else ("8", "512", "64")
    asked = tuple(x for pair in zip(("--prompts", "--prompt-tokens", "--max-tokens"), sizes) for x in pair)
    words = ("engine", "bench", *t.engine, *asked, "--repeats", "2", "--strategy", "dense", "--json")
    return t.made(*steps, Step("transformers", words, 150))


def serve(t: Target) -> list[Step]:
    """The engine under traffic, plan by plan, at shares of its capacity: the half of a validation that needs a GPU."""
    words = ("calibration", "validate-engine", *t.engine, "--record", t.path("record.json"), "--repeats", "1")
    small = ("--plans", *SMALL, "--requests", "6", "--lengths", "uniform", "--slots", "4", "--max-context", "64")
    real = ("--plans", *SERVED, "--requests", "150", "--slots", "32", "--max-context", "4096")
    return t.made(Step("serve", (*words, *(small if t.dry else real)), 570))


def quality_train(t: Target) -> list[Step]:
    """The model of the quality tables, trained from a seed; saved as it goes, so that a second run goes on."""
    size = ("--size", "cpu", "--steps", "2") if t.dry else ("--size", "h200")
    return [Step("train", ("calibration.quality", "train", *size, "--out", t.trained, *t.device), 575)]


def quality_run(t: Target) -> list[Step]:
    """Every plan raw and adapted on the trained model, and what its FFNs' similarity says."""
    run = ("calibration.quality", "run", "--model", t.trained, "--out", t.path("quality.json"), *t.device)
    small = ("--plans", "swift_kv", "--items", "1", "--raw")
    profile = ("calibration.quality", "profile", "--model", t.trained, "--out", t.path("profile.json"), *t.device)
    return [
        Step("profile", (*profile, *(("--items", "1") if t.dry else ())), 90),
        Step("plans", (*run, *(small if t.dry else ())), 485),
    ]


def quality_speed(t: Target) -> list[Step]:
    """Speed of the trained model itself, batch 1 to 256: the other half of its quality."""
    common = ("calibration", "measure", "--model", t.trained, *t.device, "--out", str(t.out), "--resume")
    plans = ("--only", "step", "--plans", *(SMALL if t.dry else SERVED))
    return [
        Step(name, (*common, "--bursts", name, *plans, "--budget-s", "2" if t.dry else "260"), 285)
        for name in ("ffn", "depth")
    ]


RUNS: Mapping[str, Callable[[Target], list[Step]]] = {
    "check": check,
    "soak": soak,
    "sanitize": sanitize,
    "ceilings": ceilings,
    "kernels": kernels,
    "measure": measure,
    "bench": bench,
    "serve": serve,
    "quality-train": quality_train,
    "quality-run": quality_run,
    "quality-speed": quality_speed,
}
