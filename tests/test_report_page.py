"""The page of an evaluation, opened in a browser. Oracles: pycocotools' numbers, Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycocotools", reason="the page needs pycocotools")
pytest.importorskip("matplotlib", reason="the page's outlines need a dependency of matplotlib")
pytest.importorskip("cv2", reason="the images are drawn with OpenCV")

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tools import evaluate as tool
from ws_det.evaluation import evaluate
from ws_det.pictures import decode_mask
from ws_det.report import COLUMNS
from ws_det.shapes import ShapesSpec, make_shapes

EVIL = '<b onload="alert(1)">&</b></script>'  # the name of a class
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def perturbed(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Detections from the truth: moved, misnamed, twice, in the background, or not at all."""
    rng = np.random.default_rng(seed)
    categories = [category["id"] for category in truth["categories"]]
    found = []

    def add(image: int, category: int, mask: np.ndarray, score: float) -> None:
        rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        found.append(
            {
                **{"image_id": image, "category_id": category, "score": round(score, 3)},
                "bbox": coco_mask.toBbox(rle).tolist(),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
            }
        )

    for thing in truth["annotations"]:
        mask = decode_mask(thing["segmentation"], (128, 128))
        if thing["iscrowd"] or rng.random() < 0.15:
            continue
        moved = np.roll(mask, rng.integers(-6, 7, 2), axis=(0, 1))
        other = int(rng.choice(categories)) if rng.random() < 0.15 else thing["category_id"]
        add(thing["image_id"], other, moved, rng.uniform(0.3, 1))
        if rng.random() < 0.15:
            add(thing["image_id"], other, moved, rng.uniform(0.1, 0.5))
        if rng.random() < 0.15:
            far = np.roll(mask, 64, axis=(0, 1))
            add(thing["image_id"], other, far, rng.uniform(0.1, 0.7))
    return found


class Case:
    """A set, two files of predictions, and pages that the tool wrote."""

    def __init__(self, root: Path) -> None:
        make_shapes(root / "set", ShapesSpec(train_images=1, val_images=40))
        self.images = root / "set/val2017"
        self.annotations = root / "annotations.json"
        source = root / "set/annotations/instances_val2017.json"
        self.truth = json.loads(source.read_text())
        self.truth["categories"][1]["name"] = EVIL
        self.annotations.write_text(json.dumps(self.truth))
        self.files = [root / "first.json", root / "second.json"]
        for seed, file in enumerate(self.files):
            file.write_text(json.dumps(perturbed(self.truth, seed)))
        self.one, self.two, self.bare = (root / f"{n}.html" for n in ("one", "two", "new/bare"))
        given = [str(self.files[0]), str(self.annotations), "--backend", "pycocotools"]
        images = ["--images", str(self.images)]
        tool.main([*given, "--html", str(self.one), *images, "--names", "gn_ws <i>"])
        tool.main([*given, "--html", str(self.two), *images, "--compare", str(self.files[1])])
        tool.main([*given, "--html", str(self.bare), "--kinds", "bbox"])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("page"))


class Cells(HTMLParser):
    """The texts of a page's table cells, row by row, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.text, self._in, self._skip = "", False, 0
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in = True
        self._skip += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._in = self._in and tag not in ("td", "th")
        self._skip -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        self.text += "" if self._skip else data
        if self._in:
            self.rows[-1][-1] += data


class Browser:
    """Opens pages; each once, for a start takes a second. Nothing may be said on the console."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened: dict[tuple[Path, str], tuple[str, Path]] = {}

    def open(self, page: Path, after: str = "") -> tuple[str, Path]:
        """What JavaScript made of a page, and its picture; ``after`` is a click or the like."""
        if (page, after) not in self.opened:
            number = len(self.opened)
            changed = self.folder / f"{number}.html"
            script = f"<script>{after}</script></body>"
            changed.write_text(page.read_text().replace("</body>", script))
            picture = self.folder / f"{number}.png"
            command = [
                *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                *("--disable-component-update", f"--user-data-dir={self.folder / f'{number}'}"),
                *("--hide-scrollbars", "--window-size=1280,2600", "--enable-logging=stderr"),
                *(f"--screenshot={picture}", "--dump-dom", changed.as_uri()),
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
            assert "CONSOLE" not in done.stderr, done.stderr
            self.opened[page, after] = done.stdout, picture
        return self.opened[page, after]

    def __call__(self, page: Path, after: str = "") -> str:
        return self.open(page, after)[0]


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    if not CHROMIUM:
        pytest.skip("no chromium is installed")
    return Browser(tmp_path_factory.mktemp("browser"))


def percent(value: float) -> str:
    return f"{100 * value:.1f}" if value >= 0 else "\N{EN DASH}"


def number(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-"))


def test_the_table_is_pycocotools(case: Case, browse: Browser) -> None:
    rows = Cells(browse(case.one)).rows
    results = evaluate(case.truth, json.loads(case.files[0].read_text()), backend="pycocotools")
    assert rows[0] == ["", *COLUMNS]
    for row, (kind, word) in zip(rows[1:3], (("bbox", "box"), ("segm", "mask")), strict=True):
        assert row == [word, *(percent(value) for value in results[kind].stats.values())]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_classes_are_pycocotools(case: Case, browse: Browser, kind: str) -> None:
    """Sorted by AP; the second kind after a click."""
    click = "document.querySelectorAll('.switch button')[1].click()" if kind == "segm" else ""
    rows = Cells(browse(case.one, after=click)).rows[4:]
    results = evaluate(case.truth, json.loads(case.files[0].read_text()), backend="pycocotools")
    aps = sorted(results[kind].per_class.items(), key=lambda entry: -entry[1])
    assert EVIL in dict(aps)
    assert [(row[0], row[1]) for row in rows] == [(name, percent(ap)) for name, ap in aps]


def test_classes_sort_and_filter(case: Case, browse: Browser) -> None:
    click = "document.querySelector('.classes th button').click()"
    rows = Cells(browse(case.one, after=click)).rows[4:]
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=str.lower)
    assert len(rows) == len(case.truth["categories"])
    find = """const input = document.querySelector('input');
        input.value = 'RIN';
        input.dispatchEvent(new Event('input'))"""
    rows = Cells(browse(case.one, after=find)).rows[4:]
    assert [row[0] for row in rows] == ["ring"]


def test_curves_are_of_the_class_that_is_chosen(case: Case, browse: Browser) -> None:
    """AP over each of the three panels, for the mean and for a class."""
    results = evaluate(case.truth, json.loads(case.files[0].read_text()), backend="pycocotools")
    precision = results["bbox"].precision[..., 0, -1]
    panels = (precision[0], precision[5], precision.mean(axis=0))
    name = results["bbox"].class_names[-1]
    choose = f"""const s = document.querySelector('select');
        s.value = [...s.options].find((o) => o.text === {name!r}).value;
        s.dispatchEvent(new Event('change'))"""
    for after, curves in (
        ("", [p.mean(axis=1) for p in panels]),
        (choose, [p[:, -1] for p in panels]),
    ):
        page = browse(case.one, after=after)
        shown = re.findall(r"AP <strong>([\d.]+)</strong>", page)
        assert shown == [percent(curve.mean()) for curve in curves]
        assert page.count('class="curve a"') == 3


def test_the_pointer_reads_the_curves(case: Case, browse: Browser) -> None:
    """At a recall of 0.5, a little beside the middle of the drawing: its axis takes 30 of 330."""
    hover = """const chart = document.querySelector('.panels svg');
        const frame = chart.getBoundingClientRect();
        const x = frame.left + frame.width * (30 + 0.5 * 292) / 330;
        chart.dispatchEvent(new PointerEvent('pointermove', { clientX: x }))"""
    results = evaluate(case.truth, json.loads(case.files[0].read_text()), ["bbox"], "pycocotools")
    value = results["bbox"].precision[0, 50, :, 0, -1].mean()
    assert f"recall 0.50: precision {value:.3f}" in Cells(browse(case.one, after=hover)).text


def test_two_runs_and_their_difference(case: Case, browse: Browser) -> None:
    page = browse(case.two)
    rows = Cells(page).rows
    values = [
        evaluate(case.truth, json.loads(file.read_text()), ["bbox"], "pycocotools")["bbox"]
        for file in case.files
    ]
    assert rows[1] == ["Abox", *(percent(value) for value in values[0].stats.values())]
    assert rows[2] == ["Bbox", *(percent(value) for value in values[1].stats.values())]
    for text, column in zip(rows[3][1:], COLUMNS):
        first, second = (value.stats[column] for value in values)
        if text == percent(-1):
            assert first == second == -1
        else:
            assert number(text) == pytest.approx(100 * (second - first), abs=0.051)
    changes = [number(row[1]) for row in rows[8:]]
    assert len(changes) == 5 and changes == sorted(changes, reverse=True)
    assert page.count('class="curve b"') == 3
    assert all(str(file) in Cells(page).text for file in case.files)


def test_pictures_stand_beside_the_truth(case: Case, browse: Browser) -> None:
    for page, panels in ((case.one, 2), (case.two, 3)):
        shown = browse(page)
        figures = re.findall(r"<figure style.*?</figure>", shown)
        assert 4 <= len(figures) <= 12
        assert all(figure.count("<img") == panels for figure in figures)
        assert all(figure.count("<rect") and figure.count("<path") for figure in figures)
    assert "--images" in Cells(browse(case.bare)).text


def test_it_is_drawn(case: Case, browse: Browser) -> None:
    """Neither blank nor broken: dark text, the colour of the curves and colours of the images."""
    for page in (case.one, case.two):
        pixels = np.asarray(Image.open(browse.open(page)[1]).convert("RGB")).reshape(-1, 3)
        assert len(pixels) == 1280 * 2600
        blue = (pixels == (0x00, 0x72, 0xB2)).all(axis=1).mean()
        dark = (pixels.max(axis=1) < 80).mean()
        assert 0.002 < blue < 0.2 and 0.005 < dark < 0.5
        assert len(np.unique(pixels @ [1, 256, 65536])) > 5000


def test_it_needs_nothing_else(case: Case) -> None:
    """No address but the name of SVG, no file, and a policy that would forbid them."""
    for page in (case.one, case.two, case.bare):
        text = page.read_text()
        assert set(re.findall(r"\w+://[^\s\"'`)]+", text)) == {"http://www.w3.org/2000/svg"}
        assert not re.search(r"<link|<script src|@import|url\(|srcset|<iframe", text)
        assert "default-src 'none'" in text
        assert text.count("<script") == text.count("</script>") == 2


def test_names_are_escaped(case: Case) -> None:
    text = case.one.read_text()
    assert EVIL not in text and "<b onload" not in text and "<i>" not in text
    assert "<title>gn_ws &lt;i&gt;: COCO evaluation</title>" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert EVIL in [entry["name"] for entry in data["truth"]["classes"]]


def test_its_size_is_bounded(case: Case) -> None:
    """12 pictures; far less than a megabyte each with its outlines."""
    assert case.bare.stat().st_size < 100_000
    assert case.two.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "."], "give --html too"),
        (["--compare", "other.json"], "give --html too"),
        (["--html", "x.html", "--names", "a", "b"], "not one for each"),
    ],
)
def test_flags_that_do_not_fit(
    case: Case, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        tool.main([str(case.files[0]), str(case.annotations), *flags])
    assert end.value.code == 2 and message in capsys.readouterr().err


def test_other_images_are_refused_before_anything_is_evaluated(
    case: Case, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    page = tmp_path / "x.html"
    given = (case.files[0], case.annotations, "--html", page, "--images", tmp_path)
    assert "40 of 40 are missing" in refusal(tool, *given)
    assert not page.exists()
