"""An executed notebook as a page: its text, its code, what it printed, and its figures, which can be zoomed."""

import html
import json
import re
from pathlib import Path
from typing import Any

WIDE = 1000  # characters of a printed line, beyond which the rest is left out


def markdown(book: Path) -> str:
    """The notebook as Markdown for MyST; figures are drawn by the site's script."""
    cells = json.loads(book.read_text(encoding="utf-8"))["cells"]
    parts = []
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        parts += [_output(output, f"{book.stem}-{number}-{i}") for i, output in enumerate(cell["outputs"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: dict[str, Any], name: str) -> str:
    data = output.get("data", {})
    if "application/vnd.plotly.v1+json" in data:
        return _figure(data["application/vnd.plotly.v1+json"], name)
    if "text/html" in data:
        return _raw(f'<div class="output">{"".join(data["text/html"])}</div>')
    text = "".join(output.get("text", data.get("text/plain", "")))
    lines = [line[:WIDE] for line in text.rstrip().splitlines()]
    return _raw(f'<pre class="output">{html.escape(chr(10).join(lines))}</pre>') if lines else ""


def _figure(spec: dict[str, Any], name: str) -> str:
    """The figure's place and its data; its title leaves the picture, where it could not wrap, and becomes a caption."""
    height = spec["layout"].get("height", 450)
    drawn = {key: spec[key] for key in ("data", "layout", "frames") if key in spec}
    drawn["layout"] = {key: value for key, value in spec["layout"].items() if key != "title"}
    margin = drawn["layout"].get("margin", {})
    drawn["layout"]["margin"] = {**margin, "t": margin.get("t", 48) - 18}
    title = re.sub("<[^>]*>", " ", spec["layout"].get("title", {}).get("text", ""))
    text = json.dumps(drawn, separators=(",", ":")).replace("<", "\\u003c")
    return _raw(
        f'<p class="title-of-figure">{title}</p><div class="scroll">'
        f'<div class="plot" id="{name}" style="height:{height}px"></div></div>'
        f'<script type="application/json" data-for="{name}">{text}</script>'
    )


def _raw(text: str) -> str:
    return "```````{raw} html\n" + text + "\n```````"
