"""tools/evaluate.py. Oracles: pycocotools called directly, and the files that it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pycocotools")

from tests.coco_cases import random_case, reference
from tools import evaluate
from ws_det.report import COLUMNS

SEED = 9


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    truth, found = random_case(SEED)
    for thing in truth["annotations"]:
        del thing["ignore"]  # of which there is a warning
    paths = tmp_path / "found.json", tmp_path / "truth.json"
    for path, content in zip(paths, (found, truth)):
        path.write_text(json.dumps(content))
    return str(paths[0]), str(paths[1])


def test_the_table_and_the_file(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "numbers.json"
    evaluate.main([*files, "--classwise", "--out", str(out)])
    numbers = json.loads(out.read_text())
    assert numbers["images"] == 4 and numbers["backend"] in ("hotcoco", "pycocotools")
    printed = capsys.readouterr().out
    for kind, word in (("bbox", "box"), ("segm", "mask")):
        expected = reference(*random_case(SEED), kind).stats
        # Sums in another order
        assert list(numbers[kind].values()) == pytest.approx(expected.tolist(), abs=1e-9)
        assert list(numbers[kind]) == list(COLUMNS)
        row = next(line for line in printed.splitlines() if line.split()[:1] == [word])
        assert row.split()[1:] == [f"{value:.3f}" for value in expected]
    boxes, masks = (numbers["classes"][kind] for kind in ("bbox", "segm"))
    assert len(boxes) == 4
    rows = [line.split() for line in printed.splitlines()]
    for name in boxes:
        assert [*name.split(), f"{boxes[name]:.3f}", f"{masks[name]:.3f}"] in rows
    assert printed.splitlines()[-1] == (
        f"box AP {numbers['bbox']['AP']:.3f}, mask AP {numbers['segm']['AP']:.3f} (4 images); "
        f"numbers in {out}"
    )


def test_one_kind_by_a_named_back_end(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main([*files, "--kinds", "bbox", "--backend", "pycocotools"])
    printed = capsys.readouterr().out
    assert "box AP" in printed and "mask" not in printed


def test_refusals(files: tuple[str, str], tmp_path: Path, refusal) -> None:
    found, truth = files
    assert "use auto, hotcoco, " in refusal(evaluate, *files, "--backend", "cocoapi")
    assert "gone.json does not exist" in refusal(evaluate, found, tmp_path / "gone.json")
    assert "gone.json do not exist" in refusal(evaluate, tmp_path / "gone.json", truth)
    blocked = tmp_path / "found.json" / "numbers.json"
    assert "cannot be written" in refusal(evaluate, *files, "--out", blocked)
