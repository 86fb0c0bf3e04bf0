"""From a config's name and a tool's flags to the config that MMEngine runs."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from mmengine.config import Config
from mmengine.fileio import YamlHandler, register_handler
from mmengine.utils import import_modules_from_strings

from ws_det.errors import InputError, first_line
from ws_det.mmdet.data import set_data_root
from ws_det.mmdet.evaluators import take_over
from ws_det.mmdet.nodes import dicts_of
from ws_det.mmdet.options import merge_options
from ws_det.paths import find_config
from ws_det.safe_yaml import SafeLoader, read_yaml

# Where the parts live that `complete` adds; a config dumped to the work dir imports them again.
_MODULES = [
    f"ws_det.mmdet{part}"
    for part in ("", ".images", ".loops", ".report", ".resume", ".saving", ".tta")
]
_HOOKS = ("ResumeHook", "NanGuardHook", "SyncEstBNHook", "CurvesHook", "CocoReportHook")


def load_config(
    name: str,
    options: Mapping[str, Any] | None = None,
    data_root: str | None = None,
    work_dir: str | None = None,
    parts: Sequence[str] = ("train", "val"),
) -> Config:
    """Load a config and apply what the user asked for.

    Args:
        name: Path of a config, or the name of a supplied one.
        options: ``--cfg-options``.
        data_root: Folder of a COCO-format set, see ``set_data_root``.
        work_dir: Where to write; else the config's, else ``work_dirs/<config>``.
        parts: The dataloaders in use.

    Raises:
        InputError: If the config is missing or broken, an option unknown, or the set unusable.
    """
    path = find_config(name)
    try:
        _check_yaml(path)
        cfg = Config.fromfile(path)
    except InputError:
        raise
    except Exception as error:  # a config is a program: it can fail in any way
        raise InputError(
            f"the config {path} cannot be read ({type(error).__name__}: {first_line(error)}): "
            f"correct it"
        ) from error
    absent = [key for key in ("model", f"{parts[0]}_dataloader") if not cfg.get(key)]
    if absent:
        raise InputError(f"the config {path} has no {absent[0]}: give a config of a whole detector")
    merge_options(cfg, options or {})
    if data_root is not None:
        set_data_root(cfg, data_root, parts)
    cfg.work_dir = work_dir or cfg.get("work_dir") or f"work_dirs/{Path(path).stem}"
    return cfg


@register_handler(["yaml", "yml"])
class SafeYamlHandler(YamlHandler):
    """MMEngine's own runs code that a yaml's tags name."""

    def load_from_fileobj(self, file: IO[str], **kwargs: Any) -> Any:
        """Read a file, without that."""
        return yaml.load(file, SafeLoader)


def _check_yaml(path: str) -> None:
    """Refuse a tag by its file, which the handler is not told."""
    if not path.endswith((".yaml", ".yml")) or not osp.isfile(path):
        return
    content = read_yaml(path)
    for base in _as_list((content or {}).get("_base_", [])):
        _check_yaml(osp.join(osp.dirname(path), base))


def complete(cfg: Config, launcher: str) -> None:
    """Add what these tools promise for every config; what it has already stays.

    A resume equal to the bit, checkpoints written whole, EstBN kept equal over ranks, a stop at
    NaN, curves, TensorBoard, damaged images named, COCO's twelve numbers with a report, and DDP
    that also works without GPUs. Evaluators other than COCO's of boxes and masks stay.

    Args:
        cfg: The config, changed in place.
        launcher: As ``launch.process_group`` yields it.

    Raises:
        InputError: If the evaluation back end that it names is not there, see ``take_over``.
    """
    import_modules_from_strings(_MODULES)
    cfg.launcher = launcher
    imports = cfg.get("custom_imports") or dict(imports=[], allow_failed_imports=False)
    imports["imports"] = list(dict.fromkeys([*imports["imports"], *_MODULES]))
    cfg.custom_imports = imports
    hooks = list(cfg.get("custom_hooks") or [])
    present = {hook.get("type") for hook in hooks}
    cfg.custom_hooks = hooks + [dict(type=hook) for hook in _HOOKS if hook not in present]
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if checkpoint.get("type") == "CheckpointHook":
        checkpoint["type"] = "WholeCheckpointHook"
    backends = cfg.get("visualizer", {}).get("vis_backends", [])
    if find_spec("tensorboard") and all(b["type"] != "TensorboardVisBackend" for b in backends):
        backends.append(dict(type="TensorboardVisBackend"))
    for node in dicts_of(cfg._cfg_dict):
        if node.get("type") == "LoadImageFromFile" and not node.get("backend_args"):
            node["type"] = "LoadNamedImage"
    # By collectives, whatever the device: "cpu" is by files in a folder that all machines would
    # have to share.
    take_over(cfg, None if launcher == "none" else "gpu")
    if launcher != "none" and not torch.cuda.is_available() and not cfg.get("model_wrapper_cfg"):
        cfg.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel",
            device_ids=None,  # MMEngine's default, the local rank, is refused without GPUs
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
