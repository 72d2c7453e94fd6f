"""Headless Chromium: draws a page, asks it by script, reads its console, prints and photographs it."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--virtual-time-budget=30000",
)
NARROW = 500  # pixels: Chromium lays no window out narrower, so a phone is a frame in a wider one

COLLECT = """<script>
const problems = [];
addEventListener("error", (e) => problems.push(String(e.message || e.target.src || e.target.href)), true);
addEventListener("unhandledrejection", (e) => problems.push(String(e.reason)));
for (const level of ["error", "warn"]) console[level] = (...said) => problems.push(said.join(" "));
</script>"""

ANSWER = """<script>
(async () => {
  while (document.documentElement.dataset.figures !== "drawn") await new Promise((r) => setTimeout(r, 20));
  let answer = null;
  try { answer = await (async () => { SCRIPT })(); } catch (e) { problems.push(String(e)); }
  const said = JSON.stringify({answer, problems});
  if (parent !== window) parent.postMessage(said, "*"); else document.documentElement.dataset.said = said;
})();
</script>"""

FRAME = """<!DOCTYPE html><html><body style="margin:0">
<script>addEventListener("message", (e) => { document.documentElement.dataset.said = e.data; });</script>
<iframe src="page.html" style="border:0;width:WIDTHpx;height:HEIGHTpx"></iframe></body></html>"""


def chromium() -> str:
    """The browser's path; skips the test, saying so, where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no chromium on this machine (Debian: apt-get install chromium)")
    return found


def ask(page: str, script: str, folder: Path, *, width: int = 1280, height: int = 2400) -> tuple[Any, list[str]]:
    """What the body of an async function returns in the drawn page, and every error and warning of its console."""
    before, _, after = page.rpartition("</body>")  # plotly's own source speaks of bodies, too
    done = before.replace("<head>", "<head>" + COLLECT, 1) + ANSWER.replace("SCRIPT", script) + "</body>" + after
    out = _run(_write(done, folder, width, height), folder, ["--dump-dom", f"--window-size={width},{height}"])
    said = re.search(r'data-said="([^"]*)"', out)
    assert said, f"the page never finished drawing:\n{out[-2000:]}"
    answer = json.loads(html.unescape(said.group(1)))
    return answer["answer"], answer["problems"]


def photograph(page: str, picture: Path, *, width: int, height: int) -> Path:
    """A PNG of the top of the page as a screen of that size shows it."""
    folder = picture.parent
    path = _write(page, folder, width, height)
    _run(path, folder, [f"--screenshot={picture}", f"--window-size={width},{height}"])
    return picture


def print_to_pdf(page: str, paper: Path) -> Path:
    """The page as it prints."""
    path = _write(page, paper.parent, 1280, 2400)
    _run(path, paper.parent, [f"--print-to-pdf={paper}", "--no-pdf-header-footer"])
    return paper


def _write(page: str, folder: Path, width: int, height: int) -> Path:
    """The file to open: the page, or a frame as narrow as a phone around it."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    if width >= NARROW:
        return path
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)).replace("HEIGHT", str(height)), encoding="utf-8")
    return frame


def _run(path: Path, folder: Path, arguments: Sequence[str]) -> str:
    command = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
