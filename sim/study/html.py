"""The report: one HTML file that opens offline, with figures, sortable tables, their data, and its sources."""

import base64
import gzip
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import plotly.graph_objects as go
import polars as pl
from plotly.offline import get_plotlyjs

from sim.study.jsonable import plain
from sim.study.numerals import human, percent
from sim.study.pictures.style import colour, label

WORDY = 100  # characters of a cell that gets a wide column, so that its row does not grow high
LONG = 12  # rows of a table that a figure already shows, from which on it starts folded

WORDS = {
    "qps": "QPS", "gpu": "GPU", "gpus": "GPUs", "ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2e": "E2E",
    "kv": "KV", "slo": "SLO", "ffn": "FFN", "flops": "FLOPs", "tflops": "TFLOPS", "kwh": "kWh", "dollars": "$",
}  # fmt: skip
UNITS = ("ms", "s", "ns", "bytes")
QUALIFYING = ("_low", "_high", "how")  # what columns end in that stand under the one before: its interval, its origin
SHARE = re.compile(r"(.*_)?(saved|share|skip)|nominal|realised")  # columns of shares, shown as percentages


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it: text, a figure, a table, a part that answers, a note in small print."""

    heading: str
    text: str
    figure: go.Figure | None = None
    table: pl.DataFrame | None = None
    note: str = ""
    body: str = ""  # HTML, for what a script of the page fills
    missing: str = "—"  # what a cell without a value says
    unseen: Sequence[str] = ()  # columns of the table that only its file has


def page(
    title: str,
    summary: str,
    sections: Sequence[Section],
    provenance: Mapping[str, object],
    *,
    frames: Mapping[str, pl.DataFrame] | None = None,
    scripts: Sequence[str] = (),
) -> str:
    """The whole report as one HTML document without a single link to the outside.

    `summary` and the texts are plain text, an empty line between paragraphs. `provenance` (nested mappings and lists
    are fine) is shown at the end, unfolded. Each table offers its data, at full precision, as a CSV file. `frames` are
    embedded once, by column, for `scripts` (more assets) and for one JSON file with everything.
    """
    toc = "".join(f'<li><a href="#s{i}">{_text(s.heading)}</a></li>' for i, s in enumerate(sections))
    contents = f'<nav aria-label="Contents"><ol>{toc}</ol></nav>' if len(sections) > 1 else ""
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    parts = (
        f"<header><h1>{_text(title)}</h1>{_paragraphs(summary)}{_actions(download=frames is not None)}</header>",
        contents,
        f"<main>{body}</main>",
        f'<footer><details open id="provenance"><summary>Assumptions and provenance</summary>{_tree(provenance)}'
        "</details></footer>",
        "" if frames is None else _data(frames, provenance),
        f'<script type="application/gzip" id="plotly">{_plotly()}</script>',
    )
    script = "\n".join(_asset(name) for name in ("report.js", *scripts))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{_text(title)}</title><style>{_asset('report.css')}</style></head>\n<body>"
        + "\n".join(parts)
        + f"\n<script>{script}</script></body></html>\n"
    )


def _actions(*, download: bool) -> str:
    button = '<button type="button" id="download">Download all data (JSON)</button>' if download else ""
    return f'<p class="actions"><a href="#provenance">Assumptions and provenance</a>{button}</p>'


@cache
def _plotly() -> str:
    """The drawing library, packed: a third of its size, and the browser unpacks it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _data(frames: Mapping[str, pl.DataFrame], provenance: Mapping[str, object]) -> str:
    columns = {name: frame.to_dict(as_series=False) for name, frame in sorted(frames.items())}
    return f'<script type="application/json" id="data">{_json({"frames": columns, "provenance": provenance})}</script>'


def _json(value: object) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def heading_of(column: str) -> str:
    """A column's name for people: "max_qps_per_gpu" is "Max QPS per GPU", "ttft_p90_ms" is "TTFT p90 (ms)"."""
    words = column.split("_")
    if words[-1] in UNITS and words[-2:-1] != ["per"]:
        words[-1] = f"({words[-1]})"
    text = " ".join(WORDS.get(word, word) for word in words)
    return text if text[:1] == "k" else text[:1].upper() + text[1:]


def cell_of(column: str, value: object, missing: str = "—") -> str:
    """A value for people: three significant digits, whole numbers in full, shares in percent, words as they are."""
    if value is None or value != value:
        return missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    if isinstance(value, float):
        return percent(value) if SHARE.fullmatch(column) else human(value)
    return str(value)


def _section(number: int, section: Section) -> str:
    figure = "" if section.figure is None else _figure(number, section.figure)
    table = "" if section.table is None else _table(number, section)
    if figure and section.table is not None and len(section.table) > LONG:
        table = f"<details><summary>The data: {len(section.table)} rows</summary>{table}</details>"
    note = f'<div class="note">{_paragraphs(section.note)}</div>' if section.note else ""
    heading = f'<h2 id="s{number}">{_text(section.heading)}</h2>'
    return f"<section>{heading}{_paragraphs(section.text)}{section.body}{figure}{table}{note}</section>\n"


def _figure(number: int, figure: go.Figure) -> str:
    """The figure's place and its data; the title leaves the picture, where it could not wrap, and becomes a caption."""
    spec = json.loads(figure.to_json())
    title = spec["layout"].pop("title", {}).get("text", "")
    margin = spec["layout"].setdefault("margin", {})
    margin["t"] = margin.get("t", 48) - 18
    height = int(spec["layout"].get("height", 450))
    width = int(spec["layout"].get("meta", {}).get("min_width", 0))
    return (
        f'<figure><figcaption>{_text(re.sub("<[^>]*>", " ", title))}</figcaption>'
        f'<div class="scroll bare"><div class="plot" id="f{number}" style="height:{height}px;min-width:{width}px"'
        f' role="img" aria-label="{_text(title)}"></div></div>'
        f'<script type="application/json" data-for="f{number}">{_json(spec)}</script></figure>'
    )


def _table(number: int, section: Section) -> str:
    frame = section.table
    assert frame is not None
    shown = _shown(frame.drop(section.unseen))
    head = "".join(_head(name, numeric=frame[name].dtype.is_numeric()) for name, *_ in shown)
    rows = ""
    for row in frame.iter_rows(named=True):
        cells = (_cell(names, row, section.missing, numeric=frame[names[0]].dtype.is_numeric()) for names in shown)
        rows += f"<tr>{''.join(cells)}</tr>"
    name = re.sub(r"[^a-z0-9]+", "-", section.heading.lower()).strip("-") or f"table-{number}"
    link = base64.b64encode(frame.write_csv().encode()).decode()
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(section.heading)}: table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        f'<p class="download"><a download="{name}.csv" href="data:text/csv;charset=utf-8;base64,{link}">'
        f"Download {'this row' if len(frame) == 1 else f'these {len(frame)} rows'} as CSV</a></p>"
    )


def _shown(frame: pl.DataFrame) -> list[tuple[str, ...]]:
    """The columns as they are shown: one with those behind it that qualify it, by their names' ends."""
    shown: list[tuple[str, ...]] = []
    for name in frame.columns:
        if shown and name.endswith(QUALIFYING):
            shown[-1] += (name,)
        else:
            shown.append((name,))
    return shown


def _head(column: str, *, numeric: bool) -> str:
    kind = ' class="number"' if numeric else ""
    return f'<th scope="col"{kind} aria-sort="none"><button type="button">{_text(heading_of(column))}</button></th>'


def _cell(names: Sequence[str], row: Mapping[str, object], missing: str, *, numeric: bool) -> str:
    column, *others = names
    value = row[column]
    exact = "" if value is None else _text(str(value))
    if column in ("strategy", "plan") and isinstance(value, str):
        return f'<td data-value="{exact}">{_strategy(value)}</td>'
    kind = ' class="number"' if numeric else ' class="long"' if len(exact) > WORDY else ""
    text = _text(cell_of(column, value, missing))
    if value is not None:
        ends = [_text(cell_of(column, row[name])) for name in others if name.endswith(("_low", "_high"))]
        words = [_text(str(row[name])) for name in others if name.endswith("how") and row[name]]
        lines = [" – ".join(ends) if set(ends) != {"—"} else "", *words]
        text += "".join(f"<small>{line}</small>" for line in lines if line)
    return f'<td{kind} data-value="{exact}">{text}</td>'


def _strategy(spec: str) -> str:
    """A strategy as the pictures name and colour it, with the words that ask for it on the command line."""
    said = label(spec)
    broken = re.sub(r"([,+:])", r"\1<wbr>", _text(spec))
    code = f"<br><code>{broken}</code>" if said != spec else ""
    return f'<span class="swatch" style="background:{colour(spec)}"></span>{_text(said)}{code}'


def _tree(value: object, depth: int = 0) -> str:
    """Two levels of mappings as definition lists, what lies deeper as lists; long ones start folded."""
    if isinstance(value, Mapping) and depth < 2:
        pairs = (f"<dt>{_text(str(k))}</dt><dd>{_tree(v, depth + 1)}</dd>" for k, v in value.items())
        return f"<dl>{''.join(pairs)}</dl>"
    if _is_short(value):
        return _text(_inline(value))
    if isinstance(value, Mapping):
        listed = _list(value.items())
        return f"<details><summary>{len(value)} entries</summary>{listed}</details>" if depth == 2 else listed
    assert isinstance(value, Sequence)
    return _list(("", part) for part in value)


def _list(pairs: Iterable[tuple[object, object]]) -> str:
    items = (f"<li>{f'<b>{_text(str(k))}</b>: ' if k else ''}{_tree(v, 3)}</li>" for k, v in pairs)
    return f"<ul>{''.join(items)}</ul>"


def _is_short(value: object) -> bool:
    """Whether a value reads well on one line: anything but nests and lists of long texts."""
    if isinstance(value, str) or not isinstance(value, Mapping | Sequence):
        return True
    parts = list(value.values()) if isinstance(value, Mapping) else list(value)
    flat = all(isinstance(part, str) or not isinstance(part, Mapping | Sequence) for part in parts)
    return flat and sum(len(str(part)) for part in parts) < 120


def _inline(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {cell_of('', v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(cell_of("", v) for v in value)
    return cell_of("", value)


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part.strip())}</p>" for part in text.split("\n\n") if part.strip())


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _asset(name: str) -> str:
    return files("sim.study").joinpath("assets", name).read_text(encoding="utf-8")
