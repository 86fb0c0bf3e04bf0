"""Odd ``last_checkpoint`` files beside odd checkpoints, through what resumes in both frameworks.

Oracle: the checkpoints that were written whole, and their iterations; audit events and canaries.
Each case reads and writes in its folder alone, and finds the newest whole checkpoint that is there,
or none, or says one sentence. ``make sweep`` runs all cases.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hostile import canaries, paths
from tests.test_fuzz import ended, summary
from tests.watched import snapshot, watched

DEFAULT, ALL = 20, 500


def find_mmdet(folder: Path) -> str | None:
    """The file that the runner is led to."""
    from mmengine.config import Config

    from ws_det.mmdet.resume import lead_to, locate

    cfg = Config(dict(work_dir=str(folder), resume=True, load_from=None))
    lead_to(cfg, locate(cfg))
    assert cfg.resume == (cfg.load_from is not None)
    return cfg.load_from


def find_detectron2(folder: Path) -> str | None:
    """The file that the checkpointer loads after the checks."""
    from torch import nn

    from ws_det.detectron2.weights import SafeCheckpointer, resume_point

    found = resume_point(str(folder))
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), str(folder))
    if found:
        assert checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file() == found
    return found


def of_mmdet(iteration: Any) -> dict[str, Any]:
    meta = {"epoch": 0, "iter": iteration}
    return {"state_dict": {"w": torch.ones(2)}, "meta": meta, "optimizer": {}}


def of_detectron2(iteration: Any) -> dict[str, Any]:
    return {"model": {"w": torch.ones(2)}, "iteration": iteration}


FRAMEWORKS = {
    "mmdet": (find_mmdet, of_mmdet, "iter_{}.pth"),
    "detectron2": (find_detectron2, of_detectron2, "model_{:07d}.pth"),
}


def candidates(chance: random.Random, folder: Path, make: Any, name: str) -> dict[str, int]:
    """Write what lies there; the iterations of the whole ones by their path."""
    whole: dict[str, int] = {}
    for number in range(chance.randrange(5)):
        path = folder / name.format(number)
        kind = chance.randrange(9)
        iteration = chance.choice((number, number + 1, 7 - number, 100))
        if kind < 4:
            torch.save(make(iteration), path)
            whole[str(path)] = iteration
        elif kind == 4:
            odd = chance.choice((None, "9", 3.5, -1, 10**30, True, float("nan"), [9], b"9"))
            torch.save(make(odd), path)
        elif kind == 5:
            torch.save(make(iteration), path)
            path.write_bytes(path.read_bytes()[: chance.randrange(900)])
        elif kind == 6:
            path.mkdir()
        elif kind == 7:
            path.symlink_to(chance.choice(("nothing", path.name)))
        else:
            os.mkfifo(path)
    return whole


def point(chance: random.Random, folder: Path, outside: Path, name: str) -> None:
    """Write the pointer, in one of many ways."""
    pointer = folder / "last_checkpoint"
    own = name.format(chance.randrange(5))
    names = [str(p) for p in paths(outside, folder) if "\udcff" not in str(p)]
    text: str | bytes = chance.choice(
        [
            *names,
            *(own, f"{folder}/{own}", f"/elsewhere/{own}", f"../{own}", f"{own}\n", f" {own} "),
            *(f"{own}\n{outside}/{own}", f"{outside}/{own}", f"{folder}/../{outside.name}/{own}"),
            *(b"\xff\xfe" + own.encode(), own.encode("utf-16"), b"\0" * 50, b"", b"\n", b"\x1b[2J"),
            *(f"$(touch {outside}/ran)", "~", "%s", "no.pth", "last_checkpoint", "sub", "link"),
        ]
    )
    kind = chance.randrange(12)
    if kind == 0:
        return
    if kind == 1:
        pointer.mkdir()
    elif kind == 2:
        os.mkfifo(pointer)
    elif kind == 3:
        pointer.symlink_to(chance.choice(("last_checkpoint", "nothing", "sub")))
    else:
        pointer.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "replace"))


def attack(framework: str, cases: range, folder: Path) -> Counter[str]:
    find, make, name = FRAMEWORKS[framework]
    outside, work, outcomes = folder / "outside", folder / "work", Counter()
    outside.mkdir()
    for number in range(5):  # whole, and none of the run's business
        torch.save(make(1000), outside / name.format(number))
    work.mkdir()
    torch.save(make(0), work / name.format(0))
    find(work)  # imports
    shutil.rmtree(work)
    for number in cases:
        seed = f"{framework} {number}"
        chance = random.Random(seed)
        canaries(outside, work)
        (work / "iter_1.pth").unlink(missing_ok=True)
        whole = candidates(chance, work, make, name)
        point(chance, work, outside, name)
        before = snapshot(outside)
        found: list[str | None] = []
        with watched(work) as seen:
            outcomes[ended(partial(into, found, find, work), seed)] += 1
        assert seen == [] and before == snapshot(outside), (seed, seen)
        if found and found[0]:
            assert whole[found[0]] == max(whole.values()), (seed, found, whole)
        else:
            # Or the pointer cannot be written: it is a folder, a pipe, a link to itself.
            assert not whole or not (work / "last_checkpoint").is_file(), (seed, whole)
        shutil.rmtree(work)
    return outcomes


def into(found: list[str | None], find: Callable[[Path], str | None], work: Path) -> None:
    found.append(find(work))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_pointers(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    summary(capsys, f"pointers, {framework}", attack(framework, range(DEFAULT), tmp_path))


@pytest.mark.sweep
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_all_pointers(framework: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    summary(capsys, f"pointers, {framework}", attack(framework, range(ALL), tmp_path))
