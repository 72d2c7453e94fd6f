"""`python docs/build.py [FOLDER]`: the documentation as a website, out/docs by default; any warning is an error.

Pages are docs/*.md and the project's own papers; beside them come the notebooks as they were executed, the command
line's help, and a reference from the docstrings. Needs the `docs` extra.
"""

import shutil
import sys
from pathlib import Path

from site_pages import commands, notebooks, reference
from site_pages.links import Map, rewritten
from sphinx.cmd.build import main as sphinx

HOME = Path(__file__).resolve().parent
ROOT = HOME.parent
PAPERS = {"README.md": "about.md", "DESIGN.md": "design.md", "LOG.md": "log.md", "CHANGELOG.md": "changelog.md",
          "CONTRIBUTING.md": "contributing.md"}  # fmt: skip
NAVIGATION = {  # a page stands where it is named first; a pattern takes what is left
    "Start": ["about", "tutorial"],
    "How to": ["howto-bring-a-trace", "howto-calibrate", "howto-run-on-a-gpu", "howto-*", "importers"],
    "Notebooks": ["notebooks/*"],
    "Explanation": ["explanation", "design", "quality", "peers"],
    "Reference": ["cli", "reference/*", "json", "glossary", "invariants"],
    "Project": ["*"],
}  # fmt: skip


def prepare(folder: Path) -> None:
    """Write every page's Markdown into a folder, with links between pages as the site has them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pages: Map = {ROOT / name: target for name, target in PAPERS.items()}
    pages |= {page: page.name for page in HOME.glob("*.md")} | {HOME / "README.md": "index.md"}
    pages |= {book: f"notebooks/{book.stem}.md" for book in ROOT.glob("notebooks/*.ipynb")}
    pages |= {picture: picture.name for picture in HOME.glob("*.png")}
    for source, target in pages.items():
        path = folder / target
        path.parent.mkdir(exist_ok=True)
        if source.suffix == ".png":
            shutil.copy(source, path)
            continue
        text = notebooks.markdown(source) if source.suffix == ".ipynb" else source.read_text(encoding="utf-8")
        path.write_text(rewritten(text, source, target, pages), encoding="utf-8")
    (folder / "cli.md").write_text(commands.markdown(), encoding="utf-8")
    for name, text in reference.pages(ROOT).items():
        path = folder / "reference" / f"{name}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    named = {"index"}
    with (folder / "index.md").open("a", encoding="utf-8") as index:
        for caption, entries in NAVIGATION.items():
            paths = [path for entry in entries for path in sorted(folder.glob(f"{entry}.md"))]
            found = dict.fromkeys(str(path.relative_to(folder).with_suffix("")) for path in paths)
            names = [name for name in found if name not in named]
            named.update(names)
            index.write("\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(names) + "\n```\n")


def build(target: Path) -> int:
    """The website in a folder; the exit status of Sphinx."""
    sources = target.with_name(target.name + "-sources")
    prepare(sources)
    quiet = ["--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    return int(sphinx([*quiet, "-c", str(HOME / "site_pages"), "-b", "html", str(sources), str(target)]))


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "docs"))
