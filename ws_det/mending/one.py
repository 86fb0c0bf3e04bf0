"""Mend one annotation: compute what it lacks, or say why it is left out or refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ws_det.errors import InputError
from ws_det.masks import is_finite, is_mask, is_size
from ws_det.mending.entries import Entries, number_in, numbers_in
from ws_det.mending.geometry import (
    NEGATIVE,
    NO_BOX,
    area_of,
    box_of,
    fault_of_box,
    is_no_polygon,
    short,
)
from ws_det.mending.sizes import size_of
from ws_det.mending.tally import Tally

# Why annotations are not used, after "3 are".
NO_IMAGE = "of no image that is listed"
NO_CATEGORY = "of no category that is listed"
NO_MASK = "without a mask"
_HUGE = 1e300  # a whole number may be one that no float is
_LARGEST = (2**14, 2**14)  # of an image of unknown size, to which polygons are held


class Purpose(NamedTuple):
    """What a run does with annotations.

    Attributes:
        training: Whether a model learns from them; else they are the truth of an evaluation.
        masks: Whether their masks are used.
        used: Ids of the categories that are used.
        without_masks: What a user without masks can do.
        needed: Whether something of them has to be used.
    """

    training: bool
    masks: bool
    used: Collection[Any]
    without_masks: str
    needed: bool


class LeftOut(Exception):
    """Why an annotation is not used."""


class One:
    """Mends annotations one by one.

    Args:
        images: Of the file.
        categories: Of the file.
        purpose: What they are for.
        tally: Counts.
    """

    def __init__(
        self, images: Entries, categories: Entries, purpose: Purpose, tally: Tally
    ) -> None:
        self.sizes = {image["id"]: size_of(image) for image in images}
        self._categories = {category["id"] for category in categories}
        self._purpose = purpose
        self._tally = tally

    def is_ordinary(self, thing: Mapping[str, Any]) -> bool:
        """Whether there is nothing to do: nearly always so, and told quickly."""
        try:
            size = self.sizes[thing["image_id"]]
            height, width = size
            x, y, w, h = thing["bbox"]
            shape = thing.get("segmentation")
            return (
                thing["category_id"] in self._categories
                and type(thing["iscrowd"]) is int
                and 0 <= thing["iscrowd"] <= 1
                and 0 < w < _HUGE
                and 0 < h < _HUGE
                and -w < x < width
                and -h < y < height
                and 0 < thing["area"] < _HUGE
                and (is_mask(shape, size) if shape else not self._purpose.masks)
                and thing.get("ignore", 0) == 0
                and ("keypoints" not in thing or _are_keypoints(thing["keypoints"]))
            )
        except (KeyError, TypeError, ValueError):
            return False

    def mended(self, thing: Mapping[str, Any], name: str) -> dict[str, Any]:
        """A copy that can be used.

        Args:
            thing: The annotation.
            name: What to call it.

        Raises:
            LeftOut: If it is not used.
            InputError: If it can neither be mended nor left out.
        """
        _check_known(self.sizes, thing.get("image_id"), NO_IMAGE)
        _check_known(self._categories, thing.get("category_id"), NO_CATEGORY)
        thing = {**thing, "iscrowd": self._iscrowd(thing, name)}
        if thing.get("ignore", 0) != 0:
            if thing["ignore"] and self._purpose.training:
                raise LeftOut("to be ignored")
            del thing["ignore"]
            self._tally.mend("took the mark 'ignore' off {}", name)
        size = self.sizes[thing["image_id"]]
        shape = self._mask(thing, size, name)
        thing.pop("segmentation", None)
        if shape is not None:
            thing["segmentation"] = shape
        thing["bbox"] = self._box(thing, shape, size, name)
        thing["area"] = self._area(thing, shape, size, name)
        if "keypoints" in thing:
            self._mend_keypoints(thing, name)
        return thing

    def _iscrowd(self, thing: Mapping[str, Any], name: str) -> int:
        if "iscrowd" not in thing:
            self._tally.mend("set iscrowd of {} to 0", name)
            return 0
        crowd = number_in(thing["iscrowd"])
        if type(thing["iscrowd"]) is int and 0 <= crowd <= 1:
            return crowd
        if crowd is not None and not is_finite(crowd):
            raise self._refusal(name, f"iscrowd {short(crowd)}", "give it 0 or 1")
        self._tally.mend("made iscrowd of {} 0 or 1", name)
        return int(bool(crowd))

    def _mask(self, thing: Mapping[str, Any], size: Any, name: str) -> Any:
        given = thing.get("segmentation")
        shape = self._polygons(given, name) if isinstance(given, list) else given
        if not shape:
            if not self._purpose.masks:
                return None
            if self._purpose.training:
                raise LeftOut(NO_MASK)
            fault = "no polygon of three corners" if given else "no mask"
            raise self._refusal(name, fault, self._purpose.without_masks)
        if size is None and self._purpose.masks:
            raise InputError(
                f"the image {short(thing['image_id'])} of {self._tally.name} has no height and "
                f"width, which its masks need: write them into the file"
            )
        if size is None and isinstance(shape, Mapping) and is_size(shape.get("size")):
            size = shape["size"]
        if is_mask(shape, size or _LARGEST):
            return shape
        if self._purpose.masks:
            fault = f"a mask that is not whole, or not of its image's size, {list(size)}"
            raise self._refusal(name, fault, "write it again, or leave it out")
        self._tally.mend("left out the masks of {}, which are not whole and not needed", name)
        return None

    def _polygons(self, shape: list[Any], name: str) -> list[Any]:
        if shape and not any(isinstance(part, (list, Mapping)) for part in shape):
            self._tally.mend("made a list of polygons of the flat mask of {}", name)
            shape = [shape]
        whole = [part for part in shape if not is_no_polygon(part)]
        if len(whole) < len(shape):
            self._tally.mend("left out polygons of less than three corners of {}", name)
        numbers = [numbers_in(part) for part in whole]
        if numbers != whole:
            self._tally.mend("made numbers of text in the mask of {}", name)
        return numbers

    def _box(self, thing: Mapping[str, Any], shape: Any, size: Any, name: str) -> list[Any]:
        given = thing.get("bbox")
        box = numbers_in(given)
        fault = fault_of_box(box)
        if not fault:
            if box != given:
                self._tally.mend("made numbers of text in the box of {}", name)
            return box
        from_mask = box_of(shape, size)
        if from_mask:
            self._tally.mend("computed the box of {} from the mask", name)
            return from_mask
        if self._purpose.training and fault in (NO_BOX, NEGATIVE):
            raise LeftOut(f"with {fault}")
        raise self._refusal(name, fault, "correct its 'bbox', or leave it out")

    def _area(self, thing: Mapping[str, Any], shape: Any, size: Any, name: str) -> Any:
        given = thing.get("area")
        area = number_in(given)
        of_box = thing["bbox"][2] * thing["bbox"][3]
        if not is_finite(area) or (area <= 0 and of_box):
            self._tally.mend("computed the area of {}", name)
            return area_of(shape, size) or of_box
        if area is not given:
            self._tally.mend("made the area of {} a number, which was text", name)
        return area

    def _mend_keypoints(self, thing: dict[str, Any], name: str) -> None:
        given = thing["keypoints"]
        points = numbers_in(given)
        if not _are_keypoints(points):
            del thing["keypoints"]
            self._tally.mend("left out the keypoints of {}, which are not three numbers each", name)
        elif points != given:
            thing["keypoints"] = points
            self._tally.mend("made numbers of text in the keypoints of {}", name)

    def _refusal(self, name: str, fault: str, way_out: str) -> InputError:
        name = name.removeprefix("id ")
        return InputError(f"the annotation {name} of {self._tally.name} has {fault}: {way_out}")


def _check_known(ids: Collection[Any], key: Any, reason: str) -> None:
    try:
        if key in ids:
            return
    except TypeError:  # a list, of which nobody has the id
        pass
    raise LeftOut(reason)


def _are_keypoints(points: Any) -> bool:
    return isinstance(points, list) and len(points) % 3 == 0 and all(map(is_finite, points))
