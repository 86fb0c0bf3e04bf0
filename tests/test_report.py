"""The report of an evaluation. Oracles: by hand, and the file that was there before."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ws_det import report


def test_table_and_closing_line() -> None:
    numbers = {column: i / 100 for i, column in enumerate(report.COLUMNS)}
    table = report.table({"bbox": numbers, "segm": numbers}).splitlines()
    assert table[0].split() == list(report.COLUMNS)
    assert table[1].split()[:3] == ["box", "0.000", "0.010"] and table[2].split()[0] == "mask"
    assert report.closing_line({"bbox": {"AP": 0.5119}, "images": 7}) == "box AP 0.512 (7 images)"
    assert "no COCO evaluation" in report.closing_line({})


def test_json_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that cannot be written, or an end in between, leaves the former file as it was."""
    path = tmp_path / "m.json"
    report.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        report.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1} and list(tmp_path.iterdir()) == [path]
    monkeypatch.delattr(os, "replace")
    with pytest.raises(AttributeError):
        report.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
