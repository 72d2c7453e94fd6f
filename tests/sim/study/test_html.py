"""The report is one well-formed file that loads nothing, keeps text text, and has all data with it."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.study import pictures
from sim.study.html import Section, cell_of, heading_of, page
from tests.sim.study import frames
from tests.sim.study.report_page import study_page

EVIL = "<script>alert('x')</script> & \"quotes\" </body>"
PROVENANCE = {
    "model": "llama-3.1-8b",
    "slo": {"ttft_ms": 1000.0, "tpot_ms": 50.0},
    "fits": {"gemm": {f"term {i}": {"median": 0.01 * i, "p90": [0.1, 0.2]} for i in range(9)}},
    "notes": ["one", "two " * 40],
    "evil": EVIL,
    "nothing": {},
}


PAGE = study_page(PROVENANCE)


class Outline(HTMLParser):
    """Tags left open, addresses that the page loads or links to, and the text of every table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "wbr", "input"):
            self.open.append(tag)
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def test_every_tag_is_closed_and_every_id_is_unique() -> None:
    outline = Outline(PAGE)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {a[1:] for a in outline.addresses if a.startswith("#")} <= set(outline.ids)


def test_nothing_is_loaded_from_anywhere() -> None:
    addresses = Outline(PAGE).addresses
    assert addresses
    assert all(a.startswith(("#", "data:")) for a in addresses)
    style = PAGE[PAGE.index("<style>") : PAGE.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert PAGE.count("<script>") == 1  # our own; what else is a script element is data
    assert PAGE.count('id="plotly"') == 1


def test_whatever_the_text_says_it_stays_text() -> None:
    evil = pl.DataFrame({"strategy": [EVIL], EVIL: [EVIL]})
    figure = go.Figure(layout={"title": EVIL, "xaxis": {"title": EVIL}})
    made = page(EVIL, EVIL, [Section(EVIL, EVIL, figure, evil, EVIL)], {EVIL: {EVIL: [EVIL, EVIL]}})
    assert "<script>alert" not in made
    assert made.count("alert(&#x27;x&#x27;)") >= 10
    outline = Outline(made)
    assert outline.open == []
    assert outline.rows[1] == [EVIL, EVIL]


def test_a_table_shows_every_cell_and_offers_the_data_exactly() -> None:
    frame = frames.capacities()
    made = page("t", "s", [Section("How many?", "x", table=frame, missing="not measured")], {})
    rows = Outline(made).rows
    assert rows[0] == [heading_of(c) for c in frame.columns if not c.endswith(("_low", "_high", "_how"))]
    assert len(rows) == 1 + len(frame)
    for row, values in zip(rows[1:], frame.iter_rows(named=True)):
        assert row[0].startswith(pictures.label(values["strategy"]))
        assert ("published" in row[-1]) == (values["quality_how"] is not None)
        known = [values[f"max_qps_{end}"] for end in ("low", "high") if values[f"max_qps_{end}"]]
        ends = " – ".join(map(pictures.human, known))
        assert row[1] == pictures.human(values["max_qps_per_gpu"]) + ends
        assert (row[-1] == "not measured") == (values["quality"] is None)
    csv = base64.b64decode(re.search(r"base64,([^\"]*)", made).group(1))  # type: ignore[union-attr]
    assert pl.read_csv(io.BytesIO(csv)).equals(frame)
    assert 'download="how-many.csv"' in made


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("max_qps_per_gpu", "Max QPS per GPU"),
        ("ttft_p90_ms", "TTFT p90 (ms)"),
        ("output_tokens_per_s_per_gpu", "Output tokens per s per GPU"),
        ("output_tokens_per_s", "Output tokens per s"),
        ("kv_bytes", "KV (bytes)"),
        ("dollars_per_million_output_tokens", "$ per million output tokens"),
        ("kwh_per_million_output_tokens", "kWh per million output tokens"),
    ],
)
def test_column_names_become_words_with_units(column: str, said: str) -> None:
    assert heading_of(column) == said


def test_cells_are_made_for_people() -> None:
    cells = [("flops_saved", 0.1234), ("share", 0.5), ("qps", 1234.5), ("gpus", 12345), ("ok", True), ("x", math.nan)]
    assert [cell_of(c, v) for c, v in cells] == ["12.3%", "50%", "1,230", "12,345", "yes", "—"]
    assert cell_of("quality", None, "not measured") == "not measured"


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=150)
KEYS = st.text(max_size=9)
NESTS = st.recursive(
    LEAVES, lambda part: st.lists(part, max_size=4) | st.dictionaries(KEYS, part, max_size=4), max_leaves=25
)


@given(st.dictionaries(KEYS, NESTS, max_size=5))
def test_any_provenance_is_shown_and_well_formed(provenance: dict[str, object]) -> None:
    made = page("t", "s", [], provenance)
    footer = made[made.index("<footer>") : made.index("</footer>") + len("</footer>")]
    assert Outline(footer).open == []
    assert '<details open id="provenance">' in footer
    for key in provenance:
        if key.strip().isalnum() and key.isascii():
            assert f">{key}<" in footer


def test_provenance_shows_each_value_and_folds_what_is_long() -> None:
    footer = PAGE[PAGE.index("<footer>") :]
    for said in ("<dd>llama-3.1-8b</dd>", "<dd>1,000</dd>", "<dd>50.0</dd>", "two two", "<b>term 8</b>"):
        assert said in footer
    assert "median: 0.0800" in re.sub("<[^>]*>", "", footer)
    assert footer.count("<details>") == 1
