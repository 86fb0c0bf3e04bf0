"""docs/evidence.md. Oracle: the JSON files beside it, through the code that writes the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ws_det.study.page import NAMES, module_of, page

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_says_what_the_numbers_say() -> None:
    assert (DOCS / "evidence.md").read_text() == page(DOCS / "evidence")


@pytest.mark.parametrize("name", NAMES)
def test_every_study_was_run_and_drawn(name: str) -> None:
    content = json.loads((DOCS / f"evidence/{name}.json").read_text())
    assert content["runs"] > 1 and content["summary"]["verdicts"]
    assert (DOCS / f"evidence/{name}.png").is_file()
    assert module_of(name).TITLE in (DOCS / "evidence.md").read_text()


def test_every_claim_has_its_verdict_and_figures() -> None:
    text = (DOCS / "evidence.md").read_text()
    rows = re.findall(r"^\| (.+) \| \**(shown|not shown at this size|contradicted)\** \| (.+) \|$",
                      text, re.M)  # fmt: skip
    claims = [
        verdict
        for name in NAMES
        for verdict in json.loads((DOCS / f"evidence/{name}.json").read_text())["summary"][
            "verdicts"
        ]
    ]
    assert [row[0] for row in rows] == [verdict["claim"] for verdict in claims]
    assert all("seed" in row[2] for row in rows)


def test_another_number_gives_another_page(tmp_path: Path) -> None:
    """The first test could fail."""
    for path in (DOCS / "evidence").glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    path = tmp_path / "detection.json"
    content = json.loads(path.read_text())
    content["summary"]["arms"]["BN, batch 1"]["box_ap"]["mean"] += 0.1
    path.write_text(json.dumps(content))
    assert page(tmp_path) != (DOCS / "evidence.md").read_text()
