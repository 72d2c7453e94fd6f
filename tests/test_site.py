"""The documentation as a website: it builds without a warning, its links lead somewhere, its figures are drawn."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.browser import chromium

ROOT = Path(__file__).resolve().parents[1]
BOOK = "notebooks/01_what_each_strategy_skips.html"
pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """Addresses and ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        self.ids.add(given.get("id") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The website, built as `make docs` does."""
    pytest.importorskip("sphinx")
    target = tmp_path_factory.mktemp("site") / "docs"
    command = [sys.executable, str(ROOT / "docs" / "build.py"), str(target)]
    made = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""  # any warning fails the build; nothing else is said either
    return target


def test_every_page_is_there_and_every_address_on_it_leads_somewhere(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html")}
    names = {str(path.relative_to(site)) for path in pages}
    mine = {f"{page.stem}.html" for page in ROOT.glob("docs/*.md")} - {"README.html"}
    books = {f"notebooks/{book.stem}.html" for book in ROOT.glob("notebooks/*.ipynb")}
    assert mine | books | {"index.html", "cli.html", "reference/sim.plans.html", "design.html"} <= names
    broken = []
    for path, page in pages.items():
        for address in page.addresses:
            if re.match(r"[a-z]+:", address) or not address:
                continue
            file, _, anchor = address.partition("#")
            there = (path.parent / unquote(file.partition("?")[0])).resolve() if file else path
            if not there.is_file() or (anchor and there in pages and unquote(anchor) not in pages[there].ids):
                broken.append((path.name, address))
    assert not broken


def test_every_page_can_be_reached_from_the_first(site: Path) -> None:
    linked = {address.partition("#")[0] for address in Page(site / "index.html").addresses}
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html") if "_static" not in path.parts}
    assert pages - linked <= {"index.html", "genindex.html", "search.html"}


def test_the_reference_holds_what_the_docstrings_say(site: Path) -> None:
    text = (site / "reference" / "sim.run.html").read_text(encoding="utf-8")
    assert "Seconds from the first arrival to the last token" in text
    assert "Slo" in text


def test_figures_of_a_notebook_are_drawn(site: Path, tmp_path: Path) -> None:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", "--dump-dom"]
    command = [chromium(), *flags, f"--user-data-dir={tmp_path}", (site / BOOK).as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    figures = (site / BOOK).read_text(encoding="utf-8").count('data-for="')
    assert figures >= 2
    assert page.count('class="main-svg"') >= figures
    assert 'data-figures="drawn"' in page
