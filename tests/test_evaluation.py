"""Every back end gives pycocotools' numbers. Oracle: pycocotools called directly."""

from __future__ import annotations

import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pycocotools")

import numpy as np

from tests.coco_cases import random_case, reference
from ws_det.errors import InputError
from ws_det.evaluation import BACKENDS, evaluate
from ws_det.evaluation import backends as backends_module
from ws_det.evaluation.files import evaluate_files
from ws_det.report import COLUMNS

KINDS = ("bbox", "segm")
# A tenth of what a twelve-digit report would show. Seen are 0 and 2e-16: sums in another order.
TOLERANCE = 1e-9
CASES, BLOCK = 520, 40


def needs(backend: str) -> None:
    module = BACKENDS[backend].module.partition(".")[0]
    if find_spec(module) is None:
        pytest.skip(f"{backend} is not installed")


def check_equal(result: Any, expected: Any) -> None:
    assert list(result.stats) == list(COLUMNS)
    assert list(result.stats.values()) == pytest.approx(expected.stats.tolist(), abs=TOLERANCE)
    np.testing.assert_allclose(result.precision, expected.eval["precision"], rtol=0, atol=TOLERANCE)
    for k, name in enumerate(result.class_names):
        values = expected.eval["precision"][:, :, k, 0, 2]
        ap = values[values > -1].mean() if (values > -1).any() else -1
        assert result.per_class[name] == pytest.approx(ap, abs=TOLERANCE)


@pytest.mark.parametrize("backend", ["hotcoco", "faster-coco-eval", "hotcoco, from files"])
@pytest.mark.parametrize("first", range(0, CASES, BLOCK))
def test_equals_pycocotools(first: int, backend: str, tmp_path: Path, expected: Any) -> None:
    """Precision in every cell, the twelve numbers and the classes' APs of 520 cases."""
    name, _, from_files = backend.partition(", ")
    needs(name)
    aps = []
    for seed in range(first, first + BLOCK):
        truth, found = random_case(seed)
        if not found:
            continue
        given: tuple[Any, Any] = truth, found
        if from_files:
            given = tmp_path / "truth.json", tmp_path / "found.json"
            for path, content in zip(given, (truth, found)):
                path.write_text(json.dumps(content))
            # None of the cases is so odd that the files would be read in Python after all.
            assert all(evaluate_files(*map(str, given), kind) for kind in KINDS)
        results = evaluate(*given, backend=name)
        assert list(results) == list(KINDS)
        for kind, result in results.items():
            check_equal(result, expected(seed, kind))
            assert result.images == len(truth["images"]) and result.backend == name
            aps.append(result.stats["AP"])
    assert 0.1 < np.mean([ap for ap in aps if ap > -1]) < 0.6  # the cases are neither easy nor void


@pytest.fixture(scope="module")
def expected() -> Any:
    """The reference of a case, computed once."""
    known: dict[tuple[int, str], Any] = {}

    def compute(seed: int, kind: str) -> Any:
        if (seed, kind) not in known:
            known[seed, kind] = reference(*random_case(seed), kind)
        return known[seed, kind]

    return compute


@pytest.mark.parametrize("seed", range(9, 60, 10))
def test_pycocotools_as_a_back_end(seed: int, expected: Any) -> None:
    """To the last bit; these cases have more than 100 detections an image."""
    truth, found = random_case(seed)
    for kind, result in evaluate(truth, found, backend="pycocotools").items():
        assert list(result.stats.values()) == expected(seed, kind).stats.tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ids", ["texts", "fractions", "negative", "annotation 0", "repeated"])
def test_whatever_the_ids_are(backend: str, ids: str, expected: Any) -> None:
    """The numbers are those of the same case with plain ids in the same order."""
    needs(backend)
    rename = {
        "texts": "{:06d}".format,
        "fractions": lambda i: i + 0.5,
        "negative": lambda i: i - 2000,
    }
    for seed in (7, 19, 21):
        truth, found = random_case(seed)
        change = rename.get(ids, lambda i: i)
        for entry in (*truth["images"], *truth["categories"]):
            entry["id"] = change(entry["id"])
        for entry in (*truth["annotations"], *found):
            entry["image_id"] = change(entry["image_id"])
            entry["category_id"] = change(entry["category_id"])
        if ids == "annotation 0":
            # pycocotools reads the id 0 of a matched object as "not matched"
            truth["annotations"][0]["id"] = 0
        elif ids == "repeated":
            for annotation in truth["annotations"]:
                annotation["id"] = 1
        for kind, result in evaluate(truth, found, backend=backend).items():
            check_equal(result, expected(seed, kind))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_found(backend: str, tmp_path: Path) -> None:
    """Zeros, and -1 where there is no object of a size: an empty list counts as "nothing found"."""
    needs(backend)
    truth, _ = random_case(0)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"]]
    for annotation in truth["annotations"]:
        annotation["area"] = 100.0
    path = tmp_path / "none.json"
    path.write_text("[]")
    for nothing in ([], str(path)):
        for result in evaluate(truth, nothing, KINDS, backend).values():
            zeros = {name: 0 if name[-1] not in "ml" else -1 for name in COLUMNS}
            assert result.stats == zeros
    assert list(evaluate(truth, [])) == ["bbox"]


def test_some_images_alone() -> None:
    """Those named are evaluated as if the others, with their detections, were not there."""
    truth, found = random_case(9)
    chosen = [image["id"] for image in truth["images"]][:2]
    fewer = {
        **truth,
        "images": truth["images"][:2],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in chosen],
    }
    of_chosen = [entry for entry in found if entry["image_id"] in chosen]
    assert 0 < len(of_chosen) < len(found)
    for kind, result in evaluate(truth, found, image_ids=chosen).items():
        check_equal(result, reference(fewer, of_chosen, kind))
        assert result.images == 2


def test_what_is_of_no_image_or_class_of_the_truth_does_not_count(expected: Any) -> None:
    """As in pycocotools: annotations, not predictions."""
    truth, found = random_case(29)
    for key in ("image_id", "category_id"):
        truth["annotations"].append({**truth["annotations"][0], "id": 9999, key: 12345})
    for kind, result in evaluate(truth, found).items():
        check_equal(result, expected(29, kind))


def test_predictions_by_kind() -> None:
    """Boxes and masks may have scores of their own."""
    truth, found = random_case(29)
    other = [{**entry, "score": 1 - entry["score"]} for entry in found]
    results = evaluate(truth, {"bbox": found, "segm": other})
    check_equal(results["bbox"], reference(truth, found, "bbox"))
    check_equal(results["segm"], reference(truth, other, "segm"))
    with pytest.raises(InputError, match="'segm': use bbox"):
        evaluate(truth, {"bbox": found}, ["segm"])
    with pytest.raises(InputError, match="'keypoints': use bbox or segm"):
        evaluate(truth, found, ["keypoints"])


def test_two_classes_of_one_name() -> None:
    truth, found = random_case(29)
    for category in truth["categories"]:
        category["name"] = "thing"
    ids = sorted(category["id"] for category in truth["categories"])
    result = evaluate(truth, found, ["bbox"])["bbox"]
    assert len(ids) > 1 and list(result.per_class) == [f"thing ({i})" for i in ids]


def test_the_input_is_left_as_it_was() -> None:
    truth, found = random_case(29)
    before = json.dumps([truth, found])
    for backend in BACKENDS:
        if find_spec(BACKENDS[backend].module.partition(".")[0]):
            evaluate(truth, found, backend=backend)
    assert json.dumps([truth, found]) == before


def test_real_annotations(tiny_coco: Path) -> None:
    """COCO's own file, with its crowds and its ids."""
    path = tiny_coco / "annotations/instances_train2017.json"
    truth = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    found = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": (np.array(a["bbox"]) + rng.normal(0, 4, 4)).clip(0).tolist(),
            "score": float(rng.random()),
        }
        for a in truth["annotations"]
    ]
    wanted = reference(truth, found, "bbox")
    for backend in BACKENDS:
        if find_spec(BACKENDS[backend].module.partition(".")[0]):
            check_equal(evaluate(path, found, backend=backend)["bbox"], wanted)


def test_auto_is_the_fastest_that_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("hotcoco")
    assert backends_module.choose("auto") == "hotcoco"
    import hotcoco

    monkeypatch.setattr(hotcoco, "__version__", "0.4.0")
    assert backends_module.choose("auto") != "hotcoco"
    with pytest.raises(InputError, match=r'hotcoco 0\.4\.0 .*: pip install "hotcoco>=1\.3"'):
        backends_module.choose("hotcoco")


def test_a_back_end_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """By name it is refused with the command that installs it; auto takes the next."""
    real = backends_module.import_module

    def import_module(name: str) -> Any:
        if name.startswith(missing):
            raise ImportError(f"No module named {name!r}")
        return real(name)

    monkeypatch.setattr(backends_module, "import_module", import_module)
    missing = ("hotcoco", "faster_coco_eval")
    assert backends_module.choose("auto") == "pycocotools"
    with pytest.raises(InputError, match=r'pip install "faster-coco-eval>=1\.8"'):
        backends_module.choose("faster-coco-eval")
    missing = ("hotcoco", "faster_coco_eval", "pycocotools")
    with pytest.raises(InputError, match='pip install "pycocotools>='):
        backends_module.choose("auto")
    with pytest.raises(InputError, match="use auto, hotcoco, "):
        backends_module.choose("lvis")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_does_not_wait_for_threads_that_it_has_not() -> None:
    """hotcoco in a child by fork of a process that used it never ends; auto takes another there."""
    needs("hotcoco")
    truth, found = random_case(9)
    expected = evaluate(truth, found, ["bbox"], "hotcoco")["bbox"]
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # if it waits after all
        code = 1
        try:
            result = evaluate(truth, found, ["bbox"])["bbox"]
            check_equal(result, SimpleNamespace(**as_reference(expected)))
            with pytest.raises(InputError, match="forked"):
                evaluate(truth, found, ["bbox"], "hotcoco")
            code = 0 if result.backend != "hotcoco" else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def as_reference(result: Any) -> dict[str, Any]:
    """A result in the form of COCOeval."""
    stats = np.array(list(result.stats.values()))
    return {"stats": stats, "eval": {"precision": result.precision}}
