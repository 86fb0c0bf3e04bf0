"""Merge ``--cfg-options`` and refuse a key that nothing would read."""

from __future__ import annotations

import inspect
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import mmdet.registry
from mmdet.evaluation import CocoMetric
from mmdet.utils import register_all_modules
from mmengine.config import Config, DictAction
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from ws_det.errors import InputError
from ws_det.mmdet.metrics import CocoTwelveMetric
from ws_det.settings import no_setting, settings_with

# Settings that MMEngine reads from a config although no constructor names them.
_TOP_LEVEL = {
    "activation_checkpointing",
    "compile",
    "custom_imports",
    "efficient_conv_bn_eval",
    "find_unused_parameters",
    "model_wrapper_cfg",
    "sync_bn",
    "tta_model",
    "tta_pipeline",
}
_EVERYWHERE = {"_delete_", "_scope_", "constructor", "paramwise_cfg", "requires_grad"}
_DATALOADER = {"dataset", "num_batch_per_epoch", *inspect.signature(DataLoader).parameters}


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse ``key.path=value`` strings by MMEngine's rules for values.

    Raises:
        InputError: If one has no ``=`` or unbalanced brackets.
    """
    parser = ArgumentParser()
    parser.add_argument("--options", nargs="+", action=DictAction, default={})
    for pair in pairs:
        try:
            parser.parse_args(["--options", pair])
        except (AssertionError, ValueError):
            raise InputError(
                f"--cfg-options {pair}: write key.path=value, with lists as key=[a,b]"
            ) from None
    return parser.parse_args(["--options", *pairs]).options if pairs else {}


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge ``key.path=value`` options into a config, in place.

    A key may be new where something reads it: at the top if MMEngine's Runner knows it, in a
    dict with a ``type`` if that class takes it, in a dict without one if no key is so near that
    it must have been meant. All keys before the last must exist.

    Args:
        cfg: The config.
        options: Values by dotted key, as MMEngine's ``DictAction`` parses them.

    Raises:
        InputError: For the first key that nothing would read, with the nearest that exists.
    """
    register_all_modules(init_default_scope=False)
    for key in options:
        _check(cfg._cfg_dict, key)
    cfg.merge_from_dict(dict(options))


def _check(node: Any, key: str) -> None:
    *parents, last = key.split(".")
    top = _TOP_LEVEL | set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"}
    variable = key.split(".")[0]
    if variable in node and variable not in top:
        settings = {name: child for name, child in node.items() if name in top}
        found = settings_with(_bare(settings), _bare(_value_at(node, key)))
        raise InputError(no_setting(f"--cfg-options {key}", variable, list(found)))
    for i, part in enumerate([*parents, last]):
        inside = ".".join(key.split(".")[:i])
        known = top if i == 0 else keys_read(node, inside)
        if not isinstance(node, (Mapping, list)):
            _refuse(key, part, inside, [])
        names = [str(n) for n in range(len(node))] if isinstance(node, list) else list(node)
        if part in names:
            node = node[int(part)] if isinstance(node, list) else node[part]
        elif i == 0 and part in top:
            return  # a setting of the Runner that the config leaves out, with all that is in it
        elif i < len(parents) or isinstance(node, list):
            _refuse(key, part, inside, names)
        else:
            near = get_close_matches(part, [*names, *(known or ())], n=1, cutoff=0.75)
            unread = known is not None and part not in known
            if unread or (known is None and near):
                _refuse(key, part, inside, [*names, *(known or ())])


def _bare(node: Any) -> Any:
    """A node without the marks that MMEngine puts on what a base of another package has."""
    if isinstance(node, Mapping):
        return {key: _bare(child) for key, child in node.items() if key != "_scope_"}
    return [_bare(child) for child in node] if isinstance(node, (list, tuple)) else node


def _value_at(node: Any, key: str) -> Any:
    """The value of a dotted key, or of the last part of it that is there."""
    for part in key.split("."):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
    return node


def _refuse(key: str, part: str, inside: str, names: Sequence[str]) -> None:
    near = get_close_matches(part, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}" if near else f"known are {', '.join(sorted(names)[:8])}"
    place = f"{inside!r}" if inside else "the config"
    raise InputError(
        f"--cfg-options {key}: {place} has no {part!r}; {hint if names else 'it is no dict'}?"
    )


def keys_read(node: Any, path: str = "") -> set[str] | None:
    """The keys that are read from a config's node, or None if that cannot be told.

    Args:
        node: The node.
        path: Where it is.
    """
    if not isinstance(node, Mapping):
        return None
    if path.endswith("_dataloader"):
        return _DATALOADER
    built = _class_of(node.get("type"))
    names: set[str] = {"type", *_EVERYWHERE}
    if built is CocoMetric:
        built = CocoTwelveMetric  # which config.complete makes of it
    if not inspect.isclass(built):
        return None
    for cls in built.__mro__:
        if cls is nn.Module:
            return names
        if "__init__" in vars(cls) and cls is not object:
            parameters = inspect.signature(cls.__init__).parameters.values()
            names |= {p.name for p in parameters}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                return names
    return None


def _class_of(type_: Any) -> Any:
    if not isinstance(type_, str):
        return type_
    registries = [r for r in vars(mmdet.registry).values() if isinstance(r, Registry)]
    # MMEngine's are there too, with MMCV's classes of the same names, which read fewer keys.
    registries.sort(key=lambda r: r.scope != "mmdet")
    return next((found for r in registries if (found := r.get(type_)) is not None), None)
