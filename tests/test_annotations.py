"""What is mended in an annotation file, left out and refused, one case each.

Random files of them all are in ``tests/test_odd_annotations.py``. Oracles: the value that was there
before, and the sentence.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("numpy", reason="the images are drawn with numpy")
pytest.importorskip("PIL", reason="the images are written with Pillow")
pytest.importorskip("pycocotools", reason="masks are decoded by it")

from PIL import Image

from tests.conftest import write_set
from tools import make_shapes_coco
from ws_det.annotations import Mended, mend_annotations, mend_content
from ws_det.errors import InputError
from ws_det.evaluation import progress
from ws_det.mending import sizes

USES = [dict(training=t, masks=m) for t in (True, False) for m in (True, False)]


@pytest.fixture
def content() -> dict[str, Any]:
    """Two images, two objects of each of two categories, and a crowd."""
    things = [
        {"id": 10 * i + c, "image_id": i, "category_id": c, "bbox": [2 * c, 3, 9, 8], "area": 72}
        for i in (1, 2)
        for c in (3, 7)
    ]
    for thing in things:
        x, y, w, h = thing["bbox"]
        corners = [x, y, x + w, y, x + w, y + h, x, y + h]
        thing |= {"iscrowd": 0, "segmentation": [corners]}
    rle = {"size": [20, 30], "counts": [100, 40, 460]}
    crowd = {"id": 5, "iscrowd": 1, "bbox": [5, 0, 2, 20], "area": 40, "segmentation": rle}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in (1, 2)
        ],
        "annotations": [*things, {**things[0], **crowd}],
        "categories": [{"id": 3, "name": "box"}, {"id": 7, "name": "bar"}],
    }


def mended(content: dict[str, Any], **use: Any) -> Mended:
    """What comes of a file, which itself stays as it is."""
    before = copy.deepcopy(content)
    try:
        return mend_content(content, "a.json", **use)
    finally:
        assert content == before


def refusal(content: dict[str, Any], **use: Any) -> str:
    with pytest.raises(InputError) as refused:
        mended(content, **use)
    assert "a.json" in str(refused.value) and ": " in str(refused.value)
    return str(refused.value)


def test_ordinary_files(tmp_path: Path, tiny_coco: Path) -> None:
    """COCO's own files and those that this project makes are read as they are."""
    shapes, plain = tmp_path / "shapes", write_set(tmp_path / "plain")
    make_shapes_coco.main([str(shapes), "--train-images", "12", "--val-images", "4"])
    for root in (tiny_coco, shapes, plain):
        for path in (root / "annotations").glob("instances_*.json"):
            folder = root / path.stem.removeprefix("instances_")
            for use in USES:
                read = mend_annotations(str(path), str(folder), **use)
                assert (read.changed, read.notes) == (False, [])
                assert read.content == json.loads(path.read_text())


def test_nothing_is_copied_of_an_ordinary_file(content: dict[str, Any]) -> None:
    for use in USES:
        same = mended(content, **use).content
        assert all(same[key] is content[key] for key in content)


def test_the_line(content: dict[str, Any]) -> None:
    """It counts what was mended and what is not used, each with the first."""
    things = content["annotations"]
    for thing in things[1:3]:
        del thing["area"]
    things[0]["image_id"], things[3]["bbox"] = 9, [40, 0, 5, 5]
    del things[4]["id"]
    read = mended(content, training=True)
    assert read.describe("a.json") == (
        "a.json: computed the area of 2 annotations (the first is id 17); numbered 1 annotation "
        "(id 28) anew; 2 of 5 annotations are not used: 1 of no image that is listed, 1 without a "
        "part of the box inside the image (the first is id 13)"
    )
    assert [t["id"] for t in read.content["annotations"]] == [17, 23, 27, 28]


@pytest.mark.parametrize("text", ["5", " 5", "5.0", "+5", "05"])
def test_numbers_in_text(content: dict[str, Any], text: str) -> None:
    for thing in content["annotations"]:
        thing["image_id"], thing["area"] = {1: text, 2: "2"}[thing["image_id"]], "72"
        thing["bbox"] = [*map(str, thing["bbox"])]
    content["images"][0]["id"] = 5
    for thing in mended(content, training=True, masks=True).content["annotations"][:4]:
        assert thing["image_id"] in (5, 2) and thing["area"] == 72
        assert thing["bbox"] == [2 * thing["category_id"], 3, 9, 8]


def test_ids_in_text(content: dict[str, Any]) -> None:
    """Text that both lists have alike stays, and a number of any length is that number."""
    long = 12345678901234567890123
    for ids, names in (("12", "12"), ("a1", "ab"), (("a", "b"), ("a", "b"))):
        either = copy.deepcopy(content)
        for entry, key in zip(either["images"], ids):
            entry["id"] = key
        for thing in either["annotations"]:
            thing["image_id"] = names[thing["image_id"] - 1]
        if ids == "a1":
            kept = [t["image_id"] for t in mended(either, training=True).content["annotations"]]
            assert kept == ["a", "a", "a"]  # nobody is called b
        else:
            assert mended(either, training=True) == (either, False, [])
    content["images"][0]["id"] = str(long)
    for thing in content["annotations"]:
        thing["image_id"] = {1: long, 2: 2}[thing["image_id"]]
    images = mended(content, training=True).content["images"]
    assert [image["id"] for image in images] == [long, 2]


def test_ids_of_two_kinds(content: dict[str, Any]) -> None:
    content["images"][1]["id"] = "b"
    assert "numbers and ids that are text" in refusal(content)
    content["images"][0]["id"] = "a"
    said = refusal(content, training=True)
    assert "no annotation of a.json is of an image" in said and "'a'" in said and "name 1" in said
    assert refusal(content, training=True, needed=False) == said


@pytest.mark.parametrize(
    ("given", "meant"),
    [(True, 1), (False, 0), (None, 0), ("1", 1), ("0", 0), (1.0, 1), (2, 1), (..., 0)],
)
def test_iscrowd(content: dict[str, Any], given: Any, meant: int) -> None:
    thing = content["annotations"][0]
    thing["iscrowd"] = given
    if given is ...:
        del thing["iscrowd"]
    value = mended(content, training=True).content["annotations"][0]["iscrowd"]
    assert type(value) is int and value == meant


NO_ENTRY = {
    "an image without an id": (lambda c: c["images"][1].pop("id"), ["images", "'id'", "number 2"]),
    "an image without a name": (
        lambda c: c["images"][0].pop("file_name"), ["images", "'file_name'", "number 1"]),
    "a category without an id": (
        lambda c: c["categories"][1].pop("id"), ["categories", "'id'", "number 2"]),
    "an id that is none": (lambda c: c["images"][1].update(id=[2]), ["number 2", "the id [2]"]),
    "true for an id": (lambda c: c["images"][1].update(id=True), ["number 2", "the id True"]),
    "one number in two texts": (
        lambda c: [i.update(id=text) for i, text in zip(c["images"], ("5", "05"))],
        ["no annotation", "like '5'"]),
    "an image id twice": (lambda c: c["images"][1].update(id=1), ["two images", "the id 1"]),
    "a category id twice": (lambda c: c["categories"][1].update(id=3), ["two categories", "id 3"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ENTRY)
def test_entries_of_no_right_value(content: dict[str, Any], name: str) -> None:
    change, words = NO_ENTRY[name]
    change(content)
    said = refusal(content, training=True)
    assert all(word in said for word in words), said


def test_nothing_is_left(content: dict[str, Any]) -> None:
    """The sentence counts the reasons. Without a need for objects there is none."""

    def each(**values: Any) -> dict[str, Any]:
        changed = copy.deepcopy(content)
        for thing in changed["annotations"]:
            thing |= values
        return changed

    assert "(of its 5 annotations, 5 are crowds)" in refusal(each(iscrowd=1), training=True)
    assert "evaluate by (of its 5 annotations, 5 are crowds)" in refusal(each(iscrowd=1))
    assert "5 are without a mask" in refusal(each(segmentation=None), training=True, masks=True)
    negative = each(bbox=[9, 9, -3, -3], segmentation=[])
    assert "5 are with a box of a negative side" in refusal(negative, training=True)
    thin = each(bbox=[9, 9, 0, 3], segmentation=[])
    assert "5 are without a part of the box" in refusal(thin, training=True)
    assert mended(thin).changed is False  # pycocotools has an answer
    assert "it has no annotations" in refusal({**content, "annotations": []}, training=True)
    other = refusal(content, training=True, classes=["ball"])
    assert "5 are of categories not in use" in other
    for empty in (each(iscrowd=1), {**content, "annotations": []}):
        assert not mended(empty, training=True, needed=False).notes
    said = refusal(each(segmentation=[]), training=True, masks=True, without_masks="use Faster")
    assert said.endswith(": use Faster")


def test_no_list_stays_no_list(content: dict[str, Any]) -> None:
    """A file to predict on alone."""
    del content["annotations"]
    content["images"][0]["height"] = "20"
    read = mended(content, needed=False)
    assert read.changed and "annotations" not in read.content


def test_other_classes_are_no_oddity(content: dict[str, Any]) -> None:
    assert mended(content, training=True, classes=["bar"]) == (content, False, [])


def test_fractions_of_the_image(content: dict[str, Any]) -> None:
    for thing in content["annotations"]:
        thing["bbox"] = [0.1, 0.2, 0.3, 0.5]
    assert "in pixels, not in fractions" in refusal(content, training=True)
    assert "in pixels, not in fractions" in refusal(content)
    for thing in content["annotations"]:
        thing["bbox"] = [9, 9, 0.3, 5]
    assert "in pixels" in refusal(content, training=True)  # MMDetection leaves them out
    assert not mended(content).notes


def test_masks_that_are_not_needed_do_not_matter(content: dict[str, Any]) -> None:
    """Detectron2 would leave out the object too, or read beyond its memory."""
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"][1]["segmentation"] = {"size": [20, 30], "counts": [700]}
    read = mended(content, training=True)
    assert "segmentation" not in read.content["annotations"][0]
    assert "segmentation" not in read.content["annotations"][1]
    assert len(read.content["annotations"]) == 5 and len(read.notes) == 2
    assert "annotation 13 of a.json has no polygon" in refusal(content, masks=True)
    del content["annotations"][0]
    for use in (dict(training=True), {}):
        assert "annotation 17 of a.json has a mask that is not whole" in refusal(
            content, masks=True, **use
        )


def test_sizes_from_masks(content: dict[str, Any]) -> None:
    """Where no image can be looked at; polygons do not know how far the image goes."""
    for image in content["images"]:
        del image["height"], image["width"]
    assert mended(content).content["images"][0]["width"] == 30
    assert "the image 2 of a.json has no height" in refusal(content, masks=True)
    content["annotations"] = [content["annotations"][i] for i in (0, 1, 4)]
    images = mended(content, masks=True).content["images"]
    assert [image.get("height") for image in images] == [20, None]


# --- sizes of images ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, content: dict[str, Any]) -> Callable[..., str]:
    """Writes the images in the size that the file says, turned by EXIF or not."""

    def write(orientation: int = 1, size: tuple[int, int] = (30, 20)) -> str:
        exif = Image.Exif()
        exif[0x0112] = orientation
        for image in content["images"]:
            name = tmp_path / image["file_name"]
            Image.new("RGB", size).save(name, exif=exif)
        return str(tmp_path)

    return write


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_sizes(
    content: dict[str, Any], folder: Callable[..., str], orientation: int
) -> None:
    """The file has to have the size of the turned image; of a reader that turns none, the other."""
    on_its_side = orientation >= 5
    stored = (20, 30) if on_its_side else (30, 20)
    place = folder(orientation, stored)
    assert mended(content, training=True, folder=place) == (content, False, [])
    for image in content["images"]:
        del image["height"]
    read = mended(content, training=True, folder=place)
    assert [image["height"] for image in read.content["images"]] == [20, 20]
    for image in content["images"]:
        image["height"], image["width"] = stored[::-1]
    content["annotations"].pop()  # its mask has a size too
    if on_its_side:
        said = refusal(content, training=True, folder=place)
        assert "1.jpg is 30 wide and 20 high, for its EXIF orientation turns it" in said
        assert "says 20 and 30 (2 of 2 compared images differ)" in said and "upright" in said
        assert not mended(content, training=True, folder=place, turn=False).notes


def test_other_sizes(content: dict[str, Any], folder: Callable[..., str]) -> None:
    place = folder(1, (60, 40))
    said = refusal(content, folder=place)
    assert "1.jpg is 60 wide and 40 high, but a.json says 30 and 20 (2 of 2" in said
    assert "EXIF" not in said
    place = folder()
    Image.new("RGB", (20, 30)).save(Path(place, "2.jpg"))
    assert "2.jpg is 20 wide and 30 high, but a.json says 30 and 20 (1 of 2" in refusal(
        content, folder=place
    )


def test_a_large_set_is_compared_in_part(
    content: dict[str, Any],
    folder: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, seen, size = folder(), [], sizes.image_size
    monkeypatch.setattr(sizes, "image_size", lambda path, turn: seen.append(path) or size(path))
    now = iter(range(0, 1000, 9))  # seconds
    monkeypatch.setattr(sizes.time, "monotonic", lambda: float(next(now)))
    content["images"] += [{**content["images"][1], "id": key} for key in range(3, 12)]
    read = mended(content, training=True, folder=place)
    assert (read.changed, read.notes) == (
        False, ["compared the sizes of 2 of 11 images with the files"],
    )  # fmt: skip
    assert capsys.readouterr().err == "comparing sizes of images: 1 of 11, 10 s more\n"
    assert not seen[0].endswith("1.jpg")  # not in the order of the file


def test_long_reading_is_told(
    content: dict[str, Any],
    folder: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(progress, "_SECONDS", 0.0)
    for image in content["images"]:
        image["width"] = None
    mended(content, folder=folder())
    assert capsys.readouterr().err == "reading the sizes of images: 50%, about 0:00:00 left\n"


def test_a_missing_image_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    del content["images"][0]["height"]
    with pytest.raises(InputError, match=r"does not exist|no such file"):
        mended(content, folder=str(tmp_path))


# --- how long it takes ----------------------------------------------------------------------------


def test_an_ordinary_file_takes_little_longer_than_json(tiny_coco: Path, tmp_path: Path) -> None:
    """COCO train2017 has 860,000 annotations, and every start reads it."""
    (path,) = (tiny_coco / "annotations").glob("instances_train*.json")
    real = json.loads(path.read_text())
    things = [
        {**thing, "id": 1000 * copy_ + place}
        for copy_ in range(20)
        for place, thing in enumerate(real["annotations"])
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**real, "annotations": things}))

    def seconds(read: Callable[[], Any]) -> float:
        taken = []
        for _ in range(3):
            began = time.process_time()
            read()
            taken.append(time.process_time() - began)
        return min(taken)

    plain = seconds(lambda: json.loads(path.read_bytes()))
    # 1.4 was measured with 860,000; the rest is for a busy machine.
    assert seconds(lambda: mend_annotations(str(path), training=True, masks=True)) < 2 * plain
