"""The report is one file that opens offline: drawn, sortable, printable, readable on a phone, its data with it."""

import base64
import io
import math
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.plans.spec import strategy_named
from sim.run.metrics import Slo
from sim.study import pictures
from sim.study.html import Section, cell_of, heading_of, page
from tests.browser import ask, photograph, print_to_pdf
from tests.sim.study import frames

EVIL = "<script>alert('x')</script> & \"quotes\" </body>"
PROVENANCE = {
    "model": "llama-3.1-8b",
    "slo": {"ttft_ms": 1000.0, "tpot_ms": 50.0},
    "fits": {"gemm": {f"term {i}": {"median": 0.01 * i, "p90": [0.1, 0.2]} for i in range(9)}},
    "notes": ["one", "two " * 40],
    "evil": EVIL,
    "nothing": {},
}


def study_page() -> str:
    study, points = frames.capacities(), frames.points()
    plan = strategy_named("swift_kv:group=4+skip_decode", frames.MODEL)
    drawn = [
        ("How many requests does one GPU carry?", pictures.capacity_bars(study), study),
        ("What do users feel?", pictures.latency_curves(points, Slo()), points),
        ("Why is it not more?", pictures.waterfall(frames.steps()), frames.steps()),
        ("What does batching do to FFN skipping?", pictures.ffn_by_batch(frames.ffn()), None),
        ("What does batching do to SkipDecode?", pictures.skip_decode_by_batch(frames.depth()), None),
        ("When does SwiftKV help the decode?", pictures.single_stream(frames.streams()), frames.streams()),
        ("What does a token cost?", pictures.cost_quality(study), None),
        ("Where does the time go?", pictures.attribution(frames.seconds()), None),
        ("What did the GPU hold?", pictures.timeline(frames.run(20_000)), None),
        ("What does the plan do?", pictures.plan_table(plan), None),
    ]
    sections = [Section(h, "Some words.\n\nMore of them.", f, t, "A note.", "not measured") for h, f, t in drawn]
    return page("What is skipping worth?", "One sentence.\n\nAnother one.", sections, PROVENANCE)


PAGE = study_page()
FIGURES = 10


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
        if tag not in ("meta", "link", "br", "wbr"):
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
    assert PAGE.count("<script>") == 2  # plotly once, and our own


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
    assert rows[0] == [heading_of(c) for c in frame.columns]
    assert len(rows) == 1 + len(frame)
    for row, values in zip(rows[1:], frame.iter_rows(named=True)):
        assert row[0].startswith(pictures.label(values["strategy"]))
        assert row[1] == pictures.human(values["max_qps_per_gpu"])
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


def test_chromium_draws_every_figure_without_a_word_in_the_console(tmp_path: Path) -> None:
    script = "return [...document.querySelectorAll('.plot')].map((p) => p.querySelectorAll('.main-svg').length)"
    drawn, problems = ask(PAGE, script, tmp_path)
    assert problems == []
    assert len(drawn) == FIGURES
    assert min(drawn) > 0


def test_the_console_is_really_read(tmp_path: Path) -> None:
    _, problems = ask(PAGE, "console.error('a planted one'); Promise.reject('another'); return 1", tmp_path)
    assert "a planted one" in problems


def test_a_table_sorts_both_ways_by_click_and_by_key(tmp_path: Path) -> None:
    script = """
      const table = document.querySelector("table");
      const headers = [...table.tHead.rows[0].cells];
      const column = (i) => [...table.tBodies[0].rows].map((r) => r.cells[i].dataset.value);
      const press = (i) => {
        headers[i].querySelector("button").click();
        return [headers.map((h) => h.getAttribute("aria-sort")), column(i), column(0)];
      };
      const button = headers[6].querySelector("button");
      button.focus();
      const focused = document.activeElement === button;
      return {focused, tag: button.tagName, runs: [press(1), press(1), press(6), press(0), press(0)]};
    """
    answer, problems = ask(PAGE, script, tmp_path)
    assert problems == []
    assert answer["focused"]
    assert answer["tag"] == "BUTTON"  # Enter and Space press it
    up, down, quality, names, back = answer["runs"]
    rates = sorted(frames.QPS)
    assert [float(v) for v in up[1]] == rates
    assert [float(v) for v in down[1]] == rates[::-1]
    assert up[2] == down[2][::-1]
    assert up[0] == ["none", "ascending", *["none"] * 5]
    assert down[0] == ["none", "descending", *["none"] * 5]
    known = sorted(q for q in frames.QUALITY if q is not None)
    assert [float(v) for v in quality[1][: len(known)]] == known
    assert set(quality[1][len(known) :]) == {""}
    assert [re.split("[:+]", name)[0] for name in names[1]] == ["dense", "ffn_skip", "skip_decode", *["swift_kv"] * 3]
    assert back[1] == names[1][::-1]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_as_wide_as_its_screen_and_figures_stay_in_their_boxes(width: int, tmp_path: Path) -> None:
    script = """
      const boxes = [...document.querySelectorAll(".plot")].map((plot) => {
        const frame = plot.parentElement.getBoundingClientRect(), svg = plot.querySelector(".main-svg");
        const legend = plot.querySelector(".legend");
        const low = legend ? legend.getBoundingClientRect().bottom - plot.getBoundingClientRect().bottom : 0;
        const room = plot._fullLayout._size.h / Number(plot.dataset.height);
        return [svg.getBoundingClientRect().width, frame.width, parseFloat(plot.style.minWidth), low, room];
      });
      return {page: document.documentElement.scrollWidth, screen: innerWidth, boxes};
    """
    answer, problems = ask(PAGE, script, tmp_path, width=width, height=844)
    assert problems == []
    assert answer["page"] <= answer["screen"] == width
    for drawn, frame, least, legend_overhang, room in answer["boxes"]:
        assert room > 0.52  # of the height it was made for, whatever its legend takes
        assert drawn <= max(frame, least) + 1
        assert drawn >= 0.95 * min(frame, 300)
        assert legend_overhang <= 1


def test_paper_gets_every_figure_uncut(tmp_path: Path) -> None:
    pdf = print_to_pdf(PAGE, tmp_path / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 3 * FIGURES
    script = """
      dispatchEvent(new Event("beforeprint"));
      await new Promise((r) => setTimeout(r, 500));
      const sizes = [...document.querySelectorAll(".plot")].map((plot) => {
        const box = plot.querySelector(".main-svg").getBoundingClientRect();
        return [box.width, box.height];
      });
      dispatchEvent(new Event("afterprint"));
      await new Promise((r) => setTimeout(r, 500));
      const after = [...document.querySelectorAll(".plot")].map((p) => p.querySelector(".main-svg").clientWidth);
      return {sizes, after};
    """
    answer, problems = ask(PAGE, script, tmp_path)
    assert problems == []
    millimetre = 96 / 25.4
    for width, height in answer["sizes"]:
        assert width <= (210 - 28) * millimetre
        assert height <= (297 - 28) * millimetre
    assert min(answer["after"]) > 900  # back to the screen's width


@pytest.mark.parametrize(("width", "height"), [(1280, 2400), (390, 844)])
def test_photographs_have_the_size_of_the_screen(width: int, height: int, tmp_path: Path) -> None:
    picture = photograph(PAGE, tmp_path / "screen.png", width=width, height=height).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (width, height)
