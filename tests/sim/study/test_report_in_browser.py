"""What Chromium makes of the report: figures drawn, tables sorted, fit for a phone and for paper, a silent console."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.browser import ask, photograph, print_to_pdf
from tests.sim.study import frames
from tests.sim.study.report_page import FIGURES, study_page

PAGE = study_page({"model": "llama-3.1-8b"})
MILLIMETRE = 96 / 25.4

BOXES = """
  const boxes = [...document.querySelectorAll(".plot")].map((plot) => {
    const frame = plot.parentElement.getBoundingClientRect(), svg = plot.querySelector(".main-svg");
    const legend = plot.querySelector(".legend");
    return {
      layers: plot.querySelectorAll(".main-svg").length,
      drawn: svg.getBoundingClientRect().width, frame: frame.width, least: parseFloat(plot.style.minWidth),
      beyond: legend ? legend.getBoundingClientRect().bottom - plot.getBoundingClientRect().bottom : 0,
      room: plot._fullLayout._size.h / Number(plot.dataset.height),
    };
  });
  const screen = {page: document.documentElement.scrollWidth, screen: innerWidth, boxes};
"""
SORT = """
  const table = document.querySelector("table");
  const headers = [...table.tHead.rows[0].cells];
  const column = (i) => [...table.tBodies[0].rows].map((r) => r.cells[i].dataset.value);
  const press = (i) => {
    headers[i].querySelector("button").click();
    return {aria: headers.map((h) => h.getAttribute("aria-sort")), column: column(i), names: column(0)};
  };
  headers[0].querySelector("button").focus();
  const focused = document.activeElement.tagName;
  const sorts = [1, 1, 6, 6, 0, 0].map(press);
"""
PAPER = """
  const sizes = () => [...document.querySelectorAll(".plot")].map((plot) => {
    const box = plot.querySelector(".main-svg").getBoundingClientRect();
    return [box.width, box.height];
  });
  const wait = () => new Promise((r) => setTimeout(r, 500));
  dispatchEvent(new Event("beforeprint"));
  await wait();
  const paper = sizes();
  dispatchEvent(new Event("afterprint"));
  await wait();
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Everything we ask of the page on a desk, in one visit."""
    script = BOXES + SORT + PAPER + "return {...screen, focused, sorts, paper, after: sizes()};"
    answer, problems = ask(PAGE, script, tmp_path_factory.mktemp("desk"))
    return answer | {"problems": problems}


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page on a phone."""
    answer, problems = ask(PAGE, BOXES + "return screen;", tmp_path_factory.mktemp("phone"), width=390, height=844)
    return answer | {"problems": problems}


def test_every_figure_is_drawn_without_a_word_in_the_console(desk: Any, phone: Any) -> None:
    for visit in (desk, phone):
        assert visit["problems"] == []
        assert len(visit["boxes"]) == FIGURES
        assert min(box["layers"] for box in visit["boxes"]) > 0


def test_the_console_is_really_read(tmp_path: Path) -> None:
    page = '<html data-figures="drawn"><head></head><body><script>console.error("planted");</script></body></html>'
    answer, problems = ask(page, "Promise.reject('another'); nonsense(); return 1;", tmp_path)
    assert answer is None
    assert problems[0] == "planted"
    assert "nonsense" in problems[1]


def test_the_page_is_as_wide_as_its_screen_and_figures_stay_in_their_boxes(desk: Any, phone: Any) -> None:
    for visit, width in ((desk, 1280), (phone, 390)):
        assert visit["page"] <= visit["screen"] == width
        for box in visit["boxes"]:
            assert box["drawn"] <= max(box["frame"], box["least"]) + 1
            assert box["drawn"] >= 0.95 * min(box["frame"], 300)
            assert box["beyond"] <= 1  # pixels of the legend below the figure
            assert (
                box["room"] > 0.52
            )  # of the height meant for it, whatever the legend takes


def test_a_table_sorts_both_ways_and_says_so(desk: Any) -> None:
    assert desk["focused"] == "BUTTON"  # Tab reaches it; Enter and Space press it
    up, down, quality, worst, names, back = desk["sorts"]
    assert [float(v) for v in up["column"]] == sorted(frames.QPS)
    assert down["column"] == up["column"][::-1]
    assert up["names"] == down["names"][::-1]
    assert up["aria"] == ["none", "ascending", *["none"] * 5]
    assert down["aria"] == ["none", "descending", *["none"] * 5]
    known = sorted(q for q in frames.QUALITY if q is not None)
    for sort, expected in ((quality, known), (worst, known[::-1])):  # what nobody measured stays last
        assert [float(v) for v in sort["column"][: len(known)]] == expected
        assert set(sort["column"][len(known) :]) == {""}
    families = [re.split("[:+]", name)[0] for name in names["column"]]
    assert families == ["dense", "ffn_skip", "skip_decode", *["swift_kv"] * 3]
    assert back["column"] == names["column"][::-1]


def test_on_paper_no_figure_is_larger_than_a_sheet_and_the_screen_gets_its_own_back(desk: Any) -> None:
    for width, height in desk["paper"]:
        assert width <= (210 - 28) * MILLIMETRE
        assert height <= (297 - 28) * MILLIMETRE
    assert min(width for width, _ in desk["after"]) > 900


def test_it_prints(tmp_path: Path) -> None:
    pdf = print_to_pdf(PAGE, tmp_path / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 2 * FIGURES


@pytest.mark.parametrize(("width", "height"), [(1280, 2400), (390, 844)])
def test_photographs_have_the_size_of_the_screen(width: int, height: int, tmp_path: Path) -> None:
    picture = photograph(PAGE, tmp_path / "screen.png", width=width, height=height).read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (width, height)
