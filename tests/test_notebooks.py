"""The notebooks: sources and executed copies in step, every claim followed by a check, and all of it runs."""

import json
from pathlib import Path

import nbformat
import pytest

from notebooks.build import cells_of, executed, sources

LINES, BYTES = 200, 1_500_000
SOURCES = sources()
each = pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])


def test_there_are_seven() -> None:
    assert [path.name[:2] for path in SOURCES] == [f"{i:02d}" for i in range(1, 8)]
    assert {path.with_suffix(".ipynb") for path in SOURCES} == set(SOURCES[0].parent.glob("*.ipynb"))


@each
def test_source_and_notebook_hold_the_same_cells(source: Path) -> None:
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(committed)
    mine, theirs = ([(c.cell_type, c.source) for c in book.cells] for book in (cells_of(source), committed))
    assert mine == theirs, f"run: python notebooks/build.py {source.name[:2]}"


@each
def test_notebook_was_executed_from_top_to_bottom_without_an_error(source: Path) -> None:
    code = [c for c in nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]


@each
def test_notebook_is_small_and_names_no_machine(source: Path) -> None:
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(source.read_text(encoding="utf-8").splitlines()) <= LINES
    assert len(text.encode()) < BYTES
    outputs = json.dumps([c.get("outputs") for c in json.loads(text)["cells"]])
    assert not [place for place in ("/home/", "/root/", "/tmp/", "/work/", "C:\\\\") if place in outputs]


@each
def test_every_claim_is_followed_by_a_check_that_can_fail(source: Path) -> None:
    cells = cells_of(source).cells
    claims = [i for i, cell in enumerate(cells) if cell.cell_type == "markdown" and "**Claim" in cell.source]
    assert claims
    for i in claims:
        assert i + 1 < len(cells), cells[i].source
        assert cells[i + 1].cell_type == "code", cells[i].source
        assert "assert " in cells[i + 1].source, cells[i].source


@pytest.mark.slow
@each
def test_notebook_runs(source: Path) -> None:
    committed = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    again = executed(source)  # raises at the first claim that does not hold
    kinds = [[[o.output_type for o in c.get("outputs", [])] for c in book.cells] for book in (again, committed)]
    assert [len(row) for row in kinds[0]] == [len(row) for row in kinds[1]]
