"""What MMDetection leaves out of a set that it learns from, without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ws_det.errors import InputError

Entries = Sequence[Mapping[str, Any]]


def note_left(
    dataset: Any, path: str, content: Mapping[str, Any], classes: Sequence[str], needed: bool
) -> list[str]:
    """Count the objects that a model does not learn from, by the reason.

    ``ws_det.annotations`` counts those with no area inside their image; crowds are no objects.

    Args:
        dataset: Its config.
        path: Of its annotation file.
        content: Of the file, mended.
        classes: That are used.
        needed: Whether a set without objects is refused.

    Returns:
        A phrase, or none.

    Raises:
        InputError: If nothing is left.
    """
    used = {entry["id"] for entry in content["categories"] if entry["name"] in classes}
    things = [t for t in content.get("annotations", []) if t["category_id"] in used]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    unseen = _unseen(dataset, path, content["images"], {thing["image_id"] for thing in things})
    reasons: Counter[str] = Counter()
    first, learned = None, 0
    for thing in things:
        if thing["iscrowd"] or thing.get("ignore") or not _extent(thing, sizes[thing["image_id"]]):
            continue
        reason = unseen.get(thing["image_id"])
        if not reason and min(thing["bbox"][2:]) < 1:
            reason = "with a box of less than a pixel"
        if not reason:
            learned += 1
            continue
        first = thing["id"] if first is None else first
        reasons[reason] += 1
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    if not learned and (needed or things):
        raise InputError(
            f"{path} has nothing to learn from (MMDetection leaves out {listed or 'all'}): "
            f"give it objects, or correct the dataset's filter_cfg and indices"
        )
    count = sum(reasons.values())
    return [f"MMDetection leaves out {listed} (the first is id {first})"] if count else []


def _extent(thing: Mapping[str, Any], size: tuple[int, int]) -> bool:
    x, y, w, h = thing["bbox"]
    return min(x + w, size[1]) > max(x, 0) and min(y + h, size[0]) > max(y, 0)


def _unseen(dataset: Any, path: str, images: Entries, busy: Collection[Any]) -> dict[Any, str]:
    """Why a dataset leaves images out, by their ids: by ``filter_cfg``, then by ``indices``.

    Args:
        dataset: Its config.
        path: Of its annotation file.
        images: Of the file.
        busy: Ids of those with any object of a class that is used.

    Raises:
        InputError: If it names images by indices that there are not.
    """
    rules = dataset.get("filter_cfg") or {}
    smallest = rules.get("min_size", 0)
    small = {i["id"] for i in images if min(i["height"], i["width"]) < smallest}
    reasons = dict.fromkeys(small, f"in images smaller than filter_cfg.min_size={smallest}")
    kept = [i["id"] for i in images if i["id"] not in small]
    if rules.get("filter_empty_gt"):
        kept = [key for key in kept if key in busy]
    taken = check_indices(dataset, path, kept)
    return reasons | dict.fromkeys(set(kept) - taken, "in images that indices do not name")


def check_indices(dataset: Any, path: str, kept: Sequence[Any]) -> set[Any]:
    """The ids of the images that a dataset takes, of those that it has not left out.

    Args:
        dataset: Its config.
        path: Of its annotation file.
        kept: The ids, in order.

    Raises:
        InputError: If its ``indices`` name others.
    """
    indices = dataset.get("indices")
    try:
        return set(kept if indices is None else _at(kept, indices))
    except (IndexError, TypeError):
        raise InputError(
            f"the indices {str(indices)[:80]} of the dataset are not those of the {len(kept)} "
            f"images of {path} that it has: correct them"
        ) from None


def _at(kept: Sequence[Any], indices: Any) -> Sequence[Any]:
    if isinstance(indices, int):
        return kept[:indices] if indices >= 0 else kept[indices:]
    return [kept[index] for index in indices]
