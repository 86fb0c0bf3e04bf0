"""Fold a trained detector into one that Detectron2 runs without ws_det."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from detectron2.config import CfgNode, get_cfg
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn

from ws_det import convert, fit, stock
from ws_det.checkpoint import load_checkpoint, save_checkpoint
from ws_det.detectron2 import norms
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.loop import convert_for_loop
from ws_det.detectron2.preflight import build_model
from ws_det.detectron2.recipe import LazyRecipe, Recipe
from ws_det.detectron2.registry import PARTS
from ws_det.detectron2.weights import loaded_model, local_file, model_in
from ws_det.fold import fold_ws
from ws_det.norms import EstBatchNorm2d
from ws_det.settings import changed_settings


class Detector(NamedTuple):
    """A detector with its weights, in eval mode on the CPU.

    Attributes:
        recipe: That of its config.
        model: It.
    """

    recipe: Recipe
    model: nn.Module


def load_detector(
    config: str, path: str, options: Sequence[str] = (), data_root: str | None = None
) -> Detector:
    """Build a detector and load its weights, with the checks of testing.

    Args:
        config: Path of a config, or the name of a supplied one.
        path: Path or URL of the weights.
        options: ``KEY=VALUE``.
        data_root: Folder of a COCO-format set, which names the classes.

    Raises:
        InputError: If the config cannot be built, or the weights are folded already or of another
            model.
    """
    recipe = load_recipe(config, options, data_root)
    file = local_file(path)
    pickled = file.endswith(".pkl")
    state = (model_in(load_checkpoint(file)) if pickled else loaded_model(file))["model"]
    stock.refuse_folded(state, path)
    model = build_model(recipe)
    fit.check_whole(model, state, path, "give the checkpoint of that model")
    model.load_state_dict(state, strict=False)  # it may lack num_batches_tracked
    return Detector(recipe, model.cpu().eval())


def fold_checkpoint(
    config: str,
    source: str,
    target: str,
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> list[str]:
    """Fold a checkpoint, for Detectron2's own layers.

    Args:
        config: Path of the config that it was trained with, or the name of a supplied one.
        source: Path or URL of the checkpoint.
        target: The file to write, ``{"model": weights, "ws_folded": True}``.
        options: As in ``load_detector``.
        data_root: As in ``load_detector``.

    Returns:
        What the config needs, one setting an item: what the options and the set gave its model,
        then what stands there without ws_det.

    Raises:
        InputError: As ``load_detector``; if there is nothing to fold, or a layer is in it that
            Detectron2 has not.
    """
    recipe, model = load_detector(config, source, options, data_root)
    stock.check_foldable(model, config)
    fold_ws(model)
    changed, settings = stock_config(recipe)
    state = model.state_dict()
    stock.check_equal(model, lambda: build_model(changed).cpu(), state)
    save_checkpoint({"model": state, "ws_folded": True, "__author__": "ws_det"}, target)
    own = load_recipe(config).cfg
    if isinstance(recipe, LazyRecipe):
        nodes = (OmegaConf.to_container(cfg.model) for cfg in (own, recipe.cfg))
        given = changed_settings(*nodes, "model", "[{}]")
        return [*(f"{path} = {value!r}" for path, value in given), *settings]
    given = changed_settings(own.MODEL, recipe.cfg.MODEL, "MODEL")
    return [*(f"{path} {value}" for path, value in given), *settings]


def stock_config(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The same config with Detectron2's own parts in place of ours.

    Args:
        recipe: Of a config, left as it is.

    Returns:
        The recipe, and what was changed in it.
    """
    change = _stock_lazy if isinstance(recipe, LazyRecipe) else _stock_yaml
    cfg, settings = change(recipe.cfg)
    return type(recipe)(cfg), settings


def _stock_yaml(cfg: CfgNode) -> tuple[CfgNode, list[str]]:
    changed, settings = cfg.clone(), []
    ours = {part.__name__ for parts in PARTS.values() for part in parts}

    def visit(node: CfgNode, path: str) -> None:
        for key, value in node.items():
            if isinstance(value, CfgNode):
                visit(value, f"{path}{key}.")
                continue
            if str(value) in ours:
                node[key] = value.replace("build_ws_", "build_").removeprefix("WS")
            elif key == "NORM" and value == "EstBN":
                node[key] = "BN"
            else:
                continue
            settings.append(f"{path}{key} {node[key]}")

    visit(changed.MODEL, "MODEL.")
    return changed, [*settings, *(f"without {key}" for key in _added_keys(cfg, get_cfg()))]


def _added_keys(cfg: CfgNode, known: CfgNode, path: str = "") -> Iterator[str]:
    """The keys that Detectron2's own config has not, and refuses in a yaml."""
    for key, value in cfg.items():
        if key not in known:
            yield path + key
        elif isinstance(value, CfgNode):
            yield from _added_keys(value, known[key], f"{path}{key}.")


def _stock_lazy(cfg: DictConfig) -> tuple[DictConfig, list[str]]:
    changed, settings = copy.deepcopy(cfg), []

    def visit(node: Any, path: str) -> None:
        if not isinstance(node, (DictConfig, ListConfig)):
            return
        for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
            child = node._get_node(key)
            here = f"{path}[{key}]" if isinstance(node, ListConfig) else f"{path}.{key}".lstrip(".")
            if _calls(child, convert.convert_to_ws, convert_for_loop):
                module = child.module
                settings.append(f"{here} = {here}.module")
                node[key] = module
            elif norm := _stock_norm(getattr(child, "_val", None)):
                node[key] = norm[0]
                settings.append(f"{here} = {norm[1]}")
            visit(node._get_node(key), here)

    visit(changed, "")
    return changed, settings


def _calls(node: Any, *functions: Any) -> bool:
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    return (locate(target) if isinstance(target, str) else target) in functions


def _stock_norm(norm: Any) -> tuple[Any, str] | None:
    """Of our norms, what torch or Detectron2 has in their place, and how it is written."""
    if not isinstance(norm, partial):
        return None
    if norm.func is norms.group_norm:
        groups = norm.keywords.get("num_groups", 32)
        return partial(nn.GroupNorm, groups), f"partial(torch.nn.GroupNorm, {groups})"
    if norm.func is EstBatchNorm2d:
        return partial(nn.BatchNorm2d, **norm.keywords), "partial(torch.nn.BatchNorm2d)"
    return None
