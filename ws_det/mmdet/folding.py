"""Fold a trained detector into one that MMDetection runs without ws_det."""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config
from torch import nn

from ws_det import fit, stock
from ws_det.checkpoint import save_checkpoint, state_dict_of
from ws_det.fold import fold_ws
from ws_det.mmdet.config import load_config
from ws_det.mmdet.options import parse_options
from ws_det.mmdet.preflight import build_model
from ws_det.mmdet.weights import load_safely
from ws_det.settings import changed_settings

# What our registered layers are called without WS, and with which name in the checkpoint's keys.
_STOCK = {
    "WSConv1d": "Conv1d",
    "WSConv2d": "Conv2d",
    "WSConv3d": "Conv3d",
    "WSConvTranspose2d": "deconv",
    "EstBN": "BN",
}
_WS_OPTIONS = ("formula", "eps", "center", "scale", "adaptive")
_KEY = re.compile(r"(^|\.)estbn(\d*)(?=\.|$)")  # a norm is named after its class


class Detector(NamedTuple):
    """A detector with its weights, in eval mode.

    Attributes:
        cfg: Its config.
        model: It.
        checkpoint: What the weights' file holds.
    """

    cfg: Config
    model: nn.Module
    checkpoint: dict[str, Any]


def load_detector(
    config: str,
    path: str,
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> Detector:
    """Build a detector and load its weights, with the checks of testing.

    Args:
        config: Path of a config, or the name of a supplied one.
        path: Path or URL of the weights.
        options: ``key.path=value``, those of ``--cfg-options``.
        data_root: Folder of a COCO-format set, which names the classes.

    Raises:
        InputError: If the config cannot be built, or the weights are folded already or of another
            model.
    """
    cfg = load_config(config, parse_options(options), data_root, parts=("test",))
    checkpoint = load_safely(path)
    state = state_dict_of(checkpoint)
    stock.refuse_folded(state, path)
    model = build_model(cfg)
    fit.check_whole(model, state, path, "give the checkpoint of that model")
    model.load_state_dict(state, strict=False)  # it may lack num_batches_tracked
    model.eval()
    return Detector(cfg, model, checkpoint)


def fold_checkpoint(
    config: str,
    source: str,
    target: str,
    options: Sequence[str] = (),
    data_root: str | None = None,
) -> list[str]:
    """Fold a checkpoint, for MMDetection's own layers.

    Args:
        config: Path of the config that it was trained with, or the name of a supplied one.
        source: Path or URL of the checkpoint.
        target: The file to write. Its ``meta`` has what the source's has, ``ws_folded``, and as
            ``cfg`` the config that it fits.
        options: As in ``load_detector``.
        data_root: As in ``load_detector``.

    Returns:
        What the config needs, one setting an item: what the options and the set gave its model,
        then what stands there without ws_det.

    Raises:
        InputError: As ``load_detector``; if there is nothing to fold, or a layer is in it that
            MMDetection has not.
    """
    cfg, model, checkpoint = load_detector(config, source, options, data_root)
    stock.check_foldable(model, config)
    fold_ws(model)
    stock_cfg, settings = stock_config(cfg)
    state = _renamed(model.state_dict())
    stock.check_equal(model, lambda: build_model(stock_cfg), state)
    meta = {**checkpoint.get("meta", {}), "cfg": stock_cfg.pretty_text, "ws_folded": True}
    save_checkpoint({"meta": meta, "state_dict": state}, target)
    own = load_config(config, parts=("test",))
    given = changed_settings(own.model, cfg.model, "model")
    return [*(f"{path}={value!r}" for path, value in given), *settings]


def stock_config(cfg: Config) -> tuple[Config, list[str]]:
    """The same config with MMDetection's own layers in place of ours.

    Args:
        cfg: A config, left as it is.

    Returns:
        The config, and what was changed in it.
    """
    changed, settings = copy.deepcopy(cfg), []
    for path, node in list(_nodes(changed._cfg_dict)):
        kind = node.get("type")
        if kind not in _STOCK:
            continue
        node["type"] = _STOCK[kind]
        if kind != "EstBN":
            for option in _WS_OPTIONS:
                node.pop(option, None)
        if path.startswith("model."):
            settings.append(f"{path}=dict({', '.join(f'{k}={v!r}' for k, v in node.items())})")
    imports = changed.get("custom_imports") or {"imports": []}
    others = [name for name in imports["imports"] if not name.startswith("ws_det")]
    if len(others) < len(imports["imports"]):
        changed.custom_imports = {**imports, "imports": others} if others else None
        settings.append(f"custom_imports={changed.custom_imports}")
    hooks = changed.get("custom_hooks") or []
    changed.custom_hooks = [hook for hook in hooks if hook.get("type") != "SyncEstBNHook"]
    return changed, settings


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every dict inside a config, with its dotted path."""
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from _nodes(child, f"{path}.{key}" if path else str(key))


def _renamed(state: dict[str, Any]) -> OrderedDict[str, Any]:
    """A state dict whose EstBN has the keys of the BN that it has become."""
    renamed = OrderedDict((_KEY.sub(r"\1bn\2", key), value) for key, value in state.items())
    metadata = state._metadata
    renamed._metadata = {_KEY.sub(r"\1bn\2", key): entry for key, entry in metadata.items()}
    return renamed
