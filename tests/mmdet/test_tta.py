"""--tta. Oracle: MMDetection's own tools/test.py, as it is installed, by its predictions."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmengine.fileio import load

from tests.conftest import run
from tests.mmdet.conftest import CONFIG
from tools import test as tool
from ws_det.mmdet.config import load_config
from ws_det.mmdet.preflight import build_model

THEIRS = Path(mmdet.__file__).parent / ".mim/tools/test.py"
BOXES = "model['roi_head'].update(mask_head=None, mask_roi_extractor=None)\n"
OWN = """
tta_model = dict(type='DetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.3), max_per_img=7))
tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale=s, keep_ratio=True) for s in ((96, 64), (128, 128))],
    [dict(type='RandomFlip', prob=p) for p in (0., 1.)],
    [dict(type='LoadAnnotations', with_bbox=True)],
    [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
        'scale_factor', 'flip', 'flip_direction'))]])]
"""


def config(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([CONFIG, *lines]))
    return path


def weights_of(path: Path, root: Path, file: Path) -> Path:
    model = build_model(load_config(str(path), data_root=str(root)))
    for name, parameter in model.named_parameters():
        if "fc_cls" in name or "rpn_cls" in name:
            torch.nn.init.normal_(parameter, 0, 0.5)
    torch.save({"state_dict": model.state_dict()}, file)
    return file


def theirs(
    path: Path, weights: Path, root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """What MMDetection's tool predicts; --data-root is ours, and said in its words."""
    options = [
        f"test_dataloader.dataset.data_root={root}/",
        f"test_evaluator.ann_file={root}/annotations/instances_val2017.json",
        "test_evaluator.metric=bbox",
        "test_dataloader.dataset.metainfo.classes=('box','bar')",
        "model.roi_head.bbox_head.num_classes=2",
    ]
    work_dir = str(out.parent / "theirs")
    argv = [str(THEIRS), str(path), str(weights), "--tta", "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*argv, "--work-dir", work_dir, "--cfg-options", *options])
    runpy.run_path(str(THEIRS), run_name="__main__")
    return load(str(out))


def assert_same(ours: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [image["img_id"] for image in ours] == [image["img_id"] for image in expected]
    assert sum(len(image["pred_instances"]["scores"]) for image in expected) > 8
    for image, other in zip(ours, expected):
        assert set(image["pred_instances"]) == {"bboxes", "labels", "scores"}
        for name, value in other["pred_instances"].items():
            assert torch.equal(image["pred_instances"][name], value), name


@pytest.mark.skipif(not THEIRS.is_file(), reason="MMDetection is installed without its tools")
def test_boxes_of_a_detector_with_masks(
    coco_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MMDetection's tool stops there; it gives these boxes where the config has no mask head."""
    path = config(tmp_path / "masks.py")
    weights = weights_of(path, coco_set, tmp_path / "w.pth")
    flags = ["--tta", "--data-root", coco_set, "--work-dir", tmp_path / "work"]
    files = ["--out", tmp_path / "ours.pkl", "--show-dir", tmp_path / "pictures"]
    tool.main([str(arg) for arg in [path, weights, *flags, *files]])
    said = capsys.readouterr()
    closing = said.out.splitlines()[-1]
    assert closing.startswith("box AP ") and "mask" not in closing
    assert "masks are not evaluated" in said.out + said.err
    assert (tmp_path / "pictures" / "0.jpg").is_file()
    boxes = config(tmp_path / "boxes.py", BOXES)
    expected = theirs(boxes, weights, coco_set, tmp_path / "theirs.pkl", monkeypatch)
    assert_same(load(str(tmp_path / "ours.pkl")), expected)


@pytest.mark.skipif(not THEIRS.is_file(), reason="MMDetection is installed without its tools")
@pytest.mark.sweep
def test_a_config_with_its_own(
    coco_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sizes, flipped and not, on two processes."""
    path = config(tmp_path / "own.py", BOXES, OWN, "test_evaluator = dict(metric='bbox')")
    weights = weights_of(path, coco_set, tmp_path / "w.pth")
    flags = ["--tta", "--data-root", coco_set, "--work-dir", tmp_path / "work"]
    done = run("test", path, weights, *flags, "--out", tmp_path / "ours.pkl", processes=2)
    assert done.returncode == 0, done.stdout[-3000:]
    expected = theirs(path, weights, coco_set, tmp_path / "theirs.pkl", monkeypatch)
    assert_same(load(str(tmp_path / "ours.pkl")), expected)


def test_masks_alone_are_refused(coco_set: Path, tmp_path: Path, refusal) -> None:
    path = config(tmp_path / "masks.py")
    weights = weights_of(path, coco_set, tmp_path / "w.pth")
    flags = ["--tta", "--data-root", coco_set, "--work-dir", tmp_path / "work"]
    options = ["--cfg-options", "test_evaluator.metric=segm"]
    assert "merges boxes alone" in refusal(tool, path, weights, *flags, *options)
    assert not (tmp_path / "work").exists()
