"""Hostile annotation files and predictions (``tests/hostile_sets.py``) through all that reads them.

Oracle: each ends in a result or in one sentence, in time; nothing is run, nothing outside the given
folders is read or written (by Python's audit events and by canaries), and a page has no code and
no picture from outside. 300 cases, and all 5,000 by ``make sweep``.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from itertools import product
from pathlib import Path

import pytest
import torch

pytest.importorskip("PIL", reason="images are read with Pillow")
pytest.importorskip("pycocotools", reason="the evaluation needs it")
pytest.importorskip("matplotlib", reason="the page's outlines need a dependency of matplotlib")

from tests import hostile_sets as hostile
from tests.test_fuzz import time_limit
from tests.watched import snapshot, watched
from tools import evaluate as tool
from ws_det.annotations import mend_annotations
from ws_det.coco import check_images, check_shapes, read_annotations
from ws_det.errors import InputError
from ws_det.evaluation.backends import BACKENDS

SEED = 13
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hostile.Place:
    place = hostile.Place(tmp_path)
    (place.given / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place.given / "tmp"))
    warm_up(place)
    return place


def warm_up(place: hostile.Place) -> None:
    """Let each back end and the page import what they need, on good files."""
    repr(torch.ones(2))  # imports too
    truth, found = hostile.good()
    (place.given / "truth.json").write_text(json.dumps(truth))
    page = ["--html", str(place.out / "page.html"), "--images", str(place.images)]
    for form, backend in product(hostile.FORMS, BACKENDS):
        path = place.given / f"found.{form}"
        content = hostile.FORMS[form](found)
        path.write_bytes(hostile.as_bytes(random.Random(0), content, form))
        tell([str(path), str(place.given / "truth.json"), "--backend", backend, *page])


def evaluate(
    chance: random.Random, place: hostile.Place, truth: Path, found: Path, other: Path
) -> list[str]:
    """Arguments of the tool."""
    arguments = [str(found), str(truth), "--backend", chance.choice(("auto", *BACKENDS))]
    arguments += ["--classwise"] * chance.randrange(2)
    arguments += ["--out", str(place.out / "n.json")] * chance.randrange(2)
    if chance.random() < 0.3:
        arguments += ["--kinds", chance.choice(("bbox", "segm"))]
    if chance.random() < 0.6:
        arguments += ["--html", str(place.out / "page.html")]
        arguments += ["--images", str(place.images)] * chance.choice((0, 1, 1))
        arguments += ["--compare", str(other)] * chance.randrange(2)
    return arguments


def tell(arguments: list[str]) -> str:
    """What the tool printed."""
    with redirect_stdout(StringIO()) as said, redirect_stderr(StringIO()):
        tool.main(arguments)
    return said.getvalue()


def read_for_training(place: hostile.Place, truth: Path) -> None:
    """What both frameworks' checks do with an annotation file before a start."""
    annotations = read_annotations(str(truth))
    check_images(str(truth), str(place.images), annotations["images"], "complete it")
    for training, masks in product((True, False), (True, False)):
        with suppress(InputError):  # one of these uses may be one that the file is not for
            mend_annotations(str(truth), str(place.images), training=training, masks=masks)
    mended = mend_annotations(str(truth), str(place.images), training=True)
    check_shapes(str(truth), mended.content)


def check_page(path: Path) -> None:
    page = path.read_text("utf-8")
    (data,) = _DATA.findall(page)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(data, parse_constant=refuse)
    assert "<" not in data and data.isascii() and page.count("<script") == 2
    assert "owned" not in page.replace(data, "")


def run_case(number: int, place: hostile.Place) -> str:
    chance = random.Random(f"{SEED} {number}")
    truth = hostile.write_truth(chance, place)
    found, other = (hostile.write_found(chance, place, name) for name in ("found", "other"))
    outcomes = []
    shutil.rmtree(place.out)
    place.out.mkdir()
    arguments = evaluate(chance, place, truth, found, other)
    for use in (lambda: tell(arguments), lambda: read_for_training(place, truth)):
        try:
            with time_limit(), watched(place.given, place.out) as seen:
                said = use()
            outcomes.append("a result")
            if said is not None:
                assert all(c.isprintable() or c == "\n" for c in said), said
        except InputError as error:
            assert str(error) and str(error).isprintable(), error
            outcomes.append("one sentence")
        assert not seen, (number, seen)
    page = place.out / "page.html"
    if page.exists():
        check_page(page)
    assert not list(place.out.glob(".*"))
    return outcomes[0]


def sweep(cases: range, place: hostile.Place) -> Counter[str]:
    canaries, outcomes = snapshot(place.canary), Counter()
    for number in cases:
        try:
            outcomes[run_case(number, place)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {SEED}, case {number}: {error!r}") from error
        assert snapshot(place.canary) == canaries, number
    return outcomes


def report(outcomes: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"\nhostile annotations and predictions, seed {SEED}: {counts}, nothing else")
    assert min(outcomes["a result"], outcomes["one sentence"]) > 0.1 * outcomes.total()


@pytest.mark.filterwarnings("ignore")
def test_some(place: hostile.Place, capsys: pytest.CaptureFixture[str]) -> None:
    report(sweep(range(300), place), capsys)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_all(place: hostile.Place, capsys: pytest.CaptureFixture[str]) -> None:
    report(sweep(range(5_000), place), capsys)
