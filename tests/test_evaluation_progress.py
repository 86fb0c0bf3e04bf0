"""Progress of a long evaluation. Oracle: by hand, with a clock of its own."""

from __future__ import annotations

import pytest

from ws_det.evaluation import progress as progress_module
from ws_det.evaluation.progress import Progress


def test_at_most_every_ten_seconds() -> None:
    """A step each 4 s: after 12 s 3 of 10 are done and 28 s left, after 24 s 6 and 16 s."""
    said: list[str] = []
    clock = iter(range(1000, 2000, 4))
    progress = Progress("evaluating boxes", said.append, lambda: next(clock))
    for _ in range(8):
        progress.step(10)
    assert said == [
        "evaluating boxes: 30%, about 0:00:28 left",
        "evaluating boxes: 60%, about 0:00:16 left",
    ]


def test_on_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([3.0, 14.0])
    progress = Progress("waiting", clock=lambda: next(clock))
    progress.step(2)
    progress.step(2)
    assert capsys.readouterr() == ("", "waiting: 50%, about 0:00:11 left\n")


@pytest.mark.parametrize("backend", ["pycocotools", "faster-coco-eval"])
def test_slow_back_ends_say_how_far_they_are(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are counted, none too many: the last line comes when the last step begins."""
    pytest.importorskip("pycocotools")
    pytest.importorskip(backend.replace("-", "_"))
    from tests.coco_cases import random_case
    from ws_det.evaluation import evaluate

    monkeypatch.setattr(progress_module, "_SECONDS", 0)
    said: list[str] = []
    truth, found = random_case(9)
    evaluate(truth, found, ["segm"], backend, say=said.append)
    assert said[0].startswith("evaluating masks: ")
    shares = [int(line.split()[2].rstrip("%,")) for line in said]
    assert shares == sorted(shares) and shares[-1] == round(100 * len(said) / (len(said) + 1))
