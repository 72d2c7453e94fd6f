"""Draws docs/study.png, the README's picture: `python docs/picture.py out/study`, a folder that `study --save` wrote.

Needs Chromium (Debian: chromium), which draws the very figure that the report shows.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sim.errors import InputError
from sim.study.outcome import load_outcome

WIDTH, HEIGHT = 1100, 460
FRAME = 88  # Chromium counts its absent title bar


def draw(folder: Path, target: Path) -> None:
    """Write the study's capacity figure as PNG; raises InputError without a saved study or a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise InputError("no Chromium found: install Debian's chromium to draw the picture")
    figure = load_outcome(folder).figure().update_layout(width=WIDTH, height=HEIGHT, paper_bgcolor="white")
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "figure.html"
        page.write_text(figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000"]
        size, shot = f"--window-size={WIDTH},{HEIGHT + FRAME}", f"--screenshot={target.resolve()}"
        subprocess.run(
            [browser, *flags, f"--user-data-dir={scratch}/profile", size, shot, page.as_uri()],
            check=True,
            capture_output=True,
        )


if __name__ == "__main__":
    try:
        draw(Path(sys.argv[1] if len(sys.argv) > 1 else "out/study"), Path(__file__).with_name("study.png"))
    except InputError as mistake:
        sys.exit(f"picture: {mistake}")
