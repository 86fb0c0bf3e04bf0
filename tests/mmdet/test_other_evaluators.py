"""A config's own evaluators stay, and none of their numbers is lost.

Oracle: MMEngine's own Runner with the config as it is, as MMDetection's tools/test.py has it.
"""

from __future__ import annotations

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner

from tests.conftest import write_set
from tests.mmdet.conftest import CONFIG
from tools import test as tool
from tools import train as train_tool
from ws_det.mmdet import runner as ours
from ws_det.mmdet.config import complete, load_config
from ws_det.mmdet.metrics import CocoTwelveMetric
from ws_det.mmdet.preflight import build_model
from ws_det.mmdet.report import read_metrics
from ws_det.report import COLUMNS, closing_line


@METRICS.register_module(force=True)
class AnythingMetric(BaseMetric):
    """What a user's own evaluator may give."""

    default_prefix = "own"

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict[str, Any]:
        odd = {"nan": math.nan, "none": None, "text": "good", "nested": {"a": {"b": 2}}}
        return {"number": 0.25, "tensor": torch.tensor(0.5), "list": [1, 2], **odd}


@pytest.fixture(scope="module")
def weights(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory, coco_set: Path) -> Path:
    """Random, with sure predictors, so that there are true and false detections."""
    model = build_model(load_config(str(tiny_config), data_root=str(coco_set)))
    for name, parameter in model.named_parameters():
        if "fc_cls" in name or "rpn_cls" in name:
            torch.nn.init.normal_(parameter, 0, 0.5)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


def config(tmp_path: Path, lines: str) -> Path:
    path = tmp_path / "config.py"
    path.write_text(f"{CONFIG}\n{lines}\n")
    return path


def theirs(path: Path, weights: Path, root: Path, work_dir: Path) -> dict[str, Any]:
    cfg = load_config(str(path), data_root=str(root), work_dir=str(work_dir), parts=("test",))
    cfg.load_from, cfg.launcher = str(weights), "none"
    runner = Runner.from_cfg(cfg)
    for metric in runner.test_evaluator.metrics:
        if isinstance(metric, CocoMetric):  # of a list pycocotools fails after the last image
            metric.iou_thrs = np.array(metric.iou_thrs)
    return runner.test()


def report_of(path: Path, weights: Path, root: Path, work_dir: Path) -> dict[str, Any]:
    return ours.test(str(path), str(weights), work_dir=str(work_dir), data_root=str(root))


@pytest.mark.parametrize(
    "options",
    [
        "metric=['bbox', 'proposal']",
        pytest.param("metric='proposal_fast'", marks=pytest.mark.sweep),
        pytest.param("metric='bbox', iou_thrs=[0.5, 0.6]", marks=pytest.mark.sweep),
        pytest.param(
            "metric=['bbox', 'segm'], metric_items=['mAP', 'mAP_s'], proposal_nums=(1, 10, 100)",
            marks=pytest.mark.sweep,
        ),
    ],
)
def test_what_cocos_numbers_do_not_have(
    options: str, weights: Path, coco_set: Path, tmp_path: Path
) -> None:
    """CocoMetric stays, to the last digit, and all its numbers are in the report."""
    evaluator = f"dict(_delete_=True, type='CocoMetric', {options}, ann_file='')"
    path = config(tmp_path, f"test_evaluator = {evaluator}")
    expected = theirs(path, weights, coco_set, tmp_path / "theirs")
    report = report_of(path, weights, coco_set, tmp_path / "ours")
    assert len(expected) > 1
    found = dict(report.get("others", {}))
    names = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
    for kind in ("bbox", "segm"):
        for column, name in zip(COLUMNS, names):
            if column in report.get(kind, {}):
                found[f"coco/{kind}_{name}"] = report[kind][column]
    assert found == expected
    written = json.loads((tmp_path / "ours/coco_metrics.json").read_text())
    assert all(report[key] == value for key, value in written.items())
    assert len(closing_line(report)) < 200


def test_two_evaluators_of_one_name(weights: Path, coco_set: Path, tmp_path: Path) -> None:
    """MMEngine raises after the last image. Oracle: the same evaluation has the same numbers."""
    path = config(
        tmp_path,
        "one = dict(type='CocoMetric', metric='bbox', ann_file='')\n"
        "test_evaluator = [one, dict(one, metric=['bbox', 'segm']), dict(type='VOCMetric')]",
    )
    with pytest.raises(ValueError, match="multiple evaluation results"):
        theirs(path, weights, coco_set, tmp_path / "theirs")
    report = report_of(path, weights, coco_set, tmp_path / "ours")
    first, second = report["sets"]["coco"], report["sets"]["coco_2"]
    assert first["bbox"] == second["bbox"] and "segm" in second and "segm" not in first
    assert report["sets"]["pascal_voc"]["others"]["pascal_voc/mAP"] >= 0


def test_other_evaluators_stay(weights: Path, coco_set: Path, tmp_path: Path, capsys) -> None:
    """VOC's and a user's own: MMEngine's numbers, one closing line, one file."""
    path = config(
        tmp_path,
        "test_evaluator = [dict(type='VOCMetric', iou_thrs=[0.2, 0.5]), "
        "dict(type='AnythingMetric')]",
    )
    expected = theirs(path, weights, coco_set, tmp_path / "theirs")
    flags = ["--data-root", coco_set, "--work-dir", tmp_path / "ours"]
    tool.main([str(arg) for arg in [path, weights, *flags]])
    closing = capsys.readouterr().out.splitlines()[-1]
    written = json.loads((tmp_path / "ours/coco_metrics.json").read_text())
    voc = {key: value for key, value in expected.items() if key.startswith("pascal_voc")}
    assert len(voc) == 3 and {key: written["others"][key] for key in voc} == voc
    assert closing.startswith(f"pascal_voc/mAP {voc['pascal_voc/mAP']:.3f}, ")
    assert "(4 images); numbers in" in closing
    own = {k: v for k, v in written["others"].items() if k.startswith("own/")}
    assert own == {
        "own/number": 0.25,
        "own/tensor": 0.5,
        "own/list": "[1, 2]",
        "own/nan": None,
        "own/none": None,
        "own/text": "good",
        "own/nested/a/b": 2.0,
    }


@pytest.mark.parametrize(
    ("best", "kept"),
    [
        pytest.param("own/number", 1, marks=pytest.mark.sweep),
        ("own/gone", 0),
        pytest.param("own/text", 0, marks=pytest.mark.sweep),
        pytest.param("auto", 1, marks=pytest.mark.sweep),
    ],
)
def test_a_training_with_them(
    best: str, kept: int, coco_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best checkpoint by one of their numbers, and none by what they do not give."""
    path = config(
        tmp_path,
        "val_evaluator = dict(type='AnythingMetric', _delete_=True)\n"
        "train_cfg = dict(max_epochs=2, val_interval=1)\n"
        "default_hooks = dict(logger=dict(interval=1), checkpoint=dict("
        f"save_best='{best}', rule='greater'))",
    )
    train_tool.main([str(path), "--data-root", str(coco_set), "--work-dir", str(tmp_path / "run")])
    assert len(list((tmp_path / "run").glob("best_*.pth"))) == kept
    assert (tmp_path / "run" / "curves.png").is_file()
    assert "own/number 0.250, own/tensor 0.500" in capsys.readouterr().out


def test_results_alone(weights: Path, coco_set: Path, tmp_path: Path, capsys) -> None:
    """format_only: MMDetection's files, which the closing line names, and no others."""
    prefix = tmp_path / "results" / "mine"
    path = config(
        tmp_path,
        f"test_evaluator = dict(type='CocoMetric', format_only=True, metric=['bbox', 'segm'], "
        f"ann_file='', outfile_prefix='{prefix}', _delete_=True)",
    )
    flags = ["--data-root", coco_set, "--work-dir", tmp_path / "ours"]
    tool.main([str(arg) for arg in [path, weights, *flags]])
    closing = capsys.readouterr().out.splitlines()[-1]
    files = [f"{prefix}.bbox.json", f"{prefix}.segm.json"]
    assert closing == f"no COCO evaluation ran; results in {files[0]}, results in {files[1]}"
    assert all(Path(file).is_file() for file in files)


def test_several_sets(weights: Path, tmp_path: Path, capsys) -> None:
    """MultiDatasetsEvaluator over two sets: the numbers of each alone, and all predictions."""
    roots = [write_set(tmp_path / name, 1, val) for name, val in (("one", 3), ("two", 5))]
    files = [f"{root}/annotations/instances_val2017.json" for root in roots]
    metrics = ", ".join(
        f"dict(type='CocoMetric', metric='bbox', ann_file='{file}')" for file in files
    )
    names = "dict(classes=('box', 'bar'))"
    path = config(
        tmp_path,
        f"model['roi_head']['bbox_head']['num_classes'] = 2\n"
        f"model['roi_head']['mask_head']['num_classes'] = 2\n"
        f"whole = dict(_base_.val_dataloader['dataset'], metainfo={names}, "
        f"pipeline=loader['dataset']['pipeline'])\n"
        f"test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=["
        + ", ".join(f"dict(whole, data_root='{root}/')" for root in roots)
        + f"]))\ntest_evaluator = dict(_delete_=True, type='MultiDatasetsEvaluator', "
        f"metrics=[{metrics}], dataset_prefixes=['one', 'two'])",
    )
    out = tmp_path / "found.pkl"
    tool.main([str(a) for a in [path, weights, "--work-dir", tmp_path / "ours", "--out", out]])
    closing = capsys.readouterr().out.splitlines()[-1]
    cfg = Config.fromfile(str(path))
    cfg.load_from, cfg.launcher, cfg.work_dir = str(weights), "none", str(tmp_path / "theirs")
    expected = Runner.from_cfg(cfg).test()
    written = json.loads((tmp_path / "ours/coco_metrics.json").read_text())["sets"]
    for name, images in (("one", 3), ("two", 5)):
        report = written[f"{name}/coco"]
        assert report["images"] == images and list(report["bbox"]) == list(COLUMNS)
        for column, stat in zip(COLUMNS, ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")):
            # it rounds to three digits
            assert report["bbox"][column] == pytest.approx(
                expected[f"{name}/coco/bbox_{stat}"], abs=5.1e-4
            )
    assert closing.startswith("one/coco: box AP ") and "(5 images); numbers in" in closing
    assert out.is_file()


@pytest.mark.sweep
def test_truth_of_the_dataset(weights: Path, coco_set: Path, tmp_path: Path) -> None:
    """Without ann_file. Oracle: MMDetection's own, which rounds to three digits."""
    path = config(
        tmp_path,
        "test_evaluator = dict(type='CocoMetric', metric=['bbox', 'segm'], _delete_=True)\n"
        "test_dataloader['dataset']['pipeline'] = list(test_dataloader['dataset']['pipeline'])\n"
        "test_dataloader['dataset']['pipeline'][-1] = dict(type='PackDetInputs', meta_keys=("
        "'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances'))",
    )
    expected = theirs(path, weights, coco_set, tmp_path / "theirs")
    report = report_of(path, weights, coco_set, tmp_path / "ours")
    for kind in ("bbox", "segm"):
        for column, stat in zip(COLUMNS, ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")):
            number = expected[f"coco/{kind}_{stat}"]
            assert report[kind][column] == pytest.approx(number, abs=5.1e-4)
        assert list(report[kind]) == list(COLUMNS)


@pytest.mark.parametrize(
    ("evaluator", "words"),
    [
        ("dict(type='CocoMetric', metric='boxes', ann_file='x')", "metric should be one of"),
        ("dict(type='CocoMetric', metric='bbox', bins=3, ann_file='x')", "bins"),
        ("dict(type='CocoMetric', format_only=True)", "outfile_prefix"),
        ("dict(type='CocoTwelveMetric', iou_thrs=[0.5])", "CocoTwelveMetric with iou_thrs"),
        ("dict(type='CocoMetric', backend='hotcoco', metric='proposal')", "metric=proposal"),
        (
            "dict(type='MultiDatasetsEvaluator', dataset_prefixes=['a'], "
            "metrics=[dict(type='VOCMetric')] * 2)",
            "a name of its own in dataset_prefixes",
        ),
        *(
            [("dict(type='LVISMetric', ann_file='x')", "lvis is not installed")]
            if not find_spec("lvis")
            else []
        ),
        *(
            [("dict(type='CityScapesMetric', outfile_prefix='y')", "cityscapesscripts is not")]
            if not find_spec("cityscapesscripts")
            else []
        ),
        *(
            [("dict(type='CocoPanopticMetric', ann_file='x')", "panopticapi is not installed")]
            if not find_spec("panopticapi")
            else []
        ),
    ],
)
def test_refused_before_anything_is_written(
    evaluator: str, words: str, weights: Path, coco_set: Path, tmp_path: Path, refusal
) -> None:
    lines = f"val_evaluator = dict({evaluator}, _delete_=True)\ntest_evaluator = val_evaluator"
    path = config(tmp_path, lines)
    before = set(tmp_path.rglob("*"))
    flags = ["--data-root", coco_set, "--work-dir", tmp_path / "work"]
    assert words in refusal(tool, path, weights, *flags)
    assert words in refusal(train_tool, path, *flags)
    assert set(tmp_path.rglob("*")) == before


def test_every_spelling_of_coco_metric(tiny_config: Path) -> None:
    cfg = load_config(str(tiny_config))
    for kind in ("CocoMetric", "mmdet.CocoMetric", "CocoTwelveMetric", CocoMetric):
        cfg.test_evaluator = dict(type=kind)  # whose metric is boxes
        complete(cfg, "none")
        assert cfg.test_evaluator.type == "CocoTwelveMetric"

    class Own(CocoTwelveMetric):
        pass

    cfg.test_evaluator = dict(type=Own)
    complete(cfg, "none")
    assert cfg.test_evaluator.type is Own


def test_classwise_keeps_the_names_of_coco_metric() -> None:
    """By which `save_best` knows them; in the report they are APs of classes."""
    numbers = {"coco/bbox_mAP": 0.5, "coco/bbox_car_mAP": 0.4, "coco/car_precision": 0.4}
    report = read_metrics(numbers, 3)
    assert report == {"bbox": {"AP": 0.5}, "images": 3, "classes": {"bbox": {"car": 0.4}}}


