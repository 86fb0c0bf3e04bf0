"""What an evaluation refuses. Oracle: the sentence, which has the value and the way out."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pycocotools")

from pycocotools import mask

from ws_det.errors import InputError
from ws_det.evaluation import evaluate

RLE = mask.frPyObjects([[2, 3, 11, 3, 11, 11, 2, 11]], 20, 30)[0]
RLE["counts"] = RLE["counts"].decode()


NO_BOX = {"thing_bbox": ..., "thing_segmentation": ...}


def case(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """An object and its detection, each with the changes whose names begin with theirs."""
    thing = {"id": 1, "image_id": 5, "category_id": 3, "bbox": [2, 3, 9, 8], "area": 72}
    thing |= {"iscrowd": 0, "segmentation": [[2, 3, 11, 3, 11, 11, 2, 11]]}
    found = {"image_id": 5, "category_id": 3, "bbox": [2, 3, 9, 8], "score": 0.5}
    found |= {"segmentation": RLE}
    for entry, prefix in ((thing, "thing_"), (found, "found_")):
        entry |= {k.removeprefix(prefix): v for k, v in changes.items() if k.startswith(prefix)}
        for key in [key for key, value in entry.items() if value is ...]:
            del entry[key]
    truth = {
        "images": [{"id": 5, "file_name": "5.jpg", "height": 20, "width": 30}],
        "annotations": [thing],
        "categories": [{"id": 3, "name": "box"}],
    }
    return truth, [found]


def refusal(truth: Any, found: Any, kinds: Any = None) -> str:
    with pytest.raises(InputError) as refused:
        evaluate(truth, found, kinds)
    assert "\n" not in str(refused.value) and str(refused.value).count(". ") == 0
    return str(refused.value)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"found_score": math.nan}, "bbox", ["prediction 1", "image 5", "score nan"]),
        ({"found_score": math.inf}, "segm", ["prediction 1", "score inf"]),
        ({"found_score": ...}, "bbox", ["prediction 1", "score None"]),
        ({"found_score": "high"}, "bbox", ["score high"]),
        ({"found_image_id": 6}, "bbox", ["image 6", "annotation file that the predictions"]),
        ({"found_image_id": [5]}, "bbox", ["image [5]", "annotation file that the predictions"]),
        ({"found_category_id": 80}, "segm", ["category 80", "annotation file that the pred"]),
        ({"found_bbox": ...}, "bbox", ["box None", "four numbers"]),
        ({"found_bbox": [1, 2, 3]}, "bbox", ["box [1, 2, 3]"]),
        ({"found_bbox": [1, 2, 3, math.nan]}, "bbox", ["nan", "four numbers"]),
        ({"found_bbox": ["a", 2, 3, 4]}, "bbox", ["'a'", "four numbers"]),
        ({"found_segmentation": ...}, "segm", ["prediction 1", "RLE", "--kinds segm"]),
        ({"found_segmentation": [[1, 1, 5, 1, 5, 5]]}, "segm", ["RLE", "pycocotools.mask"]),
        (NO_BOX, "bbox", ["annotation 1", "no box", "'bbox'"]),
        ({**NO_BOX, "thing_bbox": [1, 2]}, "bbox", ["annotation 1", "box [1, 2]", "four numbers"]),
        ({**NO_BOX, "thing_bbox": [9, 9, -1, 2]}, "bbox", ["annotation 1", "negative side"]),
        ({"thing_segmentation": ...}, "segm", ["annotation 1", "no mask", "--kinds bbox"]),
        ({"thing_segmentation": []}, "segm", ["annotation 1", "no mask"]),
        ({"thing_segmentation": [[1, 1, 5, 5]]}, "segm", ["annotation 1", "three corners"]),
        ({"thing_image_id": 6}, "bbox", ["no annotation of the truth", "like 5", "name 6"]),
        ({"thing_iscrowd": "yes"}, "bbox", ["annotation 1", "iscrowd 'yes'", "0 or 1"]),
    ],
)
def test_a_value_that_is_no_answer(
    changes: dict[str, Any], kind: str, words: list[str], tmp_path: Path
) -> None:
    """The same sentence for what is in memory and for files, which hotcoco reads itself."""
    truth, found = case(**changes)
    said = refusal(truth, found, [kind])
    assert all(word in said for word in words), said
    paths = tmp_path / "truth.json", tmp_path / "found.json"
    for path, content in zip(paths, (truth, found)):
        path.write_text(json.dumps(content))
    assert refusal(*paths, [kind]) == said.replace("the truth", str(paths[0]))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"thing_bbox": ...}, "computed the box"),
        ({"thing_bbox": [1, 2]}, "computed the box"),
        ({"thing_bbox": ["2", "3", "9", "8.0"]}, "numbers"),
        ({"thing_area": ...}, "computed the area"),
        ({"thing_area": None}, "computed the area"),
        ({"thing_area": 0}, "computed the area"),
        ({"thing_iscrowd": ...}, "iscrowd"),
        ({"thing_id": ...}, "numbered"),
        ({"thing_image_id": "5"}, "image_id"),
        ({"thing_segmentation": [2, 3, 11, 3, 11, 11, 2, 11]}, "flat"),
        ({"found_image_id": "5", "found_category_id": "3", "found_score": "0.5"}, ""),
        ({"found_bbox": ["2", "3", "9", "8.0"]}, ""),
    ],
)
def test_what_is_mended(
    changes: dict[str, Any],
    words: str,
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The detection is its object all the same, in memory and from files.

    One warning says what was mended, but of what hotcoco does not need either.
    """
    truth, found = case(**changes)
    assert evaluate(truth, found, [kind])[kind].stats["AP"] == pytest.approx(1)
    assert not capsys.readouterr().err
    paths = tmp_path / "truth.json", tmp_path / "found.json"
    for path, content in zip(paths, (truth, found)):
        path.write_text(json.dumps(content))
    assert evaluate(*paths, [kind])[kind].stats["AP"] == pytest.approx(1)
    told = capsys.readouterr().err.splitlines()
    assert len(told) <= bool(words) and all(words in line for line in told)
    unneeded = ("numbered", "iscrowd", *["computed the box"] * (kind == "segm"))
    assert told or not words or words in unneeded


def test_ids_that_are_text_in_one_list() -> None:
    """Text in both lists of the truth stays, and predictions of either kind belong to it."""
    for mine, their in ((5, "5"), ("5", 5), ("5", "5")):
        truth, found = case(thing_image_id=mine, found_image_id=their)
        truth["images"][0]["id"] = mine
        assert evaluate(truth, found, ["bbox"])["bbox"].stats["AP"] == pytest.approx(1)


def test_what_the_other_kind_lacks_does_not_matter() -> None:
    for changes, kind in (({"thing_bbox": ..., "found_bbox": ...}, "segm"), ({}, "bbox")):
        truth, found = case(**changes)
        assert evaluate(truth, found, [kind])[kind].stats["AR100"] > 0
    for masks in ({"thing_segmentation": ..., "found_segmentation": ...}, {"thing_iscrowd": ...}):
        assert evaluate(*case(**masks), ["bbox"])["bbox"].stats["AP"] == pytest.approx(1)


def test_images_and_categories() -> None:
    truth, found = case()
    assert "no 'categories' list" in refusal({**truth, "categories": []}, found)
    assert "no 'images' list" in refusal({"categories": truth["categories"]}, found)
    mixed = [*truth["images"], {"id": "five", "file_name": "5.jpg"}]
    assert "write them all in one type" in refusal({**truth, "images": mixed}, found)
    truth["images"][0].pop("height")
    assert evaluate(truth, found, ["bbox"])["bbox"].stats["AP"] == pytest.approx(1)
    assert "image 5" in refusal(truth, found, ["segm"])


def test_files(tmp_path: Path) -> None:
    truth, found = case()
    good, bad, gone = tmp_path / "truth.json", tmp_path / "bad.json", tmp_path / "gone.json"
    good.write_text(json.dumps(truth))
    for damaged in (json.dumps(found)[:-9], "", "\x80", '{"a": 1}', "[1, 2]"):
        bad.write_bytes(damaged.encode("latin1"))
        assert str(bad) in refusal(good, bad)
        assert str(bad) in refusal(bad, found)
    for said in (refusal(good, gone), refusal(gone, found)):
        assert str(gone) in said and "give the path of an existing file" in said


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    truth, found = case()
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)
    good = tmp_path / "good.json"
    for content, files in ((truth, (good, pipe)), (found, (pipe, good))):
        good.write_text(json.dumps(content))
        assert str(pipe) in refusal(*files)
