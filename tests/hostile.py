"""Damage what a checkpoint says: hostile, odd or only wrong, from a seed.

Everything here can be saved by ``torch.save``; what a file may hold is then torch's business too.
"""

from __future__ import annotations

import copy
import math
import os
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Place = tuple[Any, ...]


class Runs:
    """Code in a pickle: makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def programs(canary: Path) -> list[str]:
    """Strings that would leave a trace if anything ran them."""
    make = f"open({str(canary)!r}, 'w').close()"
    return [
        make,
        f"import os\nos.mkdir({str(canary)!r})",
        f"__import__('os').system('touch {canary}')",
        f"_base_ = ['{canary}.py']",
        f"custom_imports = dict(imports=['antigravity'], allow_failed_imports=False)\n{make}",
        "{{fileDirname}} {{$HOME}} {{_base_.x}}",
        f"!!python/object/apply:os.mkdir ['{canary}']",
        f"$(touch {canary})",
        "%s%n{0.__class__.__init__.__globals__}",
    ]


def paths(outside: Path, inside: Path) -> list[Any]:
    """Names of files that are not the run's."""
    canary = outside / "best_score_iter_3.pth"
    return [
        str(canary),
        str(outside),
        os.path.relpath(canary, inside),
        os.path.relpath(canary),
        f"{inside}/../{outside.name}/{canary.name}",
        f"{inside}/link/{canary.name}",
        f"file://{canary}",
        f"~/{canary.name}",
        str(inside),
        str(inside / "mine.txt"),
        str(inside / "best_of_mine.pth"),
        str(inside / "sub/best_score_iter_1.pth"),
        str(inside / "link"),
        "/dev/zero",
        "/",
        "..",
        ".",
        "",
        "a\0b",
        "best_score_iter_3.pth\n",
        "ü" * 300,
        "x" * 100_000,
        "\udcff.pth",
        f"s3://bucket/{canary.name}",
    ]


def odd(chance: random.Random, old: Any, outside: Path, inside: Path) -> Any:
    """Another thing in the place of a value."""
    if isinstance(old, torch.Tensor) and chance.random() < 0.6:
        return _odd_tensor(chance, old)
    if chance.random() < 0.25:
        return chance.choice(programs(outside / "ran") + paths(outside, inside))
    shared = [1, 2]
    return chance.choice(
        [
            lambda: None, lambda: True, lambda: False, lambda: 0, lambda: 1, lambda: 3.5,
            lambda: -1, lambda: -(10**9), lambda: 10**9 + 1, lambda: 10**30, lambda: 1 << 4000,
            lambda: 2**31, lambda: 2**63, lambda: math.nan, lambda: math.inf, lambda: -math.inf,
            lambda: 1e308, lambda: -0.5, lambda: "3", lambda: b"3", lambda: [], lambda: {},
            lambda: (), lambda: [old, old], lambda: {"a": old}, lambda: {0: old}, lambda: [[old]],
            lambda: {None: 1}, lambda: {"__class__": 1, "__dict__": {}}, lambda: _deep(chance),
            lambda: [shared] * 3, lambda: Counter({1: -1}), lambda: Counter("abc"),
            lambda: torch.Size([2]), lambda: torch.float16, lambda: torch.device("cuda:7"),
            lambda: {1, 2}, lambda: 1j, lambda: bytearray(b"x"), lambda: np.float64(0.5),
            lambda: np.arange(4), lambda: np.array(["a", "b"]), lambda: np.array([None, {}]),
            lambda: np.arange(4).astype(">i8"), lambda: torch.ones(2), lambda: _odd_dict(),
            lambda: Runs(outside / "ran"), lambda: list(range(1000)), lambda: {"a": math.nan},
        ]
    )()  # fmt: skip


def _odd_tensor(chance: random.Random, old: torch.Tensor) -> Any:
    shape = tuple(old.shape)
    new = torch.randn(shape)
    return chance.choice(
        [
            lambda: torch.tensor(1.0), lambda: torch.empty(0), lambda: new.unsqueeze(0),
            lambda: new.flatten()[:1], lambda: torch.zeros(1).expand(shape or (2,)),
            lambda: torch.zeros(1).expand(10**6, 10**6), lambda: new.half(), lambda: new.double(),
            lambda: new.int(), lambda: new > 0, lambda: new.to(torch.complex64),
            lambda: new * math.nan, lambda: new * math.inf, lambda: new * -1e30,
            lambda: new.to_sparse(), lambda: torch.empty(shape, device="meta"),
            lambda: torch.nn.Parameter(new), lambda: torch.randn(shape[::-1]),
            lambda: new.to(torch.float8_e4m3fn),
            lambda: torch.quantize_per_tensor(new, 0.1, 0, torch.qint8),
            lambda: torch.nested.nested_tensor([torch.ones(2)]),
        ]
    )()  # fmt: skip


def _deep(chance: random.Random) -> Any:
    """A list in a list ..., or ten of them in each of ten, which are one in memory."""
    inner: Any = ["x"]
    many = chance.choice((1, 10))
    for _ in range(60):
        inner = [inner] * many
    return inner


def _odd_dict() -> Any:
    state = OrderedDict(a=1)
    state._metadata = {3: None}
    state.copy = "no method"  # the unpickler lets attributes through
    return state


def places(content: Any, below: Place = (), depth: int = 7) -> list[Place]:
    """Where something can be put: of each dict and list every entry."""
    keys: Sequence[Any] = ()
    if isinstance(content, dict):
        keys = list(content)
    elif isinstance(content, list):
        keys = range(len(content))
    found = [(*below, key) for key in keys]
    if depth:
        found += [p for key in keys for p in places(content[key], (*below, key), depth - 1)]
    return found


def get(content: Any, place: Place) -> Any:
    for key in place:
        content = content[key]
    return content


def put(content: Any, place: Place, value: Any) -> None:
    """Put a value there; what is no container on the way becomes one."""
    *way, last = place
    for key in way:
        if not isinstance(content, (dict, list)):
            return
        if isinstance(content, dict):
            content.setdefault(key, {})
        elif not isinstance(key, int) or key >= len(content):
            return
        content = content[key]
    if isinstance(content, dict) or (isinstance(content, list) and last in range(len(content))):
        content[last] = value


def damage(
    chance: random.Random,
    content: dict[str, Any],
    targets: Sequence[tuple[Place, Callable[[], Any] | None]],
    outside: Path,
    inside: Path,
) -> dict[str, Any]:
    """A copy with up to three faults.

    Args:
        chance: Of this case.
        content: Of an honest checkpoint.
        targets: Where a framework is known to trust a file; with what makes the value, or None for
            any odd one.
        outside: A folder with canaries, none of the run's business.
        inside: The work dir.
    """
    damaged = copy.deepcopy(content)
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = _chosen(chance, damaged)
        try:
            old = get(damaged, place)
        except (LookupError, TypeError, AttributeError):
            continue
        kind = chance.randrange(8)
        if kind < 3:
            put(damaged, place, odd(chance, old, outside, inside))
        elif kind == 3:
            holder = get(damaged, place[:-1])
            del holder[place[-1]]
        elif kind == 4:
            key = chance.choice(
                [
                    *("config", "cfg", "best_ckpt", "step", "optimizer", "__class__", "", "\0"),
                    *(7, None, *paths(outside, inside)[:6]),
                ]
            )
            put(damaged, (*place[:-1], key), odd(chance, old, outside, inside))
        elif kind == 5:
            other = _chosen(chance, damaged)  # two entries change places
            moved = copy.deepcopy(get(damaged, other))
            put(damaged, place, moved)
        else:
            where, make = chance.choice(targets)
            put(damaged, where, make() if make else odd(chance, old, outside, inside))
    return damaged


def _chosen(chance: random.Random, content: dict[str, Any]) -> Place:
    """Any entry, the parts of a checkpoint as often as each other, and weights seldom."""
    heads = [key for key in content if key not in ("state_dict", "model")] or list(content)
    head = chance.choice(heads if chance.random() < 0.95 else list(content))
    if chance.random() < 0.1:
        return (head,)
    return chance.choice(places(content[head], (head,)) or [(head,)])


def canaries(outside: Path, inside: Path) -> None:
    """Files that no case may touch: beside the work dir, and in it."""
    for folder in (outside, outside / "work", inside, inside / "sub"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("best_score_iter_1.pth", "best_score_iter_3.pth", "mine.txt", "iter_1.pth"):
            if folder != inside or name == "mine.txt":
                (folder / name).write_text("alive")
    (inside / "best_of_mine.pth").write_text("alive")
    if not (inside / "link").is_symlink():
        (inside / "link").symlink_to(outside)
