"""Names of keypoints, which of them a flip swaps, and objects without any, from the file itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detectron2.data import MetadataCatalog

from ws_det.errors import InputError

# A side is a word of its own ("left_eye", "eye-left") or begins one ("leftEye", "LeftEye").
_SIDE = re.compile(r"(?<![A-Za-z])(?:left|right)|Left|Right|LEFT|RIGHT")
_OTHER = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
_OTHER |= {right: left for left, right in _OTHER.items()}


def keypoint_metadata(
    name: str, categories: Sequence[dict[str, Any]], count: int | None
) -> dict[str, Any]:
    """What a model of keypoints needs to know of a set, and its metadata does not say.

    Args:
        name: Of the registered set.
        categories: Those of its annotation file.
        count: Keypoints of the model's head, None if it has another one than Detectron2's.

    Returns:
        ``keypoint_names`` and ``keypoint_flip_map``, those that are missing.

    Raises:
        InputError: If they are not in the file either, or are not as many as the head has.
    """
    metadata = MetadataCatalog.get(name)
    found: dict[str, Any] = {}
    names = metadata.get("keypoint_names")
    if names is None:
        names = found["keypoint_names"] = _names(metadata.json_file, categories)
    if metadata.get("keypoint_flip_map") is None:
        found["keypoint_flip_map"] = _flip_map(metadata.json_file, names)
    if count not in (None, len(names)):
        raise InputError(
            f"the config's model finds {count} keypoints and {name} has {len(names)}: set "
            f"model.roi_heads.keypoint_head.num_keypoints={len(names)} (in a yaml config "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(names)})"
        )
    return found


def fill_keypoints(
    path: str, content: dict[str, Any], count: int
) -> tuple[dict[str, Any], list[str]]:
    """Give objects without keypoints invisible ones, for Detectron2 wants all or none of an image.

    Args:
        path: Of the annotation file, for the message.
        content: The file, which is left as it is.
        count: Of the keypoints that an object has.

    Returns:
        The file, and notes if it is another one now.

    Raises:
        InputError: If an object has another number of them, or none has any.
    """
    objects = content.get("annotations", [])
    without = [thing for thing in objects if not thing.get("keypoints")]
    if len(without) == len(objects):
        raise InputError(
            f"no annotation of {path} has 'keypoints', and the config's model learns them: give a "
            f"file of keypoints, or a config of boxes"
        )
    for thing in objects:
        points = thing.get("keypoints")
        if points and not (isinstance(points, list) and len(points) == 3 * count):
            raise InputError(
                f"the annotation {thing['id']} of {path} does not have x, y and visibility of "
                f"{count} keypoints: correct it"
            )
    if not without:
        return content, []
    unseen = {"keypoints": [0] * 3 * count, "num_keypoints": 0}
    filled = [thing if thing.get("keypoints") else thing | unseen for thing in objects]
    several = f"{len(without)} annotations" if len(without) > 1 else "1 annotation"
    note = f"gave invisible keypoints to {several} without any (the first is {without[0]['id']})"
    return content | {"annotations": filled}, [note]


def _names(path: str, categories: Sequence[dict[str, Any]]) -> list[str]:
    lists = [category["keypoints"] for category in categories if category.get("keypoints")]
    if lists and isinstance(lists[0], list) and all(names == lists[0] for names in lists):
        return [str(name) for name in lists[0]]
    raise InputError(
        f"the config's model learns keypoints and {path} does not name them: give its categories "
        f"a list 'keypoints' of their names, the same one"
    )


def _flip_map(path: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ in their side alone."""
    pairs = []
    for name in names:
        other = _SIDE.sub(lambda side: _OTHER[side[0]], name, count=1)
        if other != name and other not in names:
            raise InputError(
                f"the keypoint {name!r} of {path} has no {other!r} to be swapped with in a flipped "
                f"image: correct the names in the file's categories"
            )
        if other != name and (other, name) not in pairs:
            pairs.append((name, other))
    return pairs
