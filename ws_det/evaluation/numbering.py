"""Truth and predictions in one form for all back ends, checked once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ws_det.errors import InputError
from ws_det.masks import is_box, is_finite, is_mask, is_size
from ws_det.mending.entries import number_in, numbers_in

FIELDS = {"bbox": "bbox", "segm": "segmentation"}  # what a kind is evaluated by
_FORMAT = "it must be in COCO's format"
_OTHER_SET = "give the annotation file that the predictions were made for"


@dataclass(frozen=True)
class Truth:
    """Annotations whose ids are numbers from 1, in the order in which pycocotools takes them.

    The order decides between equal scores and between equal overlaps, so the numbers keep it,
    whatever the ids are: texts, fractions, the same one twice, or 0, which pycocotools takes for
    "not found".

    Attributes:
        content: ``images``, ``categories`` and ``annotations``, with what the kind needs.
        images: Number of each image by its id; None where it is not evaluated.
        sizes: Height and width of each image by its number.
        categories: Number of each category by its id.
        names: Of the categories, in the order of their numbers.
    """

    content: dict[str, Any]
    images: dict[Any, int | None]
    sizes: dict[int, list[int]]
    categories: dict[Any, int]
    names: list[str]


def number_truth(
    content: Mapping[str, Any], kind: str, image_ids: Collection[Any] | None = None
) -> Truth:
    """Number images and categories in the order of their ids, annotations in that of the file.

    Args:
        content: COCO annotations, mended for an evaluation of the kind.
        kind: ``"bbox"`` or ``"segm"``.
        image_ids: Those to evaluate, else all.

    Raises:
        InputError: If an image has no size and masks need one.
    """
    chosen = None if image_ids is None else set(image_ids)
    images = _by_id(content["images"])
    categories = _by_id(content["categories"])
    numbers: dict[Any, int | None] = dict.fromkeys(images)
    evaluated = [i for i in images if chosen is None or i in chosen]
    numbers.update({image: number for number, image in enumerate(evaluated, 1)})
    classes = {category: number for number, category in enumerate(categories, 1)}
    sizes = {}
    for image in evaluated:
        size = [images[image].get("height"), images[image].get("width")]
        if kind == "segm" and not is_size(size):
            raise InputError(f"the image {image} of the annotations has no size: {_FORMAT}")
        sizes[numbers[image]] = [int(side) for side in size] if kind == "segm" else [0, 0]
    field = FIELDS[kind]
    annotations = []
    for annotation in content.get("annotations", ()):
        image = numbers[annotation["image_id"]]
        category = classes[annotation["category_id"]]
        if image is None:
            continue
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": category,
                field: annotation[field],
                "area": annotation["area"],
                "iscrowd": annotation["iscrowd"],
            }
        )
    return Truth(
        {
            "images": [{"id": n, "height": h, "width": w} for n, (h, w) in sizes.items()],
            "categories": [{"id": n, "name": str(n)} for n in classes.values()],
            "annotations": annotations,
        },
        numbers,
        sizes,
        classes,
        unique_names({i: c["name"] for i, c in categories.items()}),
    )


def number_predictions(
    found: Sequence[Mapping[str, Any]], truth: Truth, kind: str
) -> list[dict[str, Any]]:
    """Give predictions the numbers of their truth.

    Args:
        found: COCO results.
        truth: What they are compared with.
        kind: ``"bbox"`` or ``"segm"``. Masks come without boxes, so that their own area counts.

    Raises:
        InputError: If one is of an unknown image or category, or has no finite score and no
            finite box or compressed mask of its image's size.
    """
    numbered = []
    for place, entry in enumerate(found, 1):
        image, category, score = (entry.get(k) for k in ("image_id", "category_id", "score"))
        score = number_in(score)
        image, category = of_id(truth.images, image), of_id(truth.categories, category)
        if image is None or category is None:
            raise InputError(
                f"the prediction {place} is of the image {entry.get('image_id')} and the category "
                f"{entry.get('category_id')}, which the annotations do not both have: {_OTHER_SET}"
            )
        number = truth.images[image]
        if number is None:
            continue
        prediction = {"image_id": number, "category_id": truth.categories[category]}
        if not is_finite(score):
            raise InputError(
                f"the prediction {place}, of the image {image}, has the score {score}: find out "
                f"why the detector gives no number"
            )
        prediction["score"] = float(score)
        if kind == "bbox":
            box = numbers_in(entry.get("bbox"))
            if not is_box(box):
                raise InputError(
                    f"the prediction {place}, of the image {image}, has the box {box}, not four "
                    f"numbers x, y, width and height: leave --kinds bbox out, or write it again"
                )
            prediction["bbox"] = [float(value) for value in box]
        else:
            prediction["segmentation"] = _mask(entry, place, truth.sizes[number])
        numbered.append(prediction)
    return numbered


def of_id(ids: Collection[Any], key: Any) -> Any:
    """The one of some ids that a file means: the same number may be written as text; or None."""
    try:
        if key in ids:
            return key
    except TypeError:
        return None
    other = number_in(key) if isinstance(key, str) else str(key)
    return other if other in ids else None


def lookup(by_id: Mapping[Any, Any], key: Any) -> Any:
    """What has an id, or None; a file may have a list for one."""
    try:
        return by_id.get(key)
    except TypeError:
        return None


def unique_names(names: Mapping[Any, str]) -> list[str]:
    """The names of categories by id, with the id in a name that two have."""
    all_names = list(names.values())
    return [f"{n} ({i})" if all_names.count(n) > 1 else str(n) for i, n in names.items()]


def _by_id(entries: Sequence[Mapping[str, Any]]) -> dict[Any, Mapping[str, Any]]:
    return {entry["id"]: entry for entry in sorted(entries, key=lambda entry: entry["id"])}


def _mask(entry: Mapping[str, Any], place: int, size: Sequence[int]) -> dict[str, Any]:
    mask = entry.get("segmentation")
    counts = mask.get("counts") if isinstance(mask, Mapping) else None
    if not isinstance(counts, (str, bytes)):
        raise InputError(
            f"the prediction {place} has no mask in compressed RLE: leave --kinds segm out, or "
            f"encode it with pycocotools.mask"
        )
    if not is_mask(mask, size):
        raise InputError(
            f"the prediction {place} has a mask of the size {mask.get('size')} that is not whole "
            f"or not of its image's size, {size}: {_OTHER_SET}, or encode it again"
        )
    return {
        "size": list(mask["size"]),
        "counts": counts.decode() if isinstance(counts, bytes) else counts,
    }
