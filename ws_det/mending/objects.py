"""Mend annotations one by one: compute what is missing, leave out, or refuse."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ws_det.errors import InputError
from ws_det.masks import is_finite, is_mask, is_size
from ws_det.mending.entries import Entries, number_in, numbers_in
from ws_det.mending.sizes import size_of
from ws_det.mending.tally import Tally, name_of

# Why an annotation is not used, after "3 are".
NO_IMAGE = "of no image that is listed"
NO_CATEGORY = "of no category that is listed"
NO_MASK = "without a mask"
NO_AREA = "boxes without an area inside their images"


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


class _LeftOut(Exception):
    """Why an annotation is not used."""


class Objects:
    """Mends the annotations of a file.

    Args:
        images: Of the file.
        categories: Of the file.
        purpose: What they are for.
        tally: Counts.
    """

    def __init__(
        self, images: Entries, categories: Entries, purpose: Purpose, tally: Tally
    ) -> None:
        self._sizes = {image["id"]: size_of(image) for image in images}
        self._categories = {category["id"] for category in categories}
        self._purpose = purpose
        self._tally = tally

    def mend(self, things: Entries) -> Entries:
        """All that can be used.

        Raises:
            InputError: If one cannot be mended, or none is left of which some are needed.
        """
        self._tally.of(len(things))
        kept, used, crowds = [], 0, 0
        for place, thing in enumerate(things, 1):
            if self._is_ordinary(thing):
                crowd = thing["iscrowd"]
            else:
                name = name_of(thing, place)
                try:
                    thing = self._mended(thing, name)
                except _LeftOut as reason:
                    self._tally.leave_out(str(reason), name)
                    self._tally.changed = True
                    continue
                crowd = thing["iscrowd"]
                if self._purpose.training and not self._has_extent(thing):
                    # as it is: both frameworks leave it out themselves
                    self._tally.leave_out(NO_AREA, name)
                    crowd = None
            kept.append(thing)
            if thing["category_id"] in self._purpose.used:
                used += crowd == 0
                crowds += crowd == 1
        self._check_references(things)
        if not used and self._purpose.needed:
            self._refuse(things, crowds)
        self._check_pixels(kept)
        return self._with_ids(kept)

    def _is_ordinary(self, thing: dict[str, Any]) -> bool:
        """Whether there is nothing to do: nearly always so, and told quickly."""
        try:
            size = self._sizes[thing["image_id"]]
            height, width = size
            x, y, w, h = thing["bbox"]
            shape = thing.get("segmentation")
            return (
                thing["category_id"] in self._categories
                and type(thing["iscrowd"]) is int
                and 0 <= thing["iscrowd"] <= 1
                and 0 < w < math.inf
                and 0 < h < math.inf
                and -w < x < width
                and -h < y < height
                and 0 < thing["area"] < math.inf
                and (is_mask(shape, size) if shape else not self._purpose.masks)
                and "ignore" not in thing
                and "keypoints" not in thing
            )
        except (KeyError, TypeError, ValueError):
            return False

    def _mended(self, thing: dict[str, Any], name: str) -> dict[str, Any]:
        _known(self._sizes, thing.get("image_id"), NO_IMAGE)
        _known(self._categories, thing.get("category_id"), NO_CATEGORY)
        thing = {**thing, "iscrowd": self._iscrowd(thing, name)}
        if thing.get("ignore") and self._purpose.training:
            raise _LeftOut("to be ignored")
        size = self._sizes[thing["image_id"]]
        shape = self._shape(thing, size, name)
        if shape is None:
            thing.pop("segmentation", None)
        else:
            thing["segmentation"] = shape
        thing["bbox"] = self._box(thing, shape, size, name)
        thing["area"] = self._area(thing, shape, size, name)
        if thing.get("ignore", 0) != 0:
            del thing["ignore"]
            self._tally.mend("took the mark 'ignore' off {}", name)
        if "keypoints" in thing:
            self._mend_keypoints(thing, name)
        return thing

    def _iscrowd(self, thing: Mapping[str, Any], name: str) -> int:
        crowd = number_in(thing.get("iscrowd", ...))
        if crowd is ...:
            self._tally.mend("set iscrowd of {} to 0", name)
            return 0
        if type(crowd) is int and 0 <= crowd <= 1 and crowd is thing["iscrowd"]:
            return crowd
        if crowd is not None and not is_finite(crowd):
            raise self._refusal(name, f"iscrowd {_short(crowd)}", "give it 0 or 1")
        self._tally.mend("made iscrowd of {} 0 or 1", name)
        return int(bool(crowd))

    def _shape(self, thing: Mapping[str, Any], size: Any, name: str) -> Any:
        shape = thing.get("segmentation")
        mended = self._polygons(shape, name) if isinstance(shape, list) else shape
        if not mended:
            if not self._purpose.masks:
                return None
            if self._purpose.training:
                raise _LeftOut(NO_MASK)
            fault = "no polygon of three corners" if shape else "no mask"
            raise self._refusal(name, fault, self._purpose.without_masks)
        if size is None and isinstance(mended, Mapping) and is_size(mended.get("size")):
            size = mended["size"]
        if size is None:
            if not self._purpose.masks:
                return mended
            raise InputError(
                f"the image {thing['image_id']} of {self._tally.name} has no height and width, "
                f"which its masks need: write them into the file"
            )
        if is_mask(mended, size):
            return mended
        if self._purpose.masks:
            fault = f"a mask that is not whole, or not of its image's size, {list(size)}"
            raise self._refusal(name, fault, "write it again, or leave it out")
        self._tally.mend("left out the masks of {}, which are not whole and not needed", name)
        return None

    def _polygons(self, shape: list[Any], name: str) -> list[Any]:
        if shape and not any(isinstance(part, (list, Mapping)) for part in shape):
            self._tally.mend("made a list of polygons of the flat mask of {}", name)
            shape = [shape]
        whole = [part for part in shape if not _is_no_polygon(part)]
        if len(whole) < len(shape):
            self._tally.mend("left out polygons of less than three corners of {}", name)
        numbers = [numbers_in(part) for part in whole]
        if numbers != whole:
            self._tally.mend("made numbers of text in the mask of {}", name)
        return numbers

    def _box(self, thing: Mapping[str, Any], shape: Any, size: Any, name: str) -> list[Any]:
        box = thing.get("bbox")
        mended = numbers_in(box)
        fault = _fault_of_box(mended)
        if not fault:
            if mended != box:
                self._tally.mend("made numbers of text in the box of {}", name)
            return mended
        from_mask = _box_of(shape, size)
        if from_mask:
            self._tally.mend("computed the box of {} from the mask", name)
            return from_mask
        if self._purpose.training and fault in ("no box", "a box of a negative side"):
            raise _LeftOut(f"with {fault}")
        raise self._refusal(name, fault, "correct its 'bbox', or leave it out")

    def _area(self, thing: Mapping[str, Any], shape: Any, size: Any, name: str) -> Any:
        area = number_in(thing.get("area"))
        good = is_finite(area)
        if good and area > 0:
            if area is not thing["area"]:
                self._tally.mend("made the area of {} a number, which was text", name)
            return area
        of_box = thing["bbox"][2] * thing["bbox"][3]
        if good and area is thing["area"] and not of_box:
            return area
        self._tally.mend("computed the area of {}", name)
        return _area_of(shape, size) or of_box

    def _mend_keypoints(self, thing: dict[str, Any], name: str) -> None:
        points = numbers_in(thing["keypoints"])
        if not isinstance(points, list) or len(points) % 3 or not all(map(is_finite, points)):
            del thing["keypoints"]
            self._tally.mend("left out the keypoints of {}, which are not three numbers each", name)
        elif points != thing["keypoints"]:
            thing["keypoints"] = points
            self._tally.mend("made numbers of text in the keypoints of {}", name)

    def _has_extent(self, thing: Mapping[str, Any]) -> bool:
        x, y, w, h = thing["bbox"]
        height, width = self._sizes[thing["image_id"]] or (math.inf, math.inf)
        return min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)

    def _check_references(self, things: Entries) -> None:
        """Refuse a file in which the annotations are all of other images than it lists."""
        if things and self._tally.left_out.get(NO_IMAGE) == len(things):
            listed, said = next(iter(self._sizes)), things[0].get("image_id")
            raise InputError(
                f"no annotation of {self._tally.name} is of an image that it lists: the ids of "
                f"images are like {listed!r} and the annotations name {_short(said)}, so make them "
                f"the same"
            )

    def _check_pixels(self, things: Entries) -> None:
        """Refuse boxes of which none is longer than a pixel: they are in fractions of the image."""
        if things and all(max(thing["bbox"]) <= 1 for thing in things):
            raise InputError(
                f"all boxes of {self._tally.name} are within one pixel, the first is "
                f"{_short(things[0]['bbox'])}: write x, y, width and height in pixels, not in "
                f"fractions of the image"
            )

    def _with_ids(self, things: Entries) -> Entries:
        taken = [thing.get("id") for thing in things]
        if all(type(key) is int for key in taken) and len(set(taken)) == len(taken):
            return things
        seen: set[Any] = set()
        keys = []
        for key in map(number_in, taken):
            good = not isinstance(key, bool) and is_finite(key) and key not in seen
            keys.append(key if good else None)
            seen |= {key} if good else set()
        following = int(max(seen, default=0)) + 1
        mended = []
        for thing, key in zip(things, keys):
            if key is None:
                key, following = following, following + 1
            if key is not thing.get("id"):
                self._tally.mend("numbered {} anew", f"id {key}")
                thing = {**thing, "id": key}
            mended.append(thing)
        return mended

    def _refuse(self, things: Entries, crowds: int) -> None:
        what = "learn from" if self._purpose.training else "evaluate by"
        left_out = self._tally.left_out
        reasons = [f"{count} are {reason}" for reason, count in left_out.items()]
        reasons += [f"{crowds} are crowds"] * bool(crowds)
        said = f"of its {len(things)} annotations, {', '.join(reasons)}"
        if not reasons:
            said = "no annotation is of a category that is used" if things else "no annotations"
        way_out = "complete or correct it"
        if NO_MASK in left_out and len(reasons) == 1:
            way_out = self._purpose.without_masks
        raise InputError(f"{self._tally.name} has nothing to {what} ({said}): {way_out}")

    def _refusal(self, name: str, fault: str, way_out: str) -> InputError:
        name = name.removeprefix("id ")
        return InputError(f"the annotation {name} of {self._tally.name} has {fault}: {way_out}")


def _known(ids: Collection[Any], key: Any, reason: str) -> None:
    try:
        if key in ids:
            return
    except TypeError:
        pass
    raise _LeftOut(reason)


def _fault_of_box(box: Any) -> str:
    if box is None or box in ([], ""):
        return "no box"
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, box)):
        return f"the box {_short(box)}, not four numbers x, y, width and height"
    return "a box of a negative side" if min(box[2:]) < 0 else ""


def _is_no_polygon(part: Any) -> bool:
    return isinstance(part, list) and (len(part) < 6 or len(part) % 2 == 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _box_of(shape: Any, size: Any) -> list[float] | None:
    """The box about a mask; about the corners of polygons, inside the image, as COCO has them."""
    if isinstance(shape, Mapping):
        from pycocotools import mask as coco_mask

        box = coco_mask.toBbox(_encoded(shape, size or shape["size"])).tolist()
        return box if min(box[2:]) > 0 else None
    if not shape:
        return None
    xs = [x for part in shape for x in part[::2]]
    ys = [y for part in shape for y in part[1::2]]
    height, width = size or (math.inf, math.inf)
    left, right = (min(max(x, 0), width) for x in (min(xs), max(xs)))
    top, low = (min(max(y, 0), height) for y in (min(ys), max(ys)))
    return [left, top, right - left, low - top] if left < right and top < low else None


def _area_of(shape: Any, size: Any) -> float:
    """How many pixels a mask has; 0 where there is none."""
    if shape is None or (size is None and not isinstance(shape, Mapping)):
        return 0.0
    from pycocotools import mask as coco_mask

    return float(coco_mask.area(_encoded(shape, size or shape["size"])))


def _encoded(shape: Any, size: Sequence[int]) -> Any:
    from pycocotools import mask as coco_mask

    if isinstance(shape, list):
        return coco_mask.merge(coco_mask.frPyObjects(shape, *size))
    if isinstance(shape["counts"], list):
        return coco_mask.frPyObjects(shape, *size)
    return shape
