"""Test-time augmentation, as MMDetection's tools/test.py has it."""

from __future__ import annotations

from copy import deepcopy

from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict

from ws_det.errors import InputError
from ws_det.mmdet.nodes import dicts_of

_MODEL = dict(
    type="DetTTAModel", tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100)
)
_META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
_FLIPS = dict(
    type="TestTimeAug",
    transforms=[
        [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)],
        [dict(type="PackDetInputs", meta_keys=_META)],
    ],
)


@MODELS.register_module(force=True)
class BoxTTAModel(DetTTAModel):
    """MMDetection's, which merges boxes alone; it stops at masks, and here they are left out."""

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        for sample in data_samples:
            for name in ("masks", "mask_scores"):
                sample.pred_instances.pop(name, None)
        return super()._merge_single_sample(data_samples)


def prepare(cfg: Config) -> list[str]:
    """Let a test read each image several times. By default it is flipped and not.

    Args:
        cfg: The config, changed in place: its ``tta_model`` and ``tta_pipeline`` are used where it
            has them.

    Returns:
        What is not evaluated, a line each.

    Raises:
        InputError: If the results of the detector cannot be merged.
    """
    if any("panoptic_fusion_head" in node for node in dicts_of(cfg.model)):
        raise InputError("MMDetection's --tta merges boxes alone: leave it out for this detector")
    cfg.tta_model = cfg.get("tta_model") or ConfigDict(_MODEL)
    datasets = [d for d in dicts_of(cfg.test_dataloader.dataset) if d.get("pipeline")]
    if "tta_pipeline" not in cfg:
        if not datasets:
            raise InputError("--tta: no dataset of test_dataloader has a pipeline: give it one")
        cfg.tta_pipeline = [*deepcopy(datasets[-1]["pipeline"][:-1]), ConfigDict(deepcopy(_FLIPS))]
    for dataset in datasets:
        dataset["pipeline"] = deepcopy(cfg.tta_pipeline)
    if cfg.tta_model["type"] not in ("DetTTAModel", "mmdet.DetTTAModel", DetTTAModel):
        return []  # the user's own
    cfg.tta_model["type"] = "BoxTTAModel"
    return ["--tta merges boxes alone: masks are not evaluated"] if _leave_masks_out(cfg) else []


def wrap(cfg: Config) -> None:
    """Put the model that merges around the detector; checkpoints are of the detector alone."""
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _leave_masks_out(cfg: Config) -> bool:
    changed = False
    for node in dicts_of(cfg.test_evaluator):
        metric = node.get("metric", "bbox")
        kinds = [*metric] if isinstance(metric, list | tuple) else [metric]
        if "segm" in kinds:
            node["metric"], changed = [kind for kind in kinds if kind != "segm"], True
            if not node["metric"]:
                raise InputError(
                    "--tta merges boxes alone, and test_evaluator has masks alone: evaluate boxes "
                    "with --cfg-options test_evaluator.metric=bbox, or leave --tta out"
                )
    return changed
