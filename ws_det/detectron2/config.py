"""From a config's name and the tool's KEY=VALUE options to what it asks for."""

from __future__ import annotations

import inspect
import os.path as osp
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from detectron2.config import CfgNode, LazyConfig
from detectron2.data import MetadataCatalog
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ws_det.coco import read_annotations
from ws_det.detectron2 import heads
from ws_det.detectron2.completed import check_values, complete, one_sentence
from ws_det.detectron2.data import DATA_ROOT, register_set
from ws_det.detectron2.recipe import LazyRecipe, Recipe, YamlRecipe
from ws_det.detectron2.safe_config import load_yaml
from ws_det.detectron2.tta import KEYS as TTA_KEYS
from ws_det.errors import InputError, first_line
from ws_det.mending.entries import mend_categories
from ws_det.mending.tally import Tally
from ws_det.paths import find_config
from ws_det.settings import no_setting, settings_with

# What is read of a LazyConfig, and from `train` although no config of Detectron2's has it.
_READ = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
_TRAIN = {"seed", "accumulation_steps", "clip_grad", "on_nan", "tta"}
_TRAIN |= {"cudnn_benchmark", "float32_precision"}


def load_recipe(name: str, options: Sequence[str] = (), data_root: str | None = None) -> Recipe:
    """Load a config and apply what the user asked for.

    Args:
        name: Path of a LazyConfig (.py, or .yaml as saved in an output folder) or of a yaml
            config, or the name of a supplied one.
        options: ``key.path=value``; for a yaml config ``KEY.PATH=VALUE`` or, as Detectron2 has
            it, ``KEY.PATH VALUE``.
        data_root: Folder of a COCO-format set, with COCO's own names in it, registered as
            ``data_root_train`` and ``data_root_val``; it names the classes.

    Returns:
        The recipe, for the GPUs or, on a machine without, for the CPU.

    Raises:
        InputError: If the config is missing or broken, an option unknown, or the set unusable.
    """
    path = find_config(name)
    if path.endswith(".pkl"):  # Detectron2 writes one where a yaml would not do
        raise InputError(
            f"the config {path} is a pickle, which may run code, and is not read: give the config "
            f"in Python that the run began with, which has what no yaml can say"
        )
    try:
        cfg = LazyConfig.load(path) if path.endswith(".py") else load_yaml(path)
    except InputError:
        raise
    except Exception as error:  # a config is a program: it can fail in any way
        raise InputError(
            f"the config {path} cannot be read ({type(error).__name__}: {first_line(error)}): "
            f"correct it"
        ) from error
    with one_sentence(path):
        return _applied(cfg, path, options, data_root)


def _applied(
    cfg: DictConfig | CfgNode, path: str, options: Sequence[str], data_root: str | None
) -> Recipe:
    lazy = isinstance(cfg, DictConfig)
    if lazy:
        complete(cfg, path)
    kind = LazyRecipe if lazy else YamlRecipe
    if data_root is not None:
        if not osp.isdir(data_root):
            raise InputError(
                f"there is no folder {data_root}: give --data-root the folder of a COCO set"
            )
        sets, categories = _set_below(data_root)
        kind.lead_to(cfg, sets, len(categories))
        points = next((c["keypoints"] for c in categories if c.get("keypoints")), None)
        if points:
            heads.set_keypoints(cfg.model if lazy else cfg.MODEL, len(points))
    try:
        base_batch = kind(cfg).base_batch
    except (OmegaConfBaseException, AttributeError, TypeError, ValueError):
        base_batch = None  # the options may give what is missing
    (_override_lazy if lazy else _override_yaml)(cfg, options)
    if lazy:
        check_values(cfg, path)
    recipe = kind(cfg)
    recipe.base_batch = base_batch or recipe.base_batch  # the learning rate is for the config's own
    return recipe


def _set_below(root: str) -> tuple[tuple[str, str], list[dict[str, Any]]]:
    """Register a folder's sets; their names and their categories."""
    sets = register_set(root, DATA_ROOT)
    # A set to evaluate on needs no annotations to train on.
    there = [name for name in sets if osp.isfile(MetadataCatalog.get(name).json_file)]
    path = MetadataCatalog.get((there or sets)[0]).json_file
    return sets, mend_categories(read_annotations(path)["categories"], Tally(path))


def _override_yaml(cfg: CfgNode, options: Sequence[str]) -> None:
    if all("=" in option for option in options):
        options = [part for option in options for part in option.split("=", 1)]
    if len(options) % 2:
        raise InputError(f"the option {options[-1]} has no value: write KEY.PATH=VALUE")
    for key, value in zip(options[::2], options[1::2]):
        node = cfg
        for part in key.split("."):
            if not isinstance(node, CfgNode) or part not in node:
                _refuse(key, part, list(node) if isinstance(node, CfgNode) else [])
            node = node[part]
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, ValueError, SyntaxError) as error:
            raise InputError(
                f"the option {key}={value} does not fit ({first_line(error)}): the config has "
                f"{node!r} there"
            ) from None


def _override_lazy(cfg: DictConfig, options: Sequence[str]) -> None:
    for option in options:
        key, equals, _ = option.partition("=")
        if not equals:
            raise InputError(f"the option {option} has no value: write key.path=value")
        _check_variable(cfg, key)
        _check_key(cfg, key)
        try:
            LazyConfig.apply_overrides(cfg, [option])
        except Exception as error:  # the grammar's own exceptions, and those of OmegaConf
            raise InputError(
                f"the option {option} cannot be understood ({first_line(error)}): write "
                f"key.path=value, with lists as key=[a,b]"
            ) from None


def _check_variable(cfg: DictConfig, key: str) -> None:
    """Refuse what a config's file was written with: only five keys of a LazyConfig are read."""
    variable = key.split(".")[0]
    plain = OmegaConf.to_container(cfg)  # with the interpolations as they are written
    if variable not in plain or variable in _READ or f"${{{variable}." in repr(plain):
        return
    value = OmegaConf.select(cfg, key)
    value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    settings = {name: child for name, child in plain.items() if name in _READ}
    found = settings_with(settings, value)
    raise InputError(no_setting(f"the option {key}", variable, list(found)))


def _check_key(cfg: DictConfig, key: str) -> None:
    """Refuse a key that nothing would read; OmegaConf would add it without a word."""
    node: Any = cfg
    *parents, last = key.split(".")
    for number, part in enumerate([*parents, last]):
        if isinstance(node, ListConfig):
            if not part.isdigit() or int(part) >= len(node):
                _refuse(key, part, [str(index) for index in range(len(node))])
            node = node[int(part)]
            continue
        names = [str(name) for name in node] if isinstance(node, DictConfig) else []
        if part not in names:
            readable = _read_by(node, parents[:number])
            if part in readable:
                return
            _refuse(key, part, [*names, *readable])
        if number < len(parents):  # the last may have no value yet
            node = node[part]


def _read_by(node: Any, path: Sequence[str]) -> set[str]:
    """The keys that are read from a node although it does not have them."""
    if list(path) == ["train"]:
        return _TRAIN
    if list(path) == ["train", "clip_grad"]:
        return {"max_norm"}
    if list(path) == ["train", "tta"]:
        return {*TTA_KEYS}
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target is None:
        return set()
    target = locate(target) if isinstance(target, str) else target
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return set()
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _refuse(key: str, part: str, names: Sequence[str]) -> None:
    near = get_close_matches(part, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}" if near else f"known are {', '.join(sorted(names)[:8])}"
    raise InputError(
        f"the option {key} has no place in the config: there is no {part!r}; "
        f"{hint if names else 'nothing is below'}?"
    )
