"""Annotation files. Oracle: the sentence, which names the file, what is wrong, and the way out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ws_det.coco import category_names, check_images, check_shapes, read_annotations
from ws_det.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An annotation file of four images, which are there."""
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)]
    for image in images:
        (tmp_path / image["file_name"]).touch()
    categories = [{"id": 7, "name": "bar"}, {"id": 3, "name": "box"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": images, "categories": categories}))
    return path


def refusal(file: Path) -> str:
    with pytest.raises(InputError) as refused:
        read_annotations(str(file))
    assert str(file) in str(refused.value) and "\n" not in str(refused.value)
    return str(refused.value)


def test_what_is_in_the_file(file: Path) -> None:
    """All of it, and the categories in its order, not in that of their ids."""
    annotations = read_annotations(str(file))
    assert annotations == json.loads(file.read_text())
    assert category_names(annotations) == ["bar", "box"]


def test_missing(file: Path) -> None:
    file.unlink()
    assert "does not exist" in refusal(file) and "--data-root" in refusal(file)


def test_truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])
    assert "truncated" in refusal(file)


@pytest.mark.parametrize("key", ["images", "categories"])
def test_without(file: Path, key: str) -> None:
    content = json.loads(file.read_text())
    for value in ([], None, [{"id": 1}]):
        file.write_text(json.dumps(content | {key: value}))
        assert key in refusal(file)
    file.write_text("[]")
    assert "COCO's format" in refusal(file)


def test_images_that_have_an_address_alone(file: Path) -> None:
    """LVIS has no other name of them; where a file is to be read the name is asked for."""
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/train2017/{image.pop('file_name')}"
    file.write_text(json.dumps(content))
    assert read_annotations(str(file)) == content
    with pytest.raises(InputError, match="name the image None"):
        check_images(str(file), str(file.parent), content["images"], "look again")


def test_missing_image(file: Path) -> None:
    """The first one is named, all are counted, and the caller's words end the sentence."""
    images = read_annotations(str(file))["images"]
    check_images(str(file), str(file.parent), images, "look again")
    for name in ("3.jpg", "1.jpg"):
        (file.parent / name).unlink()
    with pytest.raises(InputError) as refused:
        check_images(str(file), str(file.parent), images, "look again")
    assert str(refused.value) == (
        f"the image {file.parent / '1.jpg'} of {file} does not exist (2 of 4 are missing): "
        f"look again"
    )


SHAPES = {
    "none": (None, True), "empty": ([], True), "empty polygon": ([[]], True),
    "a point": ([[1, 2]], True), "an odd number": ([[1, 2, 3, 4, 5, 6, 7]], True),
    "a triangle": ([[1, 2, 3, 4, 5, 6.5]], True), "partly outside": ([[-9, 2, 40, 4, 5, 9]], True),
    "run lengths": ({"size": [20, 30], "counts": [100, 500]}, True),
    "compressed": ({"size": [20, 30], "counts": "T3T?"}, True),
    "far away": ([[1, 2, 1e9, 4, 5, 6]], False), "NaN": ([[math.nan] * 6], False),
    "NaN after": ([[1, 2, 3, 4, 5, math.nan]], False), "inf": ([[math.inf] * 6], False),
    "text": ([["a"] * 6], False), "flat": ([1, 2, 3, 4, 5, 6], False), "a word": ("abc", False),
    "too many runs": ({"size": [20, 30], "counts": [100, 501]}, False),
    "negative": ({"size": [20, 30], "counts": [-1, 601]}, False),
    "fraction": ({"size": [20, 30], "counts": [0.5, 599.5]}, False),
    "other size": ({"size": [30, 20], "counts": [100, 500]}, False),
    "huge size": ({"size": [2**31, 2**31], "counts": "0"}, False),
    "no end": ({"size": [20, 30], "counts": "oooo"}, False),
    "no number": ({"size": [20, 30], "counts": "00\x00p"}, False),
    "no counts": ({"size": [20, 30]}, False), "nothing": ({"size": [20, 30], "counts": ""}, False),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_masks_that_code_in_c_can_be_given(kind: str) -> None:
    """What the frameworks leave out themselves is as good as none."""
    shape, is_taken = SHAPES[kind]
    images = [{"id": 5, "file_name": "a.jpg", "height": 20, "width": 30}]
    things = [{"id": 8, "image_id": 5, "segmentation": shape}]
    content = {"images": images, "annotations": things}
    if is_taken:
        check_shapes("a.json", content)
        return
    with pytest.raises(InputError, match=r"the annotation 8 of a\.json has a mask"):
        check_shapes("a.json", content)
