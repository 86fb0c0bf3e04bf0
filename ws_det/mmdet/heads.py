"""Find what counts a data set's classes in a model's config, and set it.

A head is known by what its class takes, whatever key it stands at. Left alone are the counts of
others: the one class of an RPN, those of a backbone's pretraining, of semantic maps and of people.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from mmdet.models.data_preprocessors import ReIDDataPreprocessor
from mmdet.models.detectors import Detectron2Wrapper
from mmdet.models.reid import LinearReIDHead
from mmdet.models.roi_heads import FusedSemanticHead
from mmdet.models.seg_heads.base_semantic_head import BaseSemanticHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict

from ws_det.errors import InputError

_APART = ("backbone", "language_model", "neck", "reid", "rpn_head")  # MMDetection's own keys
_OF_OTHERS = (FusedSemanticHead, LinearReIDHead, ReIDDataPreprocessor)


class Head(NamedTuple):
    """A head, by its config.

    Attributes:
        node: The dict of the config.
        path: Where it is.
        key: ``"num_classes"``, or ``"num_things_classes"`` beside ``"num_stuff_classes"``.
        things: How many classes of objects it has.
        stuff: How many of what is no object.
        semantic: Whether it predicts a map of stuff, with all objects as one class.
    """

    node: Any
    path: str
    key: str
    things: int | None
    stuff: int
    semantic: bool = False

    def channels(self, things: int | None, stuff: int) -> int:
        """How many classes its losses have."""
        return stuff if self.semantic else (things or 0) + stuff


def heads_in(node: Any, path: str = "model") -> Iterator[Head]:
    """The heads of a model's config that count the set's classes.

    Args:
        node: The config of the model, or a part of it.
        path: Where it is.
    """
    if isinstance(node, dict):
        cls = MODELS.get(node["type"]) if isinstance(node.get("type"), str) else node.get("type")
        if cls is Detectron2Wrapper:
            yield _head_of_detectron2(node, path)
            return
        head = _head(node, path, cls)
        if head:
            yield head
            return
        children: Any = ((key, child) for key, child in node.items() if not key.endswith(_APART))
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for key, child in children:
        yield from heads_in(child, f"{path}.{key}")


def set_classes(model: Any, things: int, stuff: int = 0) -> None:
    """Let every head of a model's config, with its losses, have as many classes.

    Args:
        model: The config, changed in place.
        things: Classes of objects.
        stuff: Classes of what is no object, for panoptic heads.

    Raises:
        InputError: If a loss has a weight for each of the config's own classes.
    """
    for head in list(heads_in(model)):
        old, new = head.channels(head.things, head.stuff), head.channels(things, stuff)
        head.node[head.key] = things
        if head.key == "num_things_classes":
            head.node["num_stuff_classes"] = stuff
        for key, child in head.node.items():
            _fit_losses(child, f"{head.path}.{key}", old, new)


def check_stuff(model: Any, path: str, panoptic: bool) -> None:
    """Refuse a set of boxes and masks for a model that needs stuff as well.

    Args:
        model: The config.
        path: Of the annotation file, for the message.
        panoptic: Whether it is there and of a panoptic set.

    Raises:
        InputError: If the model needs what is not there.
    """
    head = next((head for head in heads_in(model) if head.stuff), None)
    if head and not panoptic:
        raise InputError(
            f"{head.path} has {head.stuff} classes of stuff beside its objects and needs a "
            f"panoptic set, which {path} is not of: take a config of instances, as "
            f"mask2former_r50_8xb2-lsj-50e_coco or mask-rcnn_r50_fpn_1x_coco"
        )


def check_heads(model: Any, path: str, things: int, stuff: int) -> None:
    """Check that the heads of a model's config have the classes of the data.

    Args:
        model: The config.
        path: As in :func:`check_stuff`.
        things: Classes of objects in the data.
        stuff: Classes of what is no object.

    Raises:
        InputError: For the first head that has others.
    """
    check_stuff(model, path, panoptic=stuff > 0)
    for head in heads_in(model):
        for key, found, right in (
            (head.key, head.things, things), ("num_stuff_classes", head.stuff, stuff),
        ):  # fmt: skip
            if found != right and (key == head.key or head.key == "num_things_classes"):
                raise InputError(
                    f"{key}={found} of {head.node.get('type')} does not match the {right} classes "
                    f"of the data: pass --data-root FOLDER, which sets both"
                )


def _head(node: Any, path: str, cls: Any) -> Head | None:
    taken = _counts_of(cls)
    if "num_things_classes" in taken:
        things, stuff = (
            node.get(key, taken[key]) for key in ("num_things_classes", "num_stuff_classes")
        )
        return Head(node, path, "num_things_classes", things, stuff, _is(cls, BaseSemanticHead))
    if _is(cls, (BaseSemanticHead, *_OF_OTHERS)):
        return None
    if "num_classes" in taken or "num_classes" in node:
        return Head(node, path, "num_classes", node.get("num_classes", taken.get("num_classes")), 0)
    return None


def _head_of_detectron2(node: Any, path: str) -> Head:
    retinanet = "RetinaNet" in node.detector.get("meta_architecture", "")
    name = "retinanet" if retinanet else "roi_heads"
    heads = node.detector.setdefault(name, ConfigDict())
    return Head(heads, f"{path}.detector.{name}", "num_classes", heads.get("num_classes", 80), 0)


def _counts_of(cls: Any) -> dict[str, Any]:
    """The counts that a class takes, with their defaults.

    Its own arguments come before those of the class it is derived from: a panoptic head has
    ``num_classes`` there, and computes it.
    """
    for base in cls.__mro__ if inspect.isclass(cls) else ():
        if "__init__" in vars(base) and base is not object:
            parameters = inspect.signature(base.__init__).parameters
            keys = ("num_things_classes", "num_stuff_classes", "num_classes")
            found = {key: parameters[key].default for key in keys if key in parameters}
            if found:
                return {k: None if v is inspect.Parameter.empty else v for k, v in found.items()}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
                break
    return {}


def _fit_losses(node: Any, path: str, old: int, new: int) -> None:
    """Fit what a head's losses have of its classes."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            _fit_losses(child, f"{path}.{index}", old, new)
    if not isinstance(node, dict):
        return
    if _head(node, path, MODELS.get(node["type"]) if "type" in node else None):
        node["num_classes"] = new
    weights = node.get("class_weight")
    if isinstance(weights, (list, tuple)):
        background = not node.get("use_sigmoid", False)
        if len(weights) == old + background and len({*weights[:old]}) == 1:
            node["class_weight"] = [weights[0]] * new + [*weights[old:]]
        elif len(weights) != new + background:
            raise InputError(
                f"{path}.class_weight has {len(weights)} weights, of other classes than the set's: "
                f"give {new + background} with --cfg-options {path}.class_weight=[...]"
            )
    for key, child in node.items():
        _fit_losses(child, f"{path}.{key}", old, new)


def _is(cls: Any, bases: Any) -> bool:
    return inspect.isclass(cls) and issubclass(cls, bases)
