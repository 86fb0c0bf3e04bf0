"""Training, resuming and testing through the tools, on two gloo processes."""

from __future__ import annotations

import json
import math
import pickle
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.conftest import run
from tests.odd_set import write_odd_set
from ws_det.mmdet.runner import AccumulatingRunner
from ws_det.mmdet.weights import load_safely
from ws_det.report import COLUMNS


def test_two_processes_train(trained: tuple[Path, str]) -> None:
    """The logs: three finite losses, the arithmetic, the table, and one closing line."""
    work_dir, output = trained
    losses = [float(x) for x in re.findall(r" loss: (\S+)", output)]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    assert "learning rate 0.0025 = 0.02 (for 16) x 2 processes x 1 image x 1 pass / 16" in output
    assert re.search(r"AP +AP50 .*\n +box .*\n +mask ", output)
    assert len(re.findall(r"^box AP 0\.\d{3}, mask AP 0\.\d{3} \(4 images\)", output, re.M)) == 1
    report = json.loads((work_dir / "coco_metrics.json").read_text())
    assert set(report) == {"bbox", "segm", "images"} and set(report["bbox"]) == set(COLUMNS)
    assert list(work_dir.glob("*/vis_data/events.out.tfevents.*"))
    assert list(work_dir.glob("*/vis_data/scalars.json")) and (work_dir / "curves.png").is_file()


def test_data_root_sets_classes_everywhere(trained: tuple[Path, str]) -> None:
    """Oracle: the two categories of the set, in the checkpoint's shapes and its metadata."""
    work_dir, _ = trained
    checkpoint = load_safely(str(work_dir / "epoch_1.pth"))
    assert checkpoint["meta"]["dataset_meta"]["classes"] == ("box", "bar")
    state = checkpoint["state_dict"]
    assert state["roi_head.bbox_head.fc_cls.weight"].shape[0] == 3
    assert state["roi_head.mask_head.conv_logits.weight"].shape[0] == 2


def test_resume_continues(trained: tuple[Path, str], tiny_config: Path, coco_set: Path) -> None:
    """Oracle: the iteration numbers in the log and the optimizer's step in the checkpoint."""
    work_dir, _ = trained
    done = run(
        "train",
        tiny_config,
        "--data-root",
        coco_set,
        "--work-dir",
        work_dir,
        "--resume",
        "--cfg-options",
        "train_cfg.max_epochs=2",
        processes=2,  # and torchrun finds itself
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resumed epoch: 1, iter: 3" in done.stdout
    assert re.findall(r"Epoch\(train\) +\[(\d)\]\[(\d)/3\]", done.stdout) == [
        ("2", "1"),
        ("2", "2"),
        ("2", "3"),
    ]
    assert load_safely(str(work_dir / "epoch_2.pth"))["meta"]["iter"] == 6


def test_two_processes_test(
    trained: tuple[Path, str], tiny_config: Path, coco_set: Path, tmp_path: Path
) -> None:
    """Oracle: pycocotools on the predictions of --out, and the pictures' names."""
    work_dir, _ = trained
    done = run(
        "test",
        tiny_config,
        work_dir / "epoch_1.pth",
        "--data-root",
        coco_set,
        "--work-dir",
        tmp_path / "work",
        "--out",
        tmp_path / "found.pkl",
        "--show-dir",
        tmp_path / "pictures",
        processes=2,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert_equals_pycocotools(
        coco_set / "annotations/instances_val2017.json", tmp_path / "found.pkl", tmp_path / "work"
    )
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert pictures == {"0.jpg", "2.jpg", "predictions.png"}  # MMDetection draws those of rank 0
    closing = done.stdout.splitlines()[-1]
    words = ("(4 images)", "coco_metrics.json", "pictures", "found.pkl")
    assert all(word in closing for word in words)


def test_rank_without_truth_does_not_hang(tiny_config: Path, tmp_path: Path) -> None:
    """Odd images on one rank, ordinary ones on the other, at last odd ones on both.

    No positive RoI on a rank, and every gradient is still reduced. Oracle: it ends, DDP's own check
    for parameters without gradient is silent, and the losses are finite.
    """
    kinds = ("plain", "empty", "plain", "crowd", "plain", "pixel", "empty", "crowd")
    root = write_odd_set(tmp_path / "set", kinds)
    done = run(
        "train",
        tiny_config,
        "--data-root",
        root,
        "--work-dir",
        tmp_path / "work",
        "--cfg-options",
        "train_dataloader.sampler.shuffle=False",  # rank 0 has the even ones
        processes=2,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    losses = [float(loss) for loss in re.findall(r" loss: (\S+)", done.stdout)]
    assert len(losses) == 4 and all(map(math.isfinite, losses))


def test_optimizer_gets_the_accumulated_rate(tmp_path: Path) -> None:
    """Oracle: 0.02 * 4 * 8 / 16 = 0.04 by hand, and half of it in a group at half the rate."""
    model = torch.nn.Linear(1, 1)
    groups = [{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}]
    wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.02), accumulative_counts=8)
    config = Config(
        dict(
            train_dataloader=dict(batch_size=4),
            optim_wrapper=dict(optimizer=dict(lr=0.02), accumulative_counts=8),
        )
    )
    runner = AccumulatingRunner(
        torch.nn.Module(), str(tmp_path), cfg=config, experiment_name="accumulated_rate"
    )
    runner.scale_lr(wrapper, dict(enable=True, base_batch_size=16))
    assert [g["lr"] for g in wrapper.optimizer.param_groups] == pytest.approx([0.04, 0.02])
    runner.scale_lr(wrapper, dict(enable=False, base_batch_size=16))
    assert [g["lr"] for g in wrapper.optimizer.param_groups] == pytest.approx([0.04, 0.02])


@pytest.mark.slow
def test_r50_on_real_coco(tiny_coco: Path, tmp_path: Path) -> None:
    """The supplied R50 GN+WS config on real images: 3 steps, then COCO's numbers.

    Oracle: pycocotools on the predictions of --out.
    """

    def options(part: str, resize: int) -> list[str]:
        dataset = f"{part}_dataloader.dataset"
        return [
            f"{dataset}.pipeline.{resize}.scale=(160,128)",
            f"{dataset}.ann_file=annotations/instances_train2017.json",
            f"{dataset}.data_prefix.img=train2017/",
            f"{part}_dataloader.num_workers=0",
            f"{part}_dataloader.persistent_workers=False",
        ]

    name = "mask-rcnn_r50_fpn_gn-ws-all_2x_coco"
    small = ["model.train_cfg.rpn_proposal.max_per_img=64", "model.train_cfg.rcnn.sampler.num=32"]
    small += ["model.test_cfg.rpn.max_per_img=32"]
    done = run(
        "train",
        name,
        "--data-root",
        tiny_coco,
        "--work-dir",
        tmp_path / "work",
        "--cfg-options",
        *small,
        *options("train", 2),
        *options("val", 1),
        "model.backbone.init_cfg=None",
        "train_cfg.max_epochs=1",
        "train_dataloader.dataset.indices=3",
        "val_dataloader.dataset.indices=2",
        "train_dataloader.batch_size=1",
        "default_hooks.logger.interval=1",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    losses = [float(x) for x in re.findall(r" loss: (\S+)", done.stdout)]
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    done = run(
        "test",
        name,
        tmp_path / "work/epoch_1.pth",
        "--data-root",
        tiny_coco,
        "--work-dir",
        tmp_path / "test",
        "--out",
        tmp_path / "found.pkl",
        "--cfg-options",
        *small,
        *options("test", 1),
        "model.test_cfg.rcnn.score_thr=0.0",
        "model.test_cfg.rcnn.max_per_img=20",
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "(50 images)" in done.stdout.splitlines()[-1]
    annotations = tiny_coco / "annotations/instances_train2017.json"
    assert_equals_pycocotools(annotations, tmp_path / "found.pkl", tmp_path / "test")


def assert_equals_pycocotools(annotations: Path, found: Path, work_dir: Path) -> None:
    """All 12 numbers of boxes and masks against COCOeval with its own defaults."""
    truth = COCO(str(annotations))
    ids = [category["id"] for category in truth.dataset["categories"]]
    predictions = pickle.loads(found.read_bytes())
    assert len(predictions) == len(truth.getImgIds())
    report = json.loads((work_dir / "coco_metrics.json").read_text())
    for kind in ("bbox", "segm"):
        results = []
        for prediction in predictions:
            found = prediction["pred_instances"]
            for i, (x1, y1, x2, y2) in enumerate(found["bboxes"].tolist()):
                box, mask = [x1, y1, x2 - x1, y2 - y1], found["masks"][i]
                results.append(
                    {
                        "image_id": prediction["img_id"],
                        "category_id": ids[int(found["labels"][i])],
                        "score": float(found["scores"][i]),
                        **({"bbox": box} if kind == "bbox" else {"segmentation": mask}),
                    }
                )
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        # Equal to the last bit: the same library on the same float32 values.
        assert [report[kind][column] for column in COLUMNS] == evaluation.stats.tolist()
