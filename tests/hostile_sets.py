"""Annotation files and predictions that are made to hurt, from a seed.

Each is a good file with up to three faults in it: paths, code, pages' code, other types, numbers
that are too large or none, things twice or left out; or its bytes are cut, flipped or no text.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

SECRET = (250, 10, 130)  # of an image that nobody may read
PAGE = '</script><script>document.title="owned"</script><img src=x onerror=alert(1)>'
WIDTH, HEIGHT = 30, 20


class Reduced:
    """Calls something when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        function, *arguments = self.call
        return function, tuple(arguments)


class InState:
    """Has a state to be set."""


class Place:
    """Folders of a fuzz: what the cases are given, and canaries beside it that nobody may touch."""

    def __init__(self, root: Path) -> None:
        self.given, self.canary = root / "given", root / "canary"
        self.images = self.given / "images"
        self.out = root / "out"
        for folder in (self.images / "cam1", self.canary, self.out):
            folder.mkdir(parents=True)
        for name in ("a.png", "cam1/b.png", "c.png"):
            Image.new("RGB", (WIDTH, HEIGHT), (90, 90, 90)).save(self.images / name)
        Image.new("RGB", (WIDTH, HEIGHT), SECRET).save(self.canary / "secret.png")
        os.mkfifo(self.images / "pipe.png")
        (self.images / "bomb.png").write_bytes(
            bytes.fromhex("89504e470d0a1a0a0000000d49484452 0000ffff0000ffff 0802000000 00000000")
        )
        self.made = self.canary / "made"  # what code in a file tries to make


def rle(left: int, top: int, width: int, height: int) -> dict[str, Any]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    coded = coco_mask.encode(mask)
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def good() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and results of three images."""
    images = [
        {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH, "coco_url": "http://x/a.png"}
        for i, name in enumerate(("a.png", "cam1/b.png", "c.png"), 1)
    ]
    things, found = [], []
    for number in range(9):
        left, top = 2 + number, 3 + number % 4
        thing = {"image_id": number % 3 + 1, "category_id": (7, 3)[number % 2]}
        thing["bbox"] = [left, top, 9, 8]
        found.append({**thing, "score": 0.95 - number / 20, "segmentation": rle(left, top, 9, 8)})
        corners = [left, top, left + 9, top, left + 9, top + 8, left, top + 8]
        shape: Any = [corners] if number % 3 else rle(left, top, 9, 8)
        if number == 4:
            shape = {"size": [HEIGHT, WIDTH], "counts": [100, 40, HEIGHT * WIDTH - 140]}
        things.append(
            {**thing, "id": number + 1, "area": 72, "iscrowd": int(number == 4)}
            | {"segmentation": shape}
        )
    categories = [{"id": 7, "name": "bar"}, {"id": 3, "name": "box"}]
    return {"images": images, "annotations": things, "categories": categories}, found


def saved_by_mmdet(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    images = []
    for image in (1, 2, 3):
        here = [entry for entry in found if entry["image_id"] == image]
        boxes = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in here)]
        instances = {
            "bboxes": torch.tensor(boxes, dtype=torch.float32),
            "labels": torch.tensor([(7, 3).index(entry["category_id"]) for entry in here]),
            "scores": torch.tensor([entry["score"] for entry in here]),
            "masks": [entry["segmentation"] for entry in here],
        }
        images.append({"img_id": image, "ori_shape": (HEIGHT, WIDTH), "pred_instances": instances})
    return images


def saved_by_detectron2(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "instances": [
                {**entry, "category_id": (3, 7).index(entry["category_id"])}
                for entry in found
                if entry["image_id"] == image
            ],
        }
        for image in (1, 2, 3)
    ]


FORMS: dict[str, Callable[..., Any]] = {
    "json": list,
    "pkl": saved_by_mmdet,
    "pth": saved_by_detectron2,
}


# --- faults in what a file says -----------------------------------------------------------------


def odd(chance: random.Random, place: Place) -> Any:
    """Something in the place of something else."""
    mkdir = f"__import__('os').mkdir({str(place.made)!r})"
    nested: Any = 1
    for _ in range(chance.choice((3, 50, 500))):
        nested = chance.choice(([nested], {"a": nested}))
    return chance.choice(
        (
            # paths
            *("../../canary/secret.png", str(place.canary / "secret.png"), "/etc/passwd", ".."),
            *("", ".", "cam1", "pipe.png", "bomb.png", "/dev/zero", "a.png\0", "~/a.png"),
            "x" * 5000,
            *("http://127.0.0.1:9/a.png", "file:///etc/passwd", "a.png/../../../canary/secret.png"),
            # code
            *(mkdir, f"eval({mkdir!r})", f"!!python/object/apply:os.mkdir [{place.made}]"),
            *("$(touch made)", "`touch made`", "%s%s%n", "${oc.env:HOME}", "{{ fileDirname }}"),
            *(PAGE, "<b>", "&lt;", "\u2028\u2029", "$x^{$", "\\frac", "\ud800", "\x1b[2J", "a\nb"),
            "{title}$data$", "-->", "]]>", "\u202e", "é" * 300,
            # types and numbers
            None, True, False, [], {}, [[]], [{}], {"": 0}, nested, 0, -1, 1, 3, 7, 0.5, -0.0,
            1e-320, 1e300, 1e308, -1e308, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**30, 10**400,
            math.nan, math.inf, -math.inf, "1", "nan", "1e999", [1, 2, 3, 4], [math.nan] * 4,
            [1e308] * 4, ["a"] * 4, [0, 0, 0, 0], [-5, -5, -5, -5], list(range(300)),
            # masks
            {"size": [HEIGHT, WIDTH], "counts": "PPPPPPPP"}, {"size": [2, 2], "counts": "04"},
            {"size": [2**31, 2**31], "counts": "0"}, {"size": [HEIGHT, WIDTH], "counts": "o" * 99},
            {"size": [HEIGHT, WIDTH], "counts": "\0\0"}, {"size": [HEIGHT, WIDTH], "counts": ""},
            {"size": [HEIGHT, WIDTH], "counts": [600, 2**32]}, {"size": "ab", "counts": {}},
            {"size": [HEIGHT, WIDTH], "counts": [-1, 601]}, {"size": [0, 0], "counts": []},
            {"size": [HEIGHT, WIDTH], "counts": "oooooooO"}, {"size": [HEIGHT, WIDTH]},
            {"size": [HEIGHT, WIDTH], "counts": "é"}, [[1, 1, 1e9, 1, 1e9, 1e9]], [[1, 2]],
            [[math.nan] * 6], [["a"] * 6], [[-(10**9)] * 8], [[0] * 7], [[1, 1, 2, 2, 3, 3]] * 50,
        )
    )  # fmt: skip


def faulty(
    chance: random.Random, content: Any, place: Place, odd_: Callable[..., Any] = odd
) -> Any:
    """A copy with up to three faults at any depth."""
    content = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        parents = [node for node in _nodes(content) if node]
        if not parents:
            return odd_(chance, place)
        parent = chance.choice(parents)
        key = chance.choice([*parent] if isinstance(parent, dict) else range(len(parent)))
        kind = chance.randrange(10)
        if kind < 6:
            parent[key] = odd_(chance, place)
        elif kind == 6:
            del parent[key]
        elif kind == 7 and isinstance(parent, list):
            parent.insert(chance.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
        elif kind == 8 and isinstance(parent, list):
            parent.append(odd_(chance, place))
        elif isinstance(parent, dict):
            parent[chance.choice(("__class__", "_target_", "id", "", PAGE))] = parent.pop(key)
    return odd_(chance, place) if chance.random() < 0.01 else content


def _nodes(node: Any) -> list[Any]:
    """All dicts and lists, the outer ones as often as the inner."""
    found, layer = [], [node]
    while layer:
        here = [one for one in layer if isinstance(one, (dict, list))]
        found += here * max(1, 24 // max(len(here), 1))
        layer = [c for one in here for c in (one.values() if isinstance(one, dict) else one)]
        if len(found) > 4000:
            break
    return found


# --- faults in its bytes ------------------------------------------------------------------------


def broken(chance: random.Random, content: bytes) -> bytes:
    """Cut, flipped, of another encoding, too deep, or anything but what it was."""
    at = chance.randrange(len(content) + 1)
    return chance.choice(
        (
            lambda: content[:at],
            lambda: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
            lambda: content[:at] + b"\xff\xfe\x80" + content[at:],
            lambda: content[:at] + content[at:][:40] * 3 + content[at:],
            lambda: b"\xef\xbb\xbf" + content,
            lambda: content.decode("latin1").encode("utf-16"),
            lambda: b"[" * 100_000,
            lambda: b'{"images":' * 5_000,
            lambda: b'{"images": [{"id": 1' + b"1" * 5_000 + b"}]}",
            lambda: b"",
            lambda: b"\0" * 99,
            lambda: content.replace(b'"id"', b'"id": 1, "id"', 3),
            lambda: content.replace(b"1", b"-", 2),
        )
    )()


def write_truth(chance: random.Random, place: Place) -> Path:
    """An annotation file, good or not."""
    truth, _ = good()
    path = place.given / "truth.json"
    content = json.dumps(faulty(chance, truth, place) if chance.random() < 0.4 else truth).encode()
    path.write_bytes(broken(chance, content) if chance.random() < 0.06 else content)
    return path


def write_found(chance: random.Random, place: Place, name: str) -> Path:
    """A file of predictions, good or not."""
    _, found = good()
    form = chance.choice(("json", "json", "pkl", "pth"))
    path = place.given / f"{name}.{form}"
    content = FORMS[form](found)
    if chance.random() < 0.4:
        content = faulty(chance, content, place, odd if form == "json" else odd_object)
    written = as_bytes(chance, content, form)
    path.write_bytes(broken(chance, written) if chance.random() < 0.06 else written)
    return path


def odd_object(chance: random.Random, place: Place) -> Any:
    """What a pickle can hold besides; most of it is code."""
    if chance.random() < 0.5:
        return odd(chance, place)
    made, state = str(place.made), InState()
    state.__dict__.update(chance.choice(({"tolist": 1}, {"__class__": "x"}, {"a": 1})))
    return chance.choice(
        (
            *(Reduced(os.mkdir, made), Reduced(os.system, f"mkdir {made}")),
            Reduced(open, made, "w"),
            *(Reduced(eval, f"__import__('os').mkdir({made!r})"), Reduced(getattr, [], "pop")),
            *(Reduced(exec, "import os"), Reduced(__import__, "antigravity"), Reduced(os.getcwd)),
            Reduced(torch.load, made), Reduced(torch._utils._rebuild_tensor_v2, 1, 2, 3, 4, 5, 6),
            Reduced(torch.storage._load_from_bytes, pickle.dumps(Reduced(os.mkdir, made))),
            state, np.ones(3), np.float64(0.5), torch.ones(2), torch.zeros(1).expand(10**6, 4),
            torch.tensor(math.nan), torch.ones(3, 4).half(), torch.tensor([-1, 0, 1]), (1, 2), {1},
            b"bytes", 3 + 4j, range(3), torch.float32, Path(made), bytearray(9), frozenset((1,)),
            torch.ones(2, 4), torch.zeros(3, dtype=torch.long), torch.empty(0), torch.tensor(2**40),
        )
    )  # fmt: skip


def as_bytes(chance: random.Random, content: Any, form: str) -> bytes:
    if form == "json":
        return json.dumps(content, allow_nan=True).encode()
    file = io.BytesIO()
    try:
        if form == "pkl":
            pickle.dump(content, file, chance.choice((2, 2, 4, 5)))
        else:
            torch.save(content, file)
    except Exception:  # a few cannot be written
        return pickle.dumps(Reduced(os.system, "true"))
    return file.getvalue()
