"""Check one registered set for what a config wants of it, and mend its annotation file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from detectron2.data import Metadata, MetadataCatalog

from ws_det.annotations import Mended, mend_content
from ws_det.coco import check_images, check_shapes, read_content
from ws_det.detectron2.images import check_kinds
from ws_det.detectron2.keypoints import fill_keypoints, keypoint_metadata
from ws_det.detectron2.mapper import NO_POLYGONS
from ws_det.detectron2.own_sets import check_own_set, is_own
from ws_det.errors import InputError
from ws_det.images import image_path

WITHOUT_MASKS = "train a detector of boxes, such as faster_rcnn_R_50_FPN_1x_gn_ws.yaml"


class Wants(NamedTuple):
    """What a config wants of its sets.

    Attributes:
        train_sets: The sets that the model learns from.
        test_sets: The sets that it is judged by.
        masks: Whether the model has masks.
        mask_format: That of the loader, ``"polygon"`` or ``"bitmask"``, if it reads masks.
        keypoints: Whether the model has keypoints.
        num_keypoints: Of its head, None if that does not say.
        own_mapper: Whether Detectron2's own mapper reads the images.
    """

    train_sets: Sequence[str] = ()
    test_sets: Sequence[str] = ()
    masks: bool = False
    mask_format: str | None = None
    keypoints: bool = False
    num_keypoints: int | None = None
    own_mapper: bool = True


class Findings(NamedTuple):
    """What the checks of sets found.

    Attributes:
        contents: The annotation files that had to be mended, of each such set.
        metadata: What Detectron2 has to know besides, of every set.
        notes: What was mended or is not used, a line for each file.
        images: The path of an image of each set, and how many there are, where they are known.
    """

    contents: dict[str, dict[str, Any]]
    metadata: dict[str, dict[str, Any]]
    notes: list[str]
    images: dict[str, tuple[str, int]]


def check_set(name: str, wants: Wants, num_classes: int | None, found: Findings) -> Any:
    """Check a set by its dicts or its file.

    Args:
        name: Of a registered set.
        wants: What the config wants of it.
        num_classes: Of the model, None if that is not known.
        found: Gets what was found.

    Returns:
        The annotations in COCO's format, None if the set has none.

    Raises:
        InputError: For the first fault found.
    """
    metadata = MetadataCatalog.get(name)
    path = metadata.get("json_file")
    in_coco = metadata.get("evaluator_type", "coco") == "coco"
    found.metadata[name] = {}
    if is_own(name) and in_coco and wants.own_mapper:
        training, testing = name in wants.train_sets, name in wants.test_sets
        mask_format = wants.mask_format if wants.masks else None
        found.notes.extend(check_own_set(name, training, testing, num_classes, mask_format))
    if path is None:
        return None
    content, is_plain = read_content(path)
    _check_images(metadata, content["images"], wants.own_mapper)
    if in_coco:
        if metadata.get("image_root") is not None:
            first = image_path(metadata.image_root, content["images"][0]["file_name"])
            found.images[name] = first, len(content["images"])
        return _mended(metadata, content, is_plain, wants, found)
    check_shapes(path, content)
    return content


def _mended(
    metadata: Metadata, content: dict[str, Any], is_plain: bool, wants: Wants, found: Findings
) -> dict[str, Any]:
    path, name = metadata.json_file, metadata.name
    training = name in wants.train_sets
    alone = [*wants.train_sets] == [name]
    content, changed, notes = mend_content(
        content,
        path,
        metadata.get("image_root"),
        training=training,
        masks=wants.masks,
        without_masks=WITHOUT_MASKS,
        needed=alone if training else "annotations" in content,
    )
    if training and wants.mask_format == "polygon":
        _check_polygons(path, content.get("annotations", []))
    if wants.keypoints:
        content, filled = _with_keypoints(metadata, content, wants, found)
        changed, notes = changed or bool(filled), [*notes, *filled]
    if changed or not is_plain:
        found.contents[name] = content
    if notes:
        found.notes.append(Mended(content, changed, notes).describe(path))
    return content


def _with_keypoints(
    metadata: Metadata, content: dict[str, Any], wants: Wants, found: Findings
) -> tuple[dict[str, Any], list[str]]:
    count = wants.num_keypoints
    if metadata.name in wants.train_sets:
        given = keypoint_metadata(metadata.name, content["categories"], count)
        found.metadata[metadata.name].update(given)
        count = len(given.get("keypoint_names") or metadata.keypoint_names)
    if count is None or not content.get("annotations"):
        return content, []
    return fill_keypoints(metadata.json_file, content, count)


def _check_polygons(path: str, things: Sequence[Mapping[str, Any]]) -> None:
    for thing in things:
        if isinstance(thing.get("segmentation"), Mapping) and not thing["iscrowd"]:
            raise InputError(f"the annotation {thing['id']} of {path} {NO_POLYGONS}")


def _check_images(
    metadata: Metadata, images: Sequence[dict[str, Any]], own_mapper: bool
) -> None:
    if metadata.get("evaluator_type") == "lvis":  # which takes folder and file from elsewhere
        names = ["/".join(str(image.get("coco_url")).split("/")[-2:]) for image in images]
        images = [{"file_name": name} for name in names]
    folder = metadata.get("image_root")
    if folder is not None:
        check_images(metadata.json_file, folder, images, "complete the folder")
    if folder is not None and own_mapper:
        check_kinds(image_path(folder, image["file_name"]) for image in images)
