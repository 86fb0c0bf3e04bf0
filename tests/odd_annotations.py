"""Small sets whose annotation files have up to four oddities that users' files have, from a seed.

Each oddity is known to be mended, to cost its annotations, or to be refused; so what a run is to
read is known from the set as it was before, which shares no code with what mends it.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 96, 64
CATEGORIES = [{"id": 3, "name": "box"}, {"id": 7, "name": "bar"}]
_CROWD = 500  # the id of the crowd
PARTS = {"train": 4, "val": 3}
# What was stored with each EXIF orientation is turned back by it.
_STORED = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1), 6: lambda p: p.swapaxes(0, 1)[::-1],
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1), 8: lambda p: p.swapaxes(0, 1)[:, ::-1],
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """What a run does with a file.

    Attributes:
        training: Whether it learns from it; else it evaluates by it.
        masks: Whether masks are used.
        images: Whether the folder of the images is known.
    """

    training: bool
    masks: bool
    images: bool = True


ORDINARY, MENDED, NOT_USED, REFUSED = "ordinary", "repaired", "some not used", "refused"
OUTCOMES = (ORDINARY, MENDED, NOT_USED, REFUSED)
Outcome = Callable[[Use], str]


@dataclass
class OddFile:
    """An annotation file with oddities.

    Attributes:
        path: Of the file.
        clean: Its content before.
        oddities: Their names.
        outcomes: What each comes to, by use.
        lost: By use, the positions in ``clean`` of the annotations that an oddity costs.
    """

    path: Path
    clean: dict[str, Any]
    oddities: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    lost: list[tuple[Outcome, list[int]]] = field(default_factory=list)

    def outcome(self, use: Use) -> str:
        """ORDINARY, MENDED, NOT_USED or REFUSED, the worst of all oddities."""
        return max((of(use) for of in self.outcomes), key=OUTCOMES.index, default=ORDINARY)

    def left(self, use: Use) -> list[dict[str, Any]]:
        """The clean annotations that the file is to have for a use, in order."""
        gone = {i for of, places in self.lost if of(use) == NOT_USED for i in places}
        return [thing for i, thing in enumerate(self.clean["annotations"]) if i not in gone]


class OddSet(dict):
    """The files of a set by part: ``"train"`` and ``"val"``."""

    def refused(self, masks: bool, parts: Iterable[str] = PARTS) -> bool:
        """Whether a detector cannot train on ``train`` or be evaluated on ``val``."""
        uses = {part: Use(part == "train", masks) for part in parts}
        return any(self[part].outcome(use) == REFUSED for part, use in uses.items())

    def names(self) -> str:
        """All oddities, to be printed."""
        return "; ".join(f"{part}: {', '.join(file.oddities)}" for part, file in self.items())


def write_odd_annotations(root: Path, seed: int, most: int = 4) -> OddSet:
    """Write a COCO-format set with COCO's own names, whose annotation files may be odd.

    Args:
        root: Folder to make.
        seed: Decides all.
        most: Oddities of a file.

    Returns:
        Its files, and what is to come of each.
    """
    chance = random.Random(f"odd annotations {seed}")
    files = OddSet()
    (root / "annotations").mkdir(parents=True)
    for part, count in PARTS.items():
        clean = _write_images(root / f"{part}2017", count, chance)
        path = root / "annotations" / f"instances_{part}2017.json"
        in_text = random.Random(f"ids {seed} {part}").random() < 0.15
        files[part] = _write_odd(path, clean, chance, chance.randrange(most + 1), in_text)
    return files


def _write_images(folder: Path, count: int, chance: random.Random) -> dict[str, Any]:
    """Noise with three dark rectangles an image, some stored turned; and its annotations."""
    folder.mkdir()
    rng = np.random.default_rng(chance.randrange(2**31))
    images, things = [], []
    for number in range(1, count + 1):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        key = 10 * number + 1
        for left in (3, 35, 65):
            x, y = left + chance.randrange(4), chance.randrange(3, 24)
            w, h = chance.randrange(12, 25), chance.randrange(12, 36)
            pixels[y : y + h, x : x + w] //= 4
            things.append(_thing(len(things) + 1, key, [x, y, w, h], chance))
        orientation = chance.choice((1, 1, *range(1, 9)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = np.ascontiguousarray(_STORED[orientation](pixels))
        Image.fromarray(stored).save(folder / f"{number}.jpg", exif=exif)
        images.append({"id": key, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, 2 * HEIGHT, (WIDTH - 2) * HEIGHT]}
    things.append(
        {
            **things[0], "id": _CROWD, "iscrowd": 1, "bbox": [0, 0, 2, HEIGHT],
            "area": 2 * HEIGHT, "segmentation": crowd,
        }
    )  # fmt: skip
    return {"images": images, "annotations": things, "categories": copy.deepcopy(CATEGORIES)}


def _thing(key: int, image: int, box: list[int], chance: random.Random) -> dict[str, Any]:
    x, y, w, h = box
    shape: Any = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {
        "id": key, "image_id": image, "category_id": chance.choice(CATEGORIES)["id"],
        "bbox": box, "area": w * h, "iscrowd": 0, "segmentation": shape,
    }  # fmt: skip


def _write_odd(
    path: Path, clean: dict[str, Any], chance: random.Random, count: int, in_text: bool
) -> OddFile:
    content = copy.deepcopy(clean)
    file = OddFile(path, clean)
    # Those of one annotation more often: many of the others are refused.
    names = [chance.choice([*(EACH if chance.random() < 0.7 else WHOLE)]) for _ in range(count)]
    # One that meddles with a list; those of all annotations leave no room for those of one.
    whole = {WHOLE[name][0]: name for name in names if name in WHOLE}
    free = [i for i, thing in enumerate(clean["annotations"]) if not thing["iscrowd"]]
    chance.shuffle(free)
    for name in names if "all" not in whole else ():
        if name not in EACH:
            continue
        edit, outcome = EACH[name]
        places = [free.pop() for _ in range(chance.randrange(1, 3))]
        for place in places:
            edit(content["annotations"][place], chance)
            if name in AS_IT_IS:
                clean["annotations"][place]["bbox"] = content["annotations"][place]["bbox"]
        if name not in AS_IT_IS:
            file.lost.append((outcome, places))
        file.oddities.append(name)
        file.outcomes.append(outcome)
    for subject in SUBJECTS:
        if subject in whole:
            name = whole[subject]
            WHOLE[name][1](content, chance)
            if name in AS_IT_IS:
                for thing, odd in zip(clean["annotations"], content["annotations"]):
                    thing["bbox"] = odd["bbox"]
            file.oddities.append(name)
            file.outcomes.append(WHOLE[name][2])
    if in_text and not any("image" in name or "category" in name for name in file.oddities):
        _all_in_text(content)
        file.oddities.append("all ids as text")
        file.outcomes.append(_always(ORDINARY))
    encoding = "utf-8"
    if chance.random() < 0.1:
        encoding = chance.choice(("utf-8-sig", "utf-16"))
        file.oddities.append(encoding)
        file.outcomes.append(_always(MENDED))
    path.write_bytes(json.dumps(content).encode(encoding))
    return file


# --- what comes of an oddity ---------------------------------------------------------------------


def _always(outcome: str) -> Outcome:
    return lambda use: outcome


def _by_use(training: str, evaluation: str) -> Outcome:
    return lambda use: training if use.training else evaluation


def _if_masks(of: Outcome, without: str) -> Outcome:
    return lambda use: of(use) if use.masks else without


_MENDED, _REFUSED = _always(MENDED), _always(REFUSED)
_COSTS_A_LEARNER = _by_use(NOT_USED, REFUSED)

# --- of one annotation ---------------------------------------------------------------------------

Edit = Callable[[dict[str, Any], random.Random], Any]


def _set(**values: list[Any]) -> Edit:
    """Give fields one of some values each; ``...`` takes a field away."""

    def edit(thing: dict[str, Any], chance: random.Random) -> None:
        for key, choices in values.items():
            value = copy.deepcopy(chance.choice(choices))
            thing.pop(key, None)
            if value is not ...:
                thing[key] = value

    return edit


def _as_text(*keys: str) -> Edit:
    def edit(thing: dict[str, Any], chance: random.Random) -> None:
        for key in keys:
            if isinstance(thing.get(key), list):
                thing[key] = [*map(str, thing[key])]
            elif isinstance(thing.get(key), int):
                thing[key] = str(thing[key])

    return edit


def _corners_as_text(thing: dict[str, Any], chance: random.Random) -> None:
    thing["segmentation"] = [[*map(str, part)] for part in thing["segmentation"]]


def _flat(thing: dict[str, Any], chance: random.Random) -> None:
    thing["segmentation"] = thing["segmentation"][0]


def _more_polygons(thing: dict[str, Any], chance: random.Random) -> None:
    odd = ([], [5, 5], [1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7])
    thing["segmentation"].insert(chance.randrange(2), chance.choice(odd))


def _rle(thing: dict[str, Any], chance: random.Random) -> None:
    (rle,) = coco_mask.frPyObjects(thing["segmentation"], HEIGHT, WIDTH)
    thing["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode()}


_NO_MASK: list[Any] = [..., None, []]
_FEW = [[[1, 2, 3, 4]], [[]], [[1, 2, 3, 4, 5, 6, 7], [5, 5]]]
_NO_BOX: list[Any] = [..., None, []]
_NEGATIVE = [[50, 40, -10, 12], [50, 40, 10, -12], [9, 9, -1, -1]]
_NO_NUMBERS: list[Any] = [
    [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, math.nan], [math.inf, 1, 2, 3], ["a", 1, 2, 3], {"x": 1},
    "5 5 9 9", 7, [[1, 2, 3, 4]], [None] * 4,
]  # fmt: skip
_NO_AREA: list[Any] = [..., None, 0, -5, math.nan, "large", [3]]
_BROKEN: list[Any] = [
    {"size": [WIDTH, HEIGHT], "counts": [9, WIDTH * HEIGHT - 9]}, {"size": [HEIGHT, WIDTH]},
    {"size": [HEIGHT, WIDTH], "counts": [9, 9]}, {"size": [HEIGHT, WIDTH], "counts": "oooo"},
    [[1, 1, 1e9, 1, 1e9, 1e9]], [[math.nan] * 6], "mask.png", 7, [["a"] * 6],
]  # fmt: skip
_NOWHERE = [[200, 5, 10, 10], [-30, 5, 20, 20], [5, 64, 10, 10], [5, -9, 9, 9]]

EACH: dict[str, tuple[Edit, Outcome]] = {
    "no area": (_set(area=_NO_AREA), _MENDED),
    "area as text": (_as_text("area"), _MENDED),
    "box as text": (_as_text("bbox"), _MENDED),
    "id as text": (_as_text("id"), _MENDED),
    "no id": (_set(id=[..., None, [1], {}, math.nan, "a"]), _MENDED),
    "id of another": (_set(id=[_CROWD]), _MENDED),
    "no iscrowd": (_set(iscrowd=[..., None, False, "0", 0.0]), _MENDED),
    "image and category as text": (_as_text("image_id", "category_id"), _MENDED),
    "flat mask": (_flat, _MENDED),
    "polygons of few corners beside": (_more_polygons, _MENDED),
    "corners as text": (_corners_as_text, _MENDED),
    "RLE": (_rle, _always(ORDINARY)),
    "no box": (_set(bbox=[*_NO_BOX, *_NEGATIVE, *_NO_NUMBERS]), _MENDED),
    "no box and no area": (_set(bbox=[*_NO_BOX, *_NEGATIVE], area=_NO_AREA), _MENDED),
    "no mask": (
        _set(segmentation=_NO_MASK), _if_masks(_COSTS_A_LEARNER, ORDINARY),
    ),
    "polygons of few corners": (_set(segmentation=_FEW), _if_masks(_COSTS_A_LEARNER, MENDED)),
    "broken mask": (_set(segmentation=_BROKEN), _if_masks(_REFUSED, MENDED)),
    "no box and no mask": (
        _set(bbox=[*_NO_BOX, *_NEGATIVE], segmentation=_NO_MASK), _COSTS_A_LEARNER,
    ),
    "box of no numbers": (
        _set(bbox=_NO_NUMBERS, segmentation=_NO_MASK),
        lambda use: NOT_USED if use.training and use.masks else REFUSED,
    ),
    "box of no width": (_set(bbox=[[5, 5, 0, 9], [5, 5, 9, 0.0]]), _by_use(NOT_USED, ORDINARY)),
    "box outside": (_set(bbox=_NOWHERE), _by_use(NOT_USED, ORDINARY)),
    "unknown image": (_set(image_id=[..., 99, "x", None, [1], {}]), _always(NOT_USED)),
    "unknown category": (_set(category_id=[..., 99, "x", None, [1], {}]), _always(NOT_USED)),
    "to be ignored": (_set(ignore=[1, True]), _by_use(NOT_USED, MENDED)),
    "ignore is null": (_set(ignore=[None]), _MENDED),
    "iscrowd is no number": (_set(iscrowd=["yes", [1], {}]), _REFUSED),
    "odd keypoints": (_set(keypoints=[["a"] * 3, [1, 2], 5, {}, [None] * 3]), _MENDED),
}  # fmt: skip

# --- of a whole file ------------------------------------------------------------------------------

SUBJECTS = ("image ids", "category ids", "sizes", "images", "categories", "all")  # in this order
# What stays in the file as it is, where nobody can tell what was meant.
AS_IT_IS = ("box of no width", "box outside", "only boxes of no width")


def _all(what: str, edit: Edit) -> Edit:
    def edit_all(content: dict[str, Any], chance: random.Random) -> None:
        for entry in content[what]:
            edit(entry, chance)

    return edit_all


def _one(what: str, edit: Edit) -> Edit:
    return lambda content, chance: edit(chance.choice(content[what]), chance)


def _twice(what: str) -> Edit:
    return lambda content, chance: content[what].append(chance.choice(content[what]))


def _same_id(what: str, change: dict[str, Any]) -> Edit:
    return lambda content, chance: content[what].append({**content[what][0], **change})


def _text_alone(thing: dict[str, Any], chance: random.Random) -> None:
    thing["image_id"] = f"a{thing.get('image_id')}"


def _no_crowd(thing: dict[str, Any], chance: random.Random) -> None:
    if not thing["iscrowd"]:
        del thing["iscrowd"]


def _all_in_text(content: dict[str, Any]) -> None:
    """Write ids as text in all lists, which then agree, so that each is the name it was."""
    for key, what in (("image_id", "images"), ("category_id", "categories")):
        for entry in content[what]:
            entry["id"] = str(entry["id"])
        for thing in content.get("annotations", ()):
            if isinstance(thing, dict):
                thing[key] = str(thing[key])


def _turned(image: dict[str, Any], chance: random.Random) -> None:
    image["height"], image["width"] = image["width"], image["height"]


def _fractions(thing: dict[str, Any], chance: random.Random) -> None:
    thing["bbox"] = [v / s for v, s in zip(thing["bbox"], (WIDTH, HEIGHT) * 2)]
    thing.pop("segmentation")


_text_ids = _all("images", _as_text("id"))
_NO_SIZE: list[Any] = [..., None, 0, "wide", -5, 0.5, [3]]

WHOLE: dict[str, tuple[str, Edit, Outcome]] = {
    "image ids as text in images": ("image ids", _text_ids, _MENDED),
    "image ids as text in annotations": (
        "image ids", _all("annotations", _as_text("image_id")), _MENDED,
    ),
    "category ids as text in categories": (
        "category ids", _all("categories", _as_text("id")), _MENDED,
    ),
    "category ids as text in annotations": (
        "category ids", _all("annotations", _as_text("category_id")), _MENDED,
    ),
    "image ids of another set": ("image ids", _all("annotations", _text_alone), _REFUSED),
    "no sizes": (
        "sizes", _all("images", _set(height=_NO_SIZE, width=_NO_SIZE)),
        lambda use: MENDED if use.images else REFUSED if use.masks else ORDINARY,
    ),
    "sizes as text": ("sizes", _all("images", _as_text("height", "width")), _MENDED),
    "sizes with a point": ("sizes", _all("images", _set(height=[64.0])), _MENDED),
    "swapped sizes": (
        "sizes", _one("images", _turned), lambda use: REFUSED if use.images else ORDINARY,
    ),
    "an image twice": ("images", _twice("images"), _MENDED),
    "a category twice": ("categories", _twice("categories"), _MENDED),
    "two images of one id": ("images", _same_id("images", {"width": 5}), _REFUSED),
    "two categories of one id": ("categories", _same_id("categories", {"name": "a"}), _REFUSED),
    "an image without a name": ("images", _one("images", _set(file_name=[...])), _REFUSED),
    "an image without an id": ("images", _one("images", _set(id=[..., None, [1]])), _REFUSED),
    "a category without a name": ("categories", _one("categories", _set(name=[...])), _REFUSED),
    "a category without an id": ("categories", _one("categories", _set(id=[..., None])), _REFUSED),
    "no area at all": ("all", _all("annotations", _set(area=[0, ...])), _MENDED),
    "no iscrowd at all": ("all", _all("annotations", _no_crowd), _MENDED),
    "only crowds": ("all", _all("annotations", _set(iscrowd=[1])), _REFUSED),
    "only boxes of no width": (
        "all", _all("annotations", _set(bbox=[[5, 5, 0, 9]], segmentation=[...])),
        lambda use: REFUSED if use.training or use.masks else ORDINARY,
    ),
    "no annotations": ("all", lambda content, chance: content.update(annotations=[]), _REFUSED),
    "no list of annotations": (
        "all", lambda content, chance: content.pop("annotations"), _REFUSED,
    ),
    "no mask at all": (
        "all", _all("annotations", _set(segmentation=[...])), _if_masks(_REFUSED, ORDINARY),
    ),
    "boxes in fractions": ("all", _all("annotations", _fractions), _REFUSED),
    "annotations that are none": (
        "all", lambda content, chance: content["annotations"].append(chance.choice([5, None])),
        _REFUSED,
    ),
}  # fmt: skip
