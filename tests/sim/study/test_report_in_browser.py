"""What Chromium makes of the report: figures drawn, tables sorted, fit for a phone and for paper, a silent console."""

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.browser import ask, photograph, print_to_pdf
from tests.sim.study import frames
from tests.sim.study.report_page import FIGURES, QUESTION, study_page

PAGE = study_page({"model": "llama-3.1-8b"})
MILLIMETRE = 96 / 25.4
MOVES = (
    {},
    {"demand": 30.0},
    {"ttft": 500.0},
    {"tpot": 10.0},
    {"strength": 1.5},
    {"price": 2.0},
    {"floor": 0.98},
    {"demand": 250.0, "ttft": 500.0, "tpot": 10.0, "strength": 0.5, "price": 1.0, "floor": 0.97},
)

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
  const sorts = [1, 1, 4, 4, 0, 0].map(press);
"""
SLIDE = """
  const form = document.querySelector("#whatif form");
  const home = Object.fromEntries([...form.querySelectorAll("input")].map((i) => [i.name, i.value]));
  const slide = (moves) => {
    for (const input of form.querySelectorAll("input")) {
      const places = JSON.parse(input.dataset.positions);
      input.value = input.name in moves ? places.indexOf(moves[input.name]) : home[input.name];
    }
    form.dispatchEvent(new Event("input", {bubbles: true}));
    const table = document.querySelector("#whatif table");
    const names = [...table.tHead.rows[0].cells].map((th) => th.dataset.column);
    const rows = [...table.tBodies[0].rows].map((tr) =>
      Object.fromEntries(names.map((name, i) => [name, tr.cells[i].dataset.value])));
    return {rows, said: document.querySelector("#whatif .answer").textContent};
  };
  const slid = MOVES.map(slide);
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
    script = BOXES + SORT + SLIDE.replace("MOVES", json.dumps(MOVES)) + PAPER
    script += "return {...screen, focused, sorts, slid, paper, after: sizes()};"
    answer, problems = ask(PAGE, script, tmp_path_factory.mktemp("desk"))
    assert answer, problems
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
    assert up["aria"] == ["none", "ascending", *["none"] * 3]
    assert down["aria"] == ["none", "descending", *["none"] * 3]
    known = sorted(q for q in frames.QUALITY if q is not None)
    for sort, expected in ((quality, known), (worst, known[::-1])):  # what nobody measured stays last
        assert [float(v) for v in sort["column"][: len(known)]] == expected
        assert set(sort["column"][len(known) :]) == {""}
    families = [re.split("[:+]", name)[0] for name in names["column"]]
    assert families == ["dense", "ffn_skip", "skip_decode", *["swift_kv"] * 3]
    assert back["column"] == names["column"][::-1]


def expected(moves: dict[str, float]) -> dict[str, dict[str, float]]:
    """What the sliders' table should say, by plan: the grid looked up, whole replicas, and their cost."""
    asked = {"demand": 100.0, "ttft": 1000.0, "tpot": 50.0, "strength": 1.0, "price": 3.5, "floor": 0.0} | moves
    answers = {}
    for cell in frames.whatif().filter(slo_ttft_ms=asked["ttft"], slo_tpot_ms=asked["tpot"]).iter_rows(named=True):
        turned = cell["strength"] == (1.0 if cell["strategy"] == "dense" else asked["strength"])
        good = (cell["quality"] is not None and cell["quality"] >= asked["floor"]) or not asked["floor"]
        if not (turned and good and cell["max_qps"]):
            continue
        replicas = math.ceil(asked["demand"] / cell["max_qps"])
        hourly = replicas * QUESTION["gpus_per_replica"] * asked["price"]  # type: ignore[operator]
        ladder = frames.ladder().filter(plan=cell["plan"]).sort("qps")
        rate = asked["demand"] / replicas
        answers[cell["plan"]] = {
            "qps": cell["max_qps"] / 2,
            "gpus": 2 * replicas,
            "dollars_per_hour": hourly,
            "dollars": hourly / 3600 / asked["demand"] / 200 * 1e6,
            "ttft": math.exp(np.interp(rate, ladder["qps"], np.log(ladder["ttft_ms"]))),
            "tpot": math.exp(np.interp(rate, ladder["qps"], np.log(ladder["tpot_ms"]))),
        }
    return answers


def test_every_slider_changes_the_answer_as_arithmetic_on_the_grid_says(desk: Any) -> None:
    answers = desk["slid"]
    assert len({json.dumps(a) for a in answers}) == len(MOVES)
    for moves, answer in zip(MOVES, answers):
        truth = expected(moves)
        found = {row["strategy"]: row for row in answer["rows"] if row["gpus"]}
        assert found.keys() == truth.keys()
        assert len(answer["rows"]) == len(frames.STRATEGIES)  # who has no answer says why
        for plan, figures in truth.items():
            for name, value in figures.items():
                assert float(found[plan][name]) == pytest.approx(value), (moves, plan, name)
        assert [float(r["gpus"]) for r in found.values()] == sorted(t["gpus"] for t in truth.values())
        assert f"{min(t['gpus'] for t in truth.values())} GPUs" in answer["said"]


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
