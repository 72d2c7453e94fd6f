"""What the documentation says: links resolve, commands parse, marked blocks run, definitions are the code's."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from sim.run import metrics
from sim.study import cli
from sim.workload.generate import named_workload

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.py"))
FENCE = re.compile(r"^(?:<!-- (run[ \w]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONAL = re.compile(r"\[[^\]]*\]")  # of a synopsis: what may be left out
REMARK = re.compile(r"  #.*| {3,}(?!--)\S.*")  # behind a command: a comment, or a remark in a column of its own
COMMAND = re.compile(r"(?:python -m (?:sim|engine|calibration)|python [\w/]+\.py|make)(?: [^\n`]*)?")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
# named, not shown: commands that want more words
SHORT = ("python -m sim", "python -m engine", "python -m calibration", "python -m sim sweep", "make")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands_of(page: Path) -> list[str]:
    """Every command of a page: in fences, in indented blocks, and in the text between backticks."""
    text = page.read_text(encoding="utf-8")
    lines = [REMARK.sub("", OPTIONAL.sub("", line.strip())) for line in text.splitlines() if line.startswith("    ")]
    lines = [line.strip() for line in lines]
    lines += [line.strip() for _, kind, body in FENCE.findall(text) if kind == "sh" for line in body.splitlines()]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    found = [line for line in lines if COMMAND.fullmatch(line) and "…" not in line.replace('"…"', "")]
    return [line for line in found if line not in SHORT and "|" not in line]


def blocks_of(page: Path) -> list[tuple[str, str, str]]:
    """(mark, language, text) of every fence that is marked to be run."""
    return [block for block in FENCE.findall(page.read_text(encoding="utf-8")) if block[0]]


CASES = [(name_of(page), command) for page in PAGES for command in commands_of(page)]
RUN = [page for page in PAGES if blocks_of(page)]


@pytest.mark.parametrize(("page", "command"), CASES, ids=[f"{p}: {c}"[:90] for p, c in CASES])
def test_every_command_parses(page: str, command: str) -> None:
    words = shlex.split(command)
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE)) | set(re.findall(r"\bgpu-[a-z-]+", makefile))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif words[1] != "-m":
        assert (ROOT / words[1]).is_file()
    else:
        parser_of(words[2])(words[3:])


def parser_of(package: str) -> Callable[[Sequence[str]], object]:
    """What parses the arguments of `python -m package`; it raises for those that cannot be."""
    if package == "engine":
        return pytest.importorskip("engine.__main__")._parser().parse_args  # type: ignore[no-any-return]
    if package == "calibration":
        return lambda words: pytest.importorskip("calibration.cli").parser(words[0]).parse_args(words)
    return cli.parser().parse_args


# what is not run here: the commands that begin so, and the tests that run them
ELSEWHERE = {
    "make": "Makefile",  # continuous integration is `make test`; the others' recipes are commands like these
    "python notebooks/build.py": "tests/test_notebooks.py",
    "python docs/build.py": "tests/test_site.py",
    "python -m calibration fit-kernels": "tests/calibration/test_fit_kernels.py",
    "python -m calibration measure": "tests/calibration/test_measure.py",
    "python -m calibration fit ": "tests/calibration/test_fit.py",
    "python -m calibration validate-engine": "tests/calibration/test_validate_engine.py",
    "python -m calibration validate ": "tests/calibration/test_cli.py",
    "python -m calibration quality": "tests/calibration/test_quality_run.py",
}
SMALL = {
    "study": ["--requests", "200", "--seeds", "1", "--workers", "1", "--draws", "0"],
    "capacity": ["--requests", "300", "--seeds", "1", "--draws", "0"],
    "sweep": ["--requests", "200", "--seeds", "1", "--workers", "1", "--qps", "4"],
    "bench": ["--repeats", "1", "--prompts", "2", "--max-tokens", "4", "--no-transformers"],
    "generate": ["--max-tokens", "4"],
}
MADE = ("mine.json", "coefficients.json", "space.toml")  # files that a page makes before it uses them
MARKED = {line for page in RUN for _, kind, body in blocks_of(page) if kind != "python" for line in body.splitlines()}


def test_every_command_is_run_somewhere() -> None:
    for page, command in CASES:
        elsewhere = [path for start, path in ELSEWHERE.items() if command.startswith(start)]
        assert all((ROOT / path).is_file() for path in elsewhere)
        here = command in MARKED or command.split()[1:3] in (["-m", "sim"], ["-m", "engine"])
        here = here or command.split()[1] in DRAWN
        assert elsewhere or here, f"{page}: nothing runs {command}"


@pytest.mark.slow
def test_commands_that_no_block_runs_run_on_a_small_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = named_workload("azure-conv", requests=120, qps=9)
    frame = pl.DataFrame({name: getattr(drawn, name) for name in ("arrival_ns", "prompt_tokens", "output_tokens")})
    frame.rename({"prompt_tokens": "input_tokens"}).write_csv("my_trace.csv")
    commands = [c for c in dict.fromkeys(c for _, c in CASES) if c not in MARKED and not c.startswith(tuple(ELSEWHERE))]
    assert len(commands) > 8
    for command in commands:
        words = shlex.split(command.replace("=calibration/", f"={ROOT}/calibration/"))
        if words[1] in DRAWN:
            DRAWN[words[1]](Path(words[2]), tmp_path)
        elif words[2] == "sim" and not set(words) & set(MADE):
            assert cli.main(words[3:] + SMALL.get(words[3], [])) == 0, command
        elif words[2] == "engine":
            run_engine(words[3:])


def draw_pictures(study: Path, target: Path) -> None:
    """What draws the README's picture, into another folder; without a browser it says what is missing."""
    script = [sys.executable, str(ROOT / "docs" / "picture.py"), str(study), str(target)]
    made = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    if made.returncode:
        assert made.stderr.startswith("picture: no Chromium found")
    else:
        assert {"study.png", "sliders.png"} <= {path.name for path in target.glob("*.png")}


def write_table(study: Path, target: Path) -> None:
    """What writes the README's table, into a copy of it: one row a plan, the rest as it was."""
    page = target / "README.md"
    before = (ROOT / "README.md").read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    script = [sys.executable, str(ROOT / "docs" / "table.py"), str(study), str(page)]
    made = subprocess.run(script, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert made.returncode == 0, made.stderr
    after = page.read_text(encoding="utf-8")
    start, end = before.index("| plan |"), before.index("; `python -m sim study --save")
    assert after[:start] == before[:start]
    assert after.endswith(before[end:])
    assert after.count("\n| ") == before.count("\n| ")


DRAWN = {"docs/picture.py": draw_pictures, "docs/table.py": write_table}  # what is drawn from a saved study


def run_engine(words: list[str]) -> None:
    """The engine's command, with a tiny model for the folder that the page leaves open."""
    main = pytest.importorskip("engine.__main__").main
    tinies = pytest.importorskip("tests.engine.tinies")
    places = {"DIR": str(tinies.folder_of("llama-gqa")), "cuda": "cpu"}
    assert main([places.get(word, word) for word in words] + SMALL[words[0]]) == 0


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        other = (page.parent / path).resolve() if path else page
        if not (other.exists() and other.is_relative_to(ROOT)) or (anchor and anchor not in anchors_of(other)):
            broken.append(target)
    assert not broken


def anchors_of(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    heads = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_marked_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "documentation"}
    for mark, kind, body in blocks_of(page):
        package = mark.removeprefix("run").strip() or "sim"
        main = cli.main if package == "sim" else pytest.importorskip(f"{package}.__main__").main
        if kind == "python":
            exec(compile(body, name_of(page), "exec"), names)  # as the reader would: one block after the other
            continue
        for line in body.splitlines():
            assert main(shlex.split(line)[3:]) == 0, line


def test_readme_example_runs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for _, kind, body in FENCE.findall(text):
        if kind == "python":
            exec(compile(body, "README.md", "exec"), {"__name__": "readme"})


def test_the_glossary_defines_metrics_in_the_words_of_the_code() -> None:
    glossary = plain((ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"))
    entry = re.compile(r"^(TTFT|TPOT|ITL|E2E|Goodput) +(.+?)(?=^\w|\Z)", re.MULTILINE | re.DOTALL)
    defined = entry.findall(metrics.__doc__ or "")
    assert len(defined) == 5
    for name, words in defined:
        assert f"| {name} | {plain(words).rstrip('.')} |" in glossary, name


def plain(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def test_every_page_is_reachable_from_the_index() -> None:
    linked = set(LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    mine = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    books = {f"../notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb")}
    assert (mine | books) - linked <= {"quality.md", "invariants.md"}
