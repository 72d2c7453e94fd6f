"""The tables in the documentation are the committed ones, line for line."""

from pathlib import Path

import pytest

from calibration.quality.run import DATA
from calibration.quality.show import absent, markdown
from calibration.quality.table import read_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"


@pytest.mark.parametrize("model", ["cpu-llama", "cpu-opt"])
def test_the_page_shows_the_committed_table(model):
    table = read_table(DATA / f"{model}.json")
    assert markdown(table) in PAGE.read_text(encoding="utf-8"), f"python -m calibration quality show {model}"


def test_a_line_holds_a_plan_raw_and_adapted():
    both = {"strategy": "f", "setting": "g", "score": 0.5, "difference_low": -0.6, "difference_high": -0.4,
            "worst_task": "sum", "worst_difference": -1.0,
            "realised": {"1 row": {"weight_bytes_skip_realised": 0.25}}}  # fmt: skip
    table = {"summaries": [both | {"weights": "raw"}, both | {"weights": "adapted", "score": 0.9}],
             "absent": [{"strategy": "h", "setting": "", "why_not": "too deep"}]}  # fmt: skip
    (line,) = markdown(table).splitlines()[2:]
    assert line == "| f g | 0.500 (−60.0 to −40.0) | 0.900 (−60.0 to −40.0) | sum −100 | 25% |  |  |"
    assert "too deep" in absent(table)
