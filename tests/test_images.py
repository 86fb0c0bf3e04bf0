"""File names in annotation files. Oracles: a secret outside the folder, which nobody may read.

What is no image, or one that is made to hurt, ends in a sentence with its name, before its pixels
take memory or time.
"""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="images are read with Pillow")
pytest.importorskip("pycocotools", reason="the page needs pycocotools")
pytest.importorskip("matplotlib", reason="the page's outlines need a dependency of matplotlib")

from PIL import Image

import ws_det.evaluation.saved  # noqa: F401  # what it compiles when it is imported is its own
from tests.watched import watched
from tools import evaluate as tool
from ws_det.coco import check_images
from ws_det.errors import InputError
from ws_det.evaluation import evaluate
from ws_det.evaluation.report import Run, write_report
from ws_det.images import image_path, opened

SECRET = (250, 10, 130)  # the colour of the image outside
GREY = (90, 90, 90)


class Case:
    """Images below ``set/images``, a secret beside it, and one detection on one image."""

    def __init__(self, root: Path) -> None:
        self.root, self.images = root, root / "set/images"
        (self.images / "cam1").mkdir(parents=True)
        (root / "pages").mkdir()
        for path, color in (
            (self.images / "a.png", GREY),
            (self.images / "cam1/a.png", GREY),
            (root / "secret.png", SECRET),
        ):
            Image.new("RGB", (30, 20), color).save(path)
        self.page = root / "pages/page.html"
        self.truth, self.found = root / "set/truth.json", root / "set/found.json"
        self.found.write_text(json.dumps([{**_THING, "score": 0.9}]))

    def names(self, name: Any) -> dict[str, Any]:
        """Let the annotations name the image so; their content."""
        content = {
            "images": [{"id": 5, "file_name": name, "height": 20, "width": 30}],
            "categories": [{"id": 1, "name": "one"}],
            "annotations": [{**_THING, "id": 1, "iscrowd": 0}],
        }
        self.truth.write_text(json.dumps(content))
        return content

    def evaluate(self, images: Path | None = None) -> None:
        files = [str(self.found), str(self.truth)]
        options = ["--html", str(self.page), "--images", str(images or self.images)]
        tool.main([*files, "--backend", "pycocotools", *options])

    def shown(self) -> tuple[int, ...]:
        """The colour of the picture in the page."""
        coded = self.page.read_text().partition("data:image/jpeg;base64,")[2].partition('"')[0]
        return Image.open(io.BytesIO(base64.b64decode(coded))).getpixel((15, 10))


_THING = {"image_id": 5, "category_id": 1, "bbox": [2, 3, 9, 8], "area": 72}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def is_near(color: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """JPEG rounds; 20 of 255 tell the two colours here apart."""
    return all(abs(a - b) < 20 for a, b in zip(color, other))


# Each leads out of the folder, or is no name at all; and a part of it that the sentence repeats.
OUTSIDE: dict[str, Callable[[Case], Any]] = {
    "parent": lambda case: "../../secret.png",
    "parent within": lambda case: "cam1/../../../secret.png",
    "back again": lambda case: "../images/a.png",
    "absolute": lambda case: str(case.root / "secret.png"),
    "absolute, then parent": lambda case: str(case.images / "../../secret.png"),
    "two slashes": lambda case: f"/{case.root / 'secret.png'}",
    "device": lambda case: "/dev/zero",
    "number": lambda case: 3,
    "nothing": lambda case: None,
    "list": lambda case: ["a.png"],
    "dict": lambda case: {"a.png": 1},
    "truth": lambda case: True,
    "zero byte": lambda case: "a.png\0.jpg",
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_no_image_outside_the_folder(case: Case, kind: str) -> None:
    """By the tool, by the page alone, and by what both frameworks check before a start."""
    name = OUTSIDE[kind](case)
    content = case.names(name)
    said = repr(name)[:40].replace("\\", "")
    uses = (
        case.evaluate,
        lambda: check_images("truth.json", str(case.images), content["images"], "look"),
        lambda: page_alone(case, content),
    )
    for use in uses:
        folders = case.root / "set", case.root / "pages"
        with watched(*folders) as seen, pytest.raises(InputError) as refused:
            use()
        assert said in str(refused.value).replace("\\", "") and "\n" not in str(refused.value)
        assert not seen and not case.page.exists()


def page_alone(case: Case, content: dict[str, Any]) -> None:
    found = json.loads(case.found.read_text())
    results = evaluate(content, found, backend="pycocotools")
    write_report(case.page, content, [Run.of("a", results, found)], "truth", case.images)


@pytest.mark.parametrize("name", ["", ".", "cam1", "none.png", "x" * 5000, "\ud83d.png", "~/a.png"])
def test_what_is_no_file(case: Case, name: str) -> None:
    case.names(name)
    with pytest.raises(InputError, match=r"does not exist .*--images"):
        case.evaluate()
    assert not case.page.exists()


def test_pipes_are_not_waited_for(case: Case) -> None:
    os.mkfifo(case.images / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png .*does not exist"):
        case.names("pipe.png")
        case.evaluate()
    words = r"pipe\.png cannot be read .there is no such file"
    with pytest.raises(InputError, match=words), opened(case.images / "pipe.png"):
        pass


@pytest.mark.parametrize("name", ["a.png", "cam1/a.png", "./a.png", "cam1//a.png", "..a.png"])
def test_folders_below_are_read(case: Case, name: str) -> None:
    (case.images / "..a.png").write_bytes((case.images / "a.png").read_bytes())
    case.names(name)
    case.evaluate()
    assert is_near(case.shown(), GREY)


def test_an_absolute_name_below_is_read(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.names(str(case.images / "a.png"))
    monkeypatch.chdir(case.root)
    case.evaluate(Path("set/images"))
    assert is_near(case.shown(), GREY)


def test_the_root_says_that_the_file_is_trusted(case: Case) -> None:
    """The way out of the sentence."""
    case.names(str(case.root / "secret.png"))
    case.evaluate(Path("/"))
    assert is_near(case.shown(), SECRET)


def test_links_are_the_owners(case: Case) -> None:
    """Who owns the folder set them, as in a farm of links; ``..`` behind one is still refused."""
    (case.images / "link.png").symlink_to(case.root / "secret.png")
    (case.images / "far").symlink_to(case.root)
    for name in ("link.png", "far/secret.png"):
        case.names(name)
        case.evaluate()
        assert is_near(case.shown(), SECRET)
    with pytest.raises(InputError, match="far"):
        image_path(case.images, "far/../secret.png")


# --- images that are made to hurt ---------------------------------------------------------------


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG of that size by its header, with other chunks; its few pixels are black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        sum_ = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(bytes(99999))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 20\n%%EndComments\n(made) (w) file\n%%EOF\n"
HURT = {
    "pixels": (png(60_000, 60_000), "decompression bomb"),
    "text": (png(30, 20, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26)))), "text"),
    "a program": (EPS, "it is no image"),
    "cut": (png(30, 20)[:60], "b.png cannot be read"),
    "broken": (png(30, 20).replace(b"IDAT", b"ID\0T"), "b.png cannot be read"),
    "page": (b"<html>404</html>", "it is no image"),
    "empty": (b"", "it is no image"),
}


@pytest.mark.parametrize("kind", HURT)
def test_images_that_hurt(case: Case, kind: str) -> None:
    """Nothing is started for them, and they are named."""
    content, reason = HURT[kind]
    (case.images / "b.png").write_bytes(content)
    case.names("b.png")
    with watched(case.root) as seen, pytest.raises(InputError) as refused:
        case.evaluate()
    assert "b.png cannot be read" in str(refused.value) and reason in str(refused.value).lower()
    assert not seen and not case.page.exists()
