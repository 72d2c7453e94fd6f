"""`python notebooks/build.py [NAME …]`: run the notebooks' sources and write the executed .ipynb beside them.

Cell ids and metadata are fixed, so that a rebuild only differs in what changed. Needs the `notebooks` extra.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HOME = Path(__file__).resolve().parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
QUIET = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore:IProgress not found"}  # no progress bars in outputs


def sources(names: Sequence[str] = ()) -> list[Path]:
    """The py:percent sources whose file names start with one of `names`; all of them where none is given."""
    found = sorted(HOME.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not names or path.name.startswith(tuple(names))]


def cells_of(source: Path) -> NotebookNode:
    """The notebook of a source, not executed."""
    notebook = jupytext.read(source, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell["metadata"] = {}
    notebook["metadata"] = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    notebook["nbformat"], notebook["nbformat_minor"] = 4, 5
    return notebook


def executed(source: Path, *, timeout_s: int = 300) -> NotebookNode:
    """The notebook with its outputs; raises nbclient's CellExecutionError at the first cell that fails.

    It runs in an empty folder and with an empty IPython profile: nobody's files, history or start-up code take part.
    """
    notebook = cells_of(source)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work")
        work.mkdir()
        home = {"IPYTHONDIR": f"{folder}/ipython", "PYTHONPATH": str(HOME.parent)}
        resources = {"metadata": {"path": str(work)}}
        client = NotebookClient(notebook, timeout=timeout_s, record_timing=False, resources=resources)
        client.execute(env=os.environ | ONE_THREAD | QUIET | home)
    return notebook


def main(names: Sequence[str]) -> int:
    """Write the notebooks; the exit status."""
    for source in sources(names):
        began = perf_counter()
        notebook = executed(source)
        target = source.with_suffix(".ipynb")
        nbformat.write(notebook, target)
        sys.stdout.write(f"{target.name}: {perf_counter() - began:.1f} s, {target.stat().st_size / 1e3:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
