"""Draws the pictures of README and tutorial: `python docs/picture.py out/study`, a folder that `study --save` wrote.

study.png is the report's first figure, sliders.png its What if; beside this file, or in a folder that is named second.
Needs Chromium (Debian: chromium).
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sim.errors import InputError
from sim.study.html import page
from sim.study.outcome import Outcome, load_outcome
from sim.study.report import summary_of, title_of
from sim.study.whatif_page import SCRIPT, what_if_section

HOME = Path(__file__).resolve().parent
FRAME = 88  # Chromium counts its absent title bar
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000")


def figure_page(outcome: Outcome, width: int, height: int) -> str:
    """The study's first figure, filling the window."""
    figure = outcome.figure().update_layout(width=width, height=height, paper_bgcolor="white")
    return str(figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))


def sliders_page(outcome: Outcome) -> str:
    """The report with its What if alone."""
    question: Any = outcome.provenance["question"]
    sections = what_if_section(outcome.frames, question)
    words = title_of(question), summary_of(outcome.rows, question)
    return page(*words, sections, outcome.provenance, frames=outcome.frames, scripts=[SCRIPT])


def photograph(text: str, target: Path, width: int, height: int) -> None:
    """Write a PNG of the top of a page; raises InputError without a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise InputError("no Chromium found: install Debian's chromium to draw the pictures")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "page.html"
        source.write_text(text, encoding="utf-8")
        size, shot = f"--window-size={width},{height + FRAME}", f"--screenshot={target.resolve()}"
        command = [browser, *FLAGS, f"--user-data-dir={scratch}/profile", size, shot, source.as_uri()]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    try:
        outcome = load_outcome(Path(sys.argv[1] if len(sys.argv) > 1 else "out/study"))
        target = Path(sys.argv[2]) if len(sys.argv) > 2 else HOME
        photograph(figure_page(outcome, 1100, 460), target / "study.png", 1100, 460)
        photograph(sliders_page(outcome), target / "sliders.png", 1180, 1080)
    except InputError as mistake:
        sys.exit(f"picture: {mistake}")
