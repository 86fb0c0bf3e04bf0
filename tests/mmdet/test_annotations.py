"""What MMDetection reads of odd annotation files, and what is left behind of refused runs.

Oracles: what the training's data set and the evaluator hold in a whole run, numbers of the same set
without its oddity, and the folders before and after.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mmdet.datasets import CocoDataset

from tests.conftest import run, write_set
from tests.mmdet.odd_runs import BOXES, LookHook, new_run, plain_configs, tree, write_config
from tools import test, train
from ws_det.errors import InputError
from ws_det.mmdet import runner
from ws_det.mmdet.annotations import judges_by_coco, reads_coco
from ws_det.mmdet.config import load_config
from ws_det.mmdet.data import heads_of
from ws_det.mmdet.diagnose import diagnose

TRAIN, VAL = "annotations/instances_train2017.json", "annotations/instances_val2017.json"
Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def alone() -> None:
    """Every test is the first run of its process."""
    new_run()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a set, a config with masks, and one without."""
    root = tmp_path_factory.mktemp("place")
    coco = write_set(root / "set", 3, 2)
    with plain_configs():
        write_config(root / "masks.py", coco, {})
        write_config(root / "boxes.py", coco, BOXES)
        yield root
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> Path:
    """Of two iterations, for a detector with masks."""
    new_run()
    runner.train(str(place / "masks.py"), str(place / "trained"), data_root=str(place / "set"))
    return place / "trained" / "iter_2.pth"


@pytest.fixture
def odd(place: Path, tmp_path: Path) -> Callable[..., Path]:
    """Edits a copy of the set; for a file's name what is done to its content."""

    def edit(**edits: Edit) -> Path:
        root = Path(shutil.copytree(place / "set", tmp_path / "set", dirs_exist_ok=True))
        for part, change in edits.items():
            path = root / f"annotations/instances_{part}2017.json"
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        return root

    new_run()
    return edit


def each(**values: Any) -> Edit:
    """Give all annotations values; ... takes a field away."""

    def edit(content: dict[str, Any]) -> None:
        for thing in content["annotations"]:
            for key, value in values.items():
                given = value(thing) if callable(value) else value
                thing.pop(key, None)
                if given is not ...:
                    thing[key] = given

    return edit


def no_annotations(content: dict[str, Any]) -> None:
    del content["annotations"]


RLE = {"size": [64, 96], "counts": [64, 128, 64 * 93]}


def test_copies(place: Path, odd: Callable[..., Path], tmp_path: Path) -> None:
    """All of a run read the copies, and its config names the files of the user."""
    root, work = odd(train=each(area=...), val=each(id=...)), tmp_path / "work"
    runner.train(str(place / "masks.py"), str(work), data_root=str(root))
    files = sorted(path.name for path in (work / "annotations").iterdir())
    assert files == ["train_instances_train2017.json", "val_instances_val2017.json"]
    clean = json.loads((place / "set" / TRAIN).read_text())["annotations"]
    copied = json.loads((work / "annotations" / files[0]).read_text())["annotations"]
    assert [thing["area"] for thing in copied] == [thing["area"] for thing in clean]
    assert sorted(thing["id"] for thing in LookHook.truth) == [1, 2, 3, 4]
    for text in (work / "masks.py").read_text(), *(p.read_text() for p in work.glob("*/*/*.py")):
        assert "train_instances" not in text and text.count(VAL) >= 3
    log = next(work.glob("*/*.log")).read_text().splitlines()
    told = [line for line in log if "WARNING" in line and str(root) in line]
    assert len(told) == 2 and "computed the area of 6 annotations (the first is id 1)" in told[0]
    assert all(f"reads {work}/annotations/{name})" in line for name, line in zip(files, told))


def test_an_ordinary_set_is_read_as_it_is(checkpoint: Path) -> None:
    work = checkpoint.parent
    assert not (work / "annotations").exists()
    assert "are not used" not in next(work.glob("*/*.log")).read_text()


def test_a_resumed_run_and_another_root(
    place: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    """The copy that is there is used again; from the dumped config another set is read itself."""
    root, work = odd(train=each(area=...)), tmp_path / "work"
    runner.train(str(place / "masks.py"), str(work), data_root=str(root))
    copy = work / "annotations/train_instances_train2017.json"
    written = copy.stat().st_mtime_ns
    more = {"train_cfg.max_iters": 3}
    new_run()
    runner.train(str(place / "masks.py"), str(work), data_root=str(root), cfg_options=more,
                 resume="auto")  # fmt: skip
    assert copy.stat().st_mtime_ns == written and (work / "iter_3.pth").is_file()
    new_run()
    runner.train(str(work / "masks.py"), str(tmp_path / "other"), data_root=str(place / "set"))
    assert not (tmp_path / "other/annotations").exists()


def test_masks_that_no_metric_needs(
    place: Path, checkpoint: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    """The test pipeline loads masks, which MMDetection does only where each object has one."""
    bbox = {"test_evaluator.metric": "bbox"}
    numbers = []
    for root in (place / "set", odd(val=each(segmentation=...))):
        new_run()
        work = str(tmp_path / str(len(numbers)))
        numbers.append(
            runner.test(str(place / "masks.py"), str(checkpoint), work, cfg_options=bbox,
                        data_root=str(root), show_dir=f"{work}/show")["bbox"]
        )  # fmt: skip
    assert numbers[0] == numbers[1]
    with pytest.raises(InputError, match="faster-rcnn_r50_fpn_gn-ws-all_1x_coco"):
        runner.test(str(place / "masks.py"), str(checkpoint), str(tmp_path / "w"),
                    data_root=str(root))  # fmt: skip


def test_an_evaluator_of_another_file(
    place: Path, checkpoint: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    """It is mended for itself; an evaluator without a file of COCO's is left alone."""
    root, other = odd(), tmp_path / "some.json"
    content = json.loads((root / VAL).read_text())
    things = [{**thing, "area": None} for thing in content["annotations"][:3]]
    other.write_text(json.dumps({**content, "annotations": things}))
    options = {"test_evaluator.ann_file": str(other)}
    cfg = load_config(str(place / "masks.py"), options, parts=("test",))
    cfg.test_evaluator = [cfg.test_evaluator, dict(type="DumpDetResults", out_file_path="a.pkl")]
    cfg.test_evaluator[1].out_file_path = str(tmp_path / "a.pkl")
    cfg.test_dataloader.dataset.data_root = str(root)
    cfg.dump(str(tmp_path / "own.py"))
    runner.test(str(tmp_path / "own.py"), str(checkpoint), str(tmp_path / "work"))
    assert [path.name for path in (tmp_path / "work/annotations").iterdir()] == ["test_some.json"]
    areas = [thing["area"] for thing in content["annotations"]]
    assert [thing["area"] for thing in LookHook.truth] == areas[:3]


def test_predictions_of_images_alone(
    place: Path, checkpoint: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    """As of COCO's test-dev: taken where nothing is judged by them, refused where it is."""
    root = odd(val=no_annotations)
    prefix = str(tmp_path / "found")
    options = {"test_evaluator.format_only": True, "test_evaluator.outfile_prefix": prefix}
    given = str(place / "masks.py"), str(checkpoint), str(tmp_path / "work")
    runner.test(*given, data_root=str(root), cfg_options=options)
    assert json.loads(Path(f"{prefix}.bbox.json").read_text())
    with pytest.raises(InputError, match="nothing to evaluate by"):
        runner.test(*given, data_root=str(root))


def test_files_of_one_name(place: Path, odd: Callable[..., Path], tmp_path: Path) -> None:
    """Two sets that are joined have the same names inside: each is read, and mended, for itself."""
    root = odd(train=each(area=..., category_id=7))
    second = Path(shutil.copytree(place / "set", tmp_path / "second"))
    content = json.loads((second / TRAIN).read_text())
    each(category_id=3, id=...)(content)
    (second / TRAIN).write_text(json.dumps(content))
    runner.train(
        str(joined(place, root, second, tmp_path / "joined.py")), str(tmp_path / "work")
    )
    names = sorted(path.name for path in (tmp_path / "work/annotations").iterdir())
    assert names == ["train_2_instances_train2017.json", "train_instances_train2017.json"]
    for path, objects in LookHook.train.items():
        assert [label for label, _, _ in objects] == [0 if str(second) in path else 1] * 2
    assert len(LookHook.train) == 6


def joined(place: Path, first: Path, second: Path, path: Path) -> Path:
    """A config of two training sets."""
    cfg = load_config(str(place / "masks.py"), None, str(first))
    one = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type="ConcatDataset", datasets=[one, {**one, "data_root": str(second)}]
    )
    cfg.dump(str(path))
    return path


def test_a_set_without_objects_beside_another(
    place: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    """Images of nothing are learned from beside others, and not alone."""
    root, work = odd(train=no_annotations), str(tmp_path / "work")
    for first, second in ((place / "set", root), (root, place / "set")):
        new_run()
        runner.train(str(joined(place, first, second, tmp_path / "joined.py")), work)
        assert sorted(map(len, LookHook.train.values())) == [0] * 3 + [2] * 3
    with pytest.raises(InputError, match="nothing to learn from"):
        runner.train(str(joined(place, root, root, tmp_path / "joined.py")), work)


def test_masks_for_a_loader_of_polygons(
    place: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    """MMDetection marks what it cannot read as ignored, and learns nothing, without a word."""
    given = str(place / "masks.py"), str(tmp_path / "work")
    polygons = {"train_dataloader.dataset.pipeline.1.poly2mask": False}
    with pytest.raises(InputError, match=r"6 of 6 annotations .*RLE .*poly2mask=True"):
        runner.train(
            *given, data_root=str(odd(train=each(segmentation=RLE))), cfg_options=polygons
        )
    assert not (tmp_path / "work").exists()
    runner.train(*given, data_root=str(place / "set"), cfg_options=polygons)
    assert sorted(map(len, LookHook.train.values())) == [2, 2, 2]
    new_run()
    work = str(tmp_path / "rle")
    runner.train(str(place / "masks.py"), work, data_root=str(odd(train=each(segmentation=RLE))))
    assert {mask.sum() for o in LookHook.train.values() for _, _, mask in o} == {128}


def tiny(thing: dict[str, Any]) -> list[float]:
    return [5, 5, 0.6, 9] if thing["id"] % 2 else thing["bbox"]


@pytest.mark.parametrize(
    ("settings", "edit", "words"),
    [
        ({"filter_cfg": dict(min_size=65)}, None, "6 in images smaller than filter_cfg.min_size"),
        ({"indices": 0}, None, "6 in images that indices do not name"),
        ({"indices": [0, 9]}, None, "the indices .0, 9. .* not those of the 3 images"),
        ({}, each(bbox=[5, 5, 0.5, 9]), "no box of .* is a pixel wide and high"),
        ({}, each(category_id=7, bbox=tiny), None),
        ({"filter_cfg": dict(min_size=64), "indices": 1}, None, None),
        ({"indices": [-1, 0], "filter_cfg": dict(filter_empty_gt=True)}, None, None),
    ],
)
def test_what_mmdetection_leaves_out(
    place: Path,
    odd: Callable[..., Path],
    tmp_path: Path,
    settings: dict[str, Any],
    edit: Edit | None,
    words: str | None,
) -> None:
    root = odd(train=edit or each())
    cfg = load_config(str(place / "masks.py"), None, str(root))
    cfg.train_dataloader.dataset.update(settings)
    cfg.dump(str(tmp_path / "own.py"))
    given = str(tmp_path / "own.py"), str(tmp_path / "work")
    if words:
        with pytest.raises(InputError, match=words):
            runner.train(*given)
        assert not (tmp_path / "work").exists()
        return
    runner.train(*given)
    log = next((tmp_path / "work").glob("*/*.log")).read_text()
    left_out = 6 - sum(map(len, LookHook.train.values()))
    assert 0 < left_out < 6 and f"MMDetection leaves out {left_out} " in log


def test_a_mask_head_and_a_loader_without_masks(place: Path, tmp_path: Path) -> None:
    options = {"train_dataloader.dataset.pipeline.1.with_mask": False}
    given = str(place / "masks.py"), str(tmp_path / "work")
    with pytest.raises(InputError, match="with_mask=True"):
        runner.train(*given, data_root=str(place / "set"), cfg_options=options)
    assert not (tmp_path / "work").exists()


def test_indices_of_an_evaluation(place: Path, checkpoint: Path, tmp_path: Path) -> None:
    cfg = load_config(str(place / "masks.py"), None, str(place / "set"))
    given = str(tmp_path / "own.py"), str(checkpoint), str(tmp_path / "work")
    for indices in ([0, 2], "0"):
        cfg.test_dataloader.dataset.indices = indices
        cfg.dump(given[0])
        with pytest.raises(InputError, match="not those of the 2 images"):
            runner.test(*given)
    assert not (tmp_path / "work").exists()


def test_classes_that_no_object_has(
    place: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    cfg = load_config(str(place / "masks.py"), None, str(odd(train=each(category_id=3))))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.metainfo = dict(classes=("bar",))
    for head in heads_of(cfg.model):
        head["num_classes"] = 1
    cfg.dump(str(tmp_path / "bars.py"))
    with pytest.raises(InputError, match="nothing to learn from"):
        runner.train(str(tmp_path / "bars.py"), str(tmp_path / "work"))


class OwnDataset(CocoDataset):
    """As users write them."""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("CocoDataset", True), ("mmdet.CocoDataset", True), (CocoDataset, True),
        (OwnDataset, True), ("CityscapesDataset", True), ("Objects365V1Dataset", True),
        ("CocoPanopticDataset", False), ("LVISV1Dataset", False), ("LVISV05Dataset", False),
        ("VOCDataset", False), ("ConcatDataset", False), ("CrowdHumanDataset", False),
    ],
)  # fmt: skip
def test_kinds_of_datasets(kind: Any, expected: bool) -> None:
    assert reads_coco(dict(type=kind)) is expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("CocoMetric", True), ("CocoTwelveMetric", True), ("CocoOccludedSeparatedMetric", True),
        ("LVISMetric", False), ("CocoPanopticMetric", False), ("VOCMetric", False),
        ("DumpDetResults", False),
    ],
)  # fmt: skip
def test_kinds_of_evaluators(kind: str, expected: bool) -> None:
    assert judges_by_coco(dict(type=kind)) is expected
    assert not judges_by_coco(dict(type=kind, format_only=True))


# --- refused -------------------------------------------------------------------------------------

# What is done to the annotation file, and a word of the sentence.
FAULTS: dict[str, tuple[Edit, str]] = {
    "no annotations": (no_annotations, "nothing to "),
    "only crowds": (each(iscrowd=1), "are crowds"),
    "no masks": (each(segmentation=...), "faster-rcnn_r50_fpn_gn-ws-all_1x_coco"),
    "a broken mask": (each(segmentation={"size": [64, 96], "counts": "oooo"}), "not whole"),
    "boxes of no numbers": (each(bbox=["a"] * 4, segmentation=...), "instances_"),
    "of other images": (each(image_id="other"), "instances_"),
    "of other categories": (each(category_id=99), "instances_"),
    "a size too small": (lambda c: c["images"][1].update(width=48), "96 wide and 64 high"),
    "an image outside": (lambda c: c["images"][1].update(file_name="../a.jpg"), "../a.jpg"),
    "an image that is not there": (lambda c: c["images"][1].update(file_name="9.jpg"), "9.jpg"),
    "a category without id": (lambda c: c["categories"][0].pop("id"), "without 'id'"),
    "an image without id": (lambda c: c["images"][1].pop("id"), "without 'id'"),
    "one id of two images": (lambda c: c["images"][1].update(id=1), "have the id 1"),
    "no images": (lambda c: c["images"].clear(), "images"),
    "entries that are none": (lambda c: c["annotations"].append(5), "annotations"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tool", ["train", "resume", "test"])
def test_refused(
    place: Path,
    checkpoint: Path,
    odd: Callable[..., Path],
    tmp_path: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    tool: str,
) -> None:
    """One sentence, soon, exit code 2, and nothing new anywhere."""
    edit, words = FAULTS[fault]
    root = odd(val=edit) if tool == "test" else odd(train=edit)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    options: list[Any] = ["--data-root", root, "--work-dir", tmp_path / "deep/work"]
    before, start = tree(tmp_path), time.process_time()
    if tool == "test":
        options += ["--out", tmp_path / "out/found.pkl", "--show-dir", tmp_path / "show"]
        sentence = refusal(test, place / "masks.py", checkpoint, *options)
    else:
        options += ["--resume", checkpoint] if tool == "resume" else []
        sentence = refusal(train, place / "masks.py", *options)
    spent = time.process_time() - start
    assert words in sentence and tree(tmp_path) == before
    assert spent < 5
    with capsys.disabled():
        print(f" {spent:.1f} s: {sentence.replace(str(tmp_path), '')}")


def test_copies_that_cannot_be_written(
    place: Path, odd: Callable[..., Path], tmp_path: Path
) -> None:
    """What was there stays, and nothing is added."""
    root, work = odd(train=each(area=...), val=each(area=...)), tmp_path / "work"
    (work / "annotations" / "val_instances_val2017.json").mkdir(parents=True)
    before = tree(work)
    with pytest.raises(InputError, match=r"val_instances_val2017.json cannot be written"):
        runner.train(str(place / "masks.py"), str(work), data_root=str(root))
    assert tree(work) == before


def test_diagnose(place: Path, checkpoint: Path, odd: Callable[..., Path]) -> None:
    """It measures the same on a set that had to be mended."""
    given = str(place / "masks.py"), str(checkpoint), 2
    found = [diagnose(*given, str(root)) for root in (place / "set", odd(val=each(area=...)))]
    first, second = ({k: v.mean.tolist() for k, v in each_.items()} for each_ in found)
    assert first == second


@pytest.mark.slow
def test_processes(place: Path, odd: Callable[..., Path], tmp_path: Path) -> None:
    """The first process writes the copies and the others read them; a refusal is of one line."""
    given = [place / "masks.py", "--work-dir", tmp_path / "work", "--launcher", "pytorch"]
    given += ["--cfg-options", "custom_hooks=[]", "--data-root"]
    root = odd(train=each(area=...), val=each(id=...))
    done = run("train", *given, root, processes=2)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len([*(tmp_path / "work/annotations").iterdir()]) == 2
    assert done.stdout.count("computed the area of 6 annotations") == 1
    shutil.rmtree(tmp_path / "work")
    before = tree(tmp_path)
    done = run("train", *given, odd(train=each(iscrowd=1)), processes=2)
    assert done.returncode == 1 and done.stdout.count("error: ") == 1  # torchrun's own code
    assert tree(tmp_path) == before and "Traceback" not in done.stdout.split("error: ")[0]
