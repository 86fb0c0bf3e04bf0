"""Predictions that frameworks saved. Oracles: COCO results by hand, and files with code in them.

That the frameworks themselves write such files is in tests/mmdet and tests/detectron2.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ws_det.errors import InputError
from ws_det.evaluation.classes import only
from ws_det.evaluation.saved import load_saved, read_saved

RLE = {"size": [20, 30], "counts": b"QX1"}
# Not in the order of their ids: MMDetection's label 0 is "bar", Detectron2's "box".
CATEGORIES = [{"id": 7, "name": "bar"}, {"id": 3, "name": "box"}]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 30} for i in (5, 6)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES}))
    return path


def of_mmdet(image: int, labels: list[int], **more: Any) -> dict[str, Any]:
    boxes = [[1.0, 2.0, 4.0, 8.0]] * len(labels)
    return {
        "img_id": image,
        "ori_shape": (20, 30),
        "pred_instances": {
            "bboxes": torch.tensor(boxes).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.long),
            "scores": torch.full((len(labels),), 0.5),
            **more,
        },
    }


def of_detectron2(image: int, label: int, **more: Any) -> dict[str, Any]:
    found = {"image_id": image, "category_id": label, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.5}
    return {"image_id": image, "instances": [{**found, **more}]}


def result(image: int, category: int, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "score": 0.5, **more}


def dump(content: Any, path: Path, protocol: int = 2) -> Path:  # MMEngine's protocol is 2
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_mmdetection(tmp_path: Path, truth: Path, protocol: int) -> None:
    """Labels are places in the annotation file; an image that is there twice counts once."""
    images = [of_mmdet(5, [0, 1]), of_mmdet(6, []), of_mmdet(5, [0, 1])]
    found = read_saved(dump(images, tmp_path / "p.pkl", protocol), truth)
    box = [1.0, 2.0, 3.0, 6.0]
    assert found == {"bbox": [result(5, 7, bbox=box), result(5, 3, bbox=box)]}


def test_mmdetection_with_masks(tmp_path: Path, truth: Path) -> None:
    """Some detectors score masks by themselves."""
    other = torch.tensor([0.25])
    images = [of_mmdet(5, [1], masks=[RLE]), of_mmdet(6, [1], masks=[RLE], mask_scores=other)]
    found = read_saved(dump(images, tmp_path / "p.pickle"), truth)
    assert found["segm"] == [
        result(5, 3, segmentation=RLE),
        {**result(6, 3, segmentation=RLE), "score": 0.25},
    ]
    assert [entry["score"] for entry in found["bbox"]] == [0.5, 0.5]


def test_detectron2(tmp_path: Path, truth: Path) -> None:
    """Labels are places among the sorted ids."""
    images = [of_detectron2(5, 0), of_detectron2(6, 1), of_detectron2(5, 0)]
    torch.save(images, tmp_path / "instances_predictions.pth")
    found = read_saved(tmp_path / "instances_predictions.pth", truth)
    box = [1.0, 2.0, 3.0, 6.0]
    assert found == {"bbox": [result(5, 3, bbox=box), result(6, 7, bbox=box)]}
    torch.save([of_detectron2(5, 0, segmentation=RLE)], tmp_path / "masks.pth")
    assert list(read_saved(tmp_path / "masks.pth", truth)) == ["bbox", "segm"]


def test_category_ids_that_are_text_in_one_list(tmp_path: Path, truth: Path) -> None:
    """A run makes numbers of them, by which Detectron2 sorts: text would put 10 before 9."""
    content = json.loads(truth.read_text())
    content["categories"] = [{"id": "10", "name": "bar"}, {"id": "9", "name": "box"}]
    thing = {"id": 1, "image_id": 5, "bbox": [1, 2, 3, 6], "area": 18, "iscrowd": 0}
    content["annotations"] = [{**thing, "category_id": 9}]
    truth.write_text(json.dumps(content))
    torch.save([of_detectron2(5, 0)], tmp_path / "p.pth")
    assert read_saved(tmp_path / "p.pth", truth)["bbox"][0]["category_id"] == 9


def test_categories_of_results_in_text(truth: Path) -> None:
    """Those that another detector does not know are left out of COCO results too."""
    content = json.loads(truth.read_text())
    found = [{**result(5, 7), "category_id": text} for text in ("7", "3", 3, "9", [3])]
    assert only(content, found, [[3]])[1] == found[1:3]


@pytest.mark.parametrize("classes", [["box"], ["box", "bar"], ["bar", "box"]])
@pytest.mark.parametrize("given", [False, True])
def test_labels_by_the_names_of_their_classes(
    classes: list[str], given: bool, tmp_path: Path, truth: Path
) -> None:
    """In the file, as what wrote it knows them, or given. Oracle: the categories by hand."""
    ids = {"bar": 7, "box": 3}
    named = {} if given else {"classes": classes}
    images = [of_mmdet(5, [*range(len(classes))]) | named]
    dump(images, tmp_path / "p.pkl")
    found = [of_detectron2(5, label) | named for label in range(len(classes))]
    torch.save(found[-1:], tmp_path / "p.pth")
    box = [1.0, 2.0, 3.0, 6.0]
    expected = [result(5, ids[name], bbox=box) for name in classes]
    for name, last in (("p.pkl", expected), ("p.pth", expected[-1:])):
        saved = load_saved(tmp_path / name, truth, classes if given else None)
        assert saved.found == {"bbox": last}
        assert saved.categories == (None if len(classes) == 2 else [3])


def test_too_few_classes_are_told(
    tmp_path: Path, truth: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file without names may be of fewer classes, unless the last one is among its labels."""
    for label, told in ((0, True), (1, False)):
        dump([of_mmdet(5, [label])], tmp_path / "p.pkl")
        torch.save([of_detectron2(5, label)], tmp_path / "p.pth")
        for name in ("p.pkl", "p.pth"):
            load_saved(tmp_path / name, truth)
            said = capsys.readouterr().err
            assert ("none is of the last 1 of the 2 categories" in said) == told
            assert said.count("\n") == told


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["box", "cat"], "class 'cat' is not one category"),
        (["box", "box"], "class 'box' is not one category"),
        ([3, 4], "no detections"),
        (7, "no detections"),
    ],
)
def test_classes_that_are_none(names: Any, words: str, tmp_path: Path, truth: Path) -> None:
    dump([of_mmdet(5, [0]) | {"classes": names}], tmp_path / "p.pkl")
    with pytest.raises(InputError, match=words):
        load_saved(tmp_path / "p.pkl", truth)


def test_json_is_read_later(truth: Path) -> None:
    assert read_saved("x.bbox.json", truth) == Path("x.bbox.json")
    with pytest.raises(InputError, match="has category ids"):
        load_saved("x.bbox.json", truth, ["box"])


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class InStorage:
    """Has it in what torch takes for a tensor's bytes."""

    def __init__(self, code: Code) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        file = io.BytesIO()
        torch.save(self.code, file, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (file.getvalue(),)


@pytest.mark.parametrize("name", ["p.pkl", "in_storage.pkl", "p.pth"])
def test_code_does_not_run(name: str, tmp_path: Path, truth: Path) -> None:
    code: Any = Code(tmp_path / "made")
    path = tmp_path / name
    if name.endswith(".pth"):
        torch.save([code], path)
    else:
        dump([code if name == "p.pkl" else InStorage(code)], path)
    with pytest.raises(InputError, match="hold more than detections") as refused:
        read_saved(path, truth)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.pkl", pickle.dumps([of_mmdet(5, [2])]), "more classes than the 2"),
        ("p.pkl", pickle.dumps([of_mmdet(5, [0])])[:-40], "truncated"),
        ("p.pkl", b"", "truncated"),
        ("p.pkl", pickle.dumps([{"x": 1}]), "no detections"),
        ("p.pkl", pickle.dumps(3), "no detections"),
        ("p.pth", b"PK\x03\x04 nothing", "truncated"),
        ("p.npy", b"", ".json, .pkl and .pth"),
    ],
)
def test_one_sentence(name: str, content: bytes, words: str, tmp_path: Path, truth: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_saved(path, truth)
    assert words in str(refused.value) and str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing(tmp_path: Path, truth: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.pkl do not exist"):
        read_saved(tmp_path / "gone.pkl", truth)


def test_tensors_that_are_longer_than_their_file(tmp_path: Path, truth: Path) -> None:
    """A number that is there once and counts a billion times."""
    long = torch.zeros(1).expand(10**9, 4)
    torch.save([{"image_id": 5, "instances": long}], tmp_path / "p.pth")
    image = of_mmdet(5, [0])
    image["pred_instances"]["bboxes"] = long
    dump([image], tmp_path / "p.pkl")
    for name in ("p.pth", "p.pkl"):
        with pytest.raises(InputError, match=rf"{name} (are|hold)"):
            read_saved(tmp_path / name, truth)


def test_labels_below_zero(tmp_path: Path, truth: Path) -> None:
    """Python would count them from the end. The same for lists of several lengths."""
    torch.save([of_detectron2(5, -1)], tmp_path / "p.pth")
    short = of_mmdet(5, [0, 1])
    short["pred_instances"]["scores"] = torch.tensor([0.5])
    dump([of_mmdet(5, [-1])], tmp_path / "a.pkl")
    dump([short], tmp_path / "b.pkl")
    for name, words in (("p.pth", "classes"), ("a.pkl", "classes"), ("b.pkl", "no detections")):
        with pytest.raises(InputError, match=words):
            read_saved(tmp_path / name, truth)
