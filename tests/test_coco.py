"""Annotation files. Oracle: the sentence, which names the file, what is wrong, and the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ws_det.coco import category_names, check_images, read_annotations
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
