"""Find what counts a data set's classes in the models of Detectron2's configs, and set it.

Left alone are the counts of others: of maps of stuff, of a backbone's pretraining, and the one
class of a head whose masks are for all classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf

from ws_det.errors import InputError

_KEY = "num_classes"
_APART = ("backbone", "bottom_up", "proposal_generator")


def counts_of_lazy(model: DictConfig) -> list[int]:
    """The class counts of a LazyConfig's model that have to be the set's."""
    return [node[_KEY] for node in _heads(model) if _KEY in node]


def counts_of_yaml(model: CfgNode) -> list[int]:
    """Those of a yaml config's ``MODEL``: what its architecture reads, and what projects add."""
    architecture = model.META_ARCHITECTURE
    if architecture in ("ProposalNetwork", "SemanticSegmentor"):
        return []
    unread = "ROI_HEADS" if "RetinaNet" in architecture else "RETINANET"
    names = [name for name in _yaml_heads(model) if name != unread]
    return [model[name].NUM_CLASSES for name in names]


def set_lazy(model: DictConfig, num_classes: int) -> None:
    """Let all heads of a LazyConfig's model have as many classes.

    Args:
        model: The model's node, changed in place.
        num_classes: Those of the set.

    Raises:
        InputError: If it predicts maps of stuff too.
    """
    semantic = next((node for node in _nodes(model) if _is_semantic(node)), None)
    if semantic is not None:
        _refuse_stuff("sem_seg_head", semantic.get(_KEY))
    heads = list(_heads(model))
    # what is read from another place follows it, unless that place is none of these
    for node in heads:
        if not OmegaConf.is_interpolation(node, _KEY):
            node[_KEY] = num_classes
    for node in heads:
        if node[_KEY] != num_classes:
            node[_KEY] = num_classes


def set_yaml(model: CfgNode, num_classes: int) -> None:
    """Let all heads of a yaml config's ``MODEL`` have as many classes; see :func:`set_lazy`."""
    if "Panoptic" in model.META_ARCHITECTURE or "Semantic" in model.META_ARCHITECTURE:
        _refuse_stuff("MODEL.SEM_SEG_HEAD", model.SEM_SEG_HEAD.NUM_CLASSES)
    for name in _yaml_heads(model):
        model[name].NUM_CLASSES = num_classes


def set_keypoints(model: DictConfig | CfgNode, count: int) -> None:
    """Let a head of keypoints have as many as the set's objects, in either kind of config."""
    if isinstance(model, CfgNode):
        model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = count
        return
    for node in _nodes(model):
        if "num_keypoints" in node and node.num_keypoints != count:
            node.num_keypoints = count


def _refuse_stuff(place: str, count: Any) -> None:
    raise InputError(
        f"{place} with {count} classes predicts maps of stuff, and a COCO set of objects has none: "
        f"take a config of objects, as mask_rcnn_R_50_FPN_3x_gn_ws, or register a panoptic set and "
        f"leave out --data-root"
    )


def _yaml_heads(model: CfgNode) -> list[str]:
    nodes = {name: node for name, node in model.items() if isinstance(node, CfgNode)}
    return [name for name in nodes if "NUM_CLASSES" in nodes[name] and name != "SEM_SEG_HEAD"]


def _heads(model: DictConfig) -> Iterator[DictConfig]:
    """The nodes whose class takes a number of classes, named or by default."""
    heads = [node for node in _nodes(model) if not _is_semantic(node) and _counts(node)]
    several = any(node.get(_KEY, 2) != 1 for node in heads)
    for node in heads:
        if not (several and node.get(_KEY) == 1):  # a mask for all classes
            yield node


def _counts(node: DictConfig) -> bool:
    if _KEY in node:
        return node[_KEY] is not None
    try:
        parameter = inspect.signature(_target(node)).parameters.get(_KEY)
    except (TypeError, ValueError):
        return False
    return parameter is not None and isinstance(parameter.default, int)


def _is_semantic(node: DictConfig) -> bool:
    return _target(node) in dict(SEM_SEG_HEADS_REGISTRY).values() or node._key() == "sem_seg_head"


def _target(node: DictConfig) -> Any:
    """What a node calls; a config that was saved as yaml has its name."""
    target = node.get("_target_")
    return locate(target) if isinstance(target, str) else target


def _nodes(node: Any) -> Iterator[DictConfig]:
    """The dicts of a model's config but for those of a backbone and of an RPN."""
    if isinstance(node, DictConfig):
        if node._is_none() or node._is_missing():
            return
        yield node
        children = [node._get_node(key) for key in node if key not in _APART]
    elif isinstance(node, ListConfig):
        children = [node._get_node(index) for index in range(len(node))]
    else:
        return
    for child in children:
        yield from _nodes(child)
