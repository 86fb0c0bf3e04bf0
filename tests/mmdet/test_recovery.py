"""What MMDetection's tool resumes from, and that one run writes a work dir.

Oracles: tests/work_dirs.py, tests/planted.py, and another process.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from tests import rivals, work_dirs
from tests.planted import CASES, survives
from tools import test as test_tool
from tools import train
from ws_det.mmdet.metrics import DumpPredictions
from ws_det.mmdet.resume import find, locate
from ws_det.recovery import POINTER


def content(iteration: Any, run: Any) -> dict[str, Any]:
    """As MMEngine saves it."""
    meta = {"iter": iteration, "epoch": 1, "ws_det_run": {"batch": (1, 1, 1), "run": run}}
    return {"meta": meta, "state_dict": {"w": torch.ones(2)}, "canary": 1, "optimizer": {}}


def find_in(folder: Path) -> tuple[int, Path] | None:
    found = find(Config(dict(work_dir=str(folder), resume=True)))
    return found and (found.content["meta"]["iter"], found.path)


def test_random_folders(tmp_path: Path) -> None:
    work_dirs.check(80, 500, tmp_path, "iter_{}.pth", content, find_in)


def test_a_pointer_is_never_followed_out_of_the_work_dir(tmp_path: Path) -> None:
    """MMEngine itself would resume from what it names. Oracle: what is in the config then."""
    from ws_det.mmdet.resume import lead_to

    (tmp_path / "work").mkdir()
    torch.save(content(5, 0), tmp_path / "outside.pth")
    torch.save(content(3, 0), tmp_path / "work/iter_3.pth")
    (tmp_path / "work" / POINTER).write_text(str(tmp_path / "outside.pth"))
    cfg = Config(dict(work_dir=str(tmp_path / "work"), resume=True))
    lead_to(cfg, locate(cfg))
    assert cfg.load_from == str(tmp_path / "work/iter_3.pth") and cfg.resume
    (tmp_path / "work/iter_3.pth").unlink()
    (tmp_path / "work" / POINTER).write_bytes(b"\n")
    cfg = Config(dict(work_dir=str(tmp_path / "work"), resume=True))
    lead_to(cfg, locate(cfg))
    assert not cfg.get("load_from") and not cfg.resume  # MMEngine does not ask the pointer


def test_runs_are_numbered(tmp_path: Path) -> None:
    """A run that begins anew, and one from a file of the user's choice, leave the past behind."""
    cfg = Config(dict(work_dir=str(tmp_path)))
    assert locate(cfg).run == 0
    for iteration, run in ((9, 0), (4, 2)):
        torch.save(content(iteration, run), tmp_path / f"iter_{iteration}.pth")
    assert locate(cfg).run == 3
    again = locate(Config(dict(work_dir=str(tmp_path), resume=True)))
    assert (again.run, again.iter) == (2, 4)
    named = Config(dict(work_dir=str(tmp_path), resume=True, load_from=f"{tmp_path}/iter_9.pth"))
    assert (locate(named).run, locate(named).iter) == (3, 9)


def test_a_first_start_with_resume_begins_with_the_weights_of_its_config(tmp_path: Path) -> None:
    """A job that always says --resume. Oracle: the weights, until there is a checkpoint."""
    from ws_det.mmdet.resume import lead_to
    from ws_det.mmdet.runner import _apply_flags

    torch.save(content(7, 0), tmp_path / "weights.pth")
    for checkpoint in (None, "iter_3.pth"):
        if checkpoint:
            torch.save(content(3, 0), tmp_path / checkpoint)
        cfg = Config(dict(work_dir=str(tmp_path), load_from=str(tmp_path / "weights.pth")))
        _apply_flags(cfg, amp=False, resume="auto", auto_scale_lr=False)
        lead_to(cfg, locate(cfg))
        assert cfg.load_from == str(tmp_path / (checkpoint or "weights.pth"))
        assert cfg.resume is bool(checkpoint)


def test_one_run_a_work_dir(
    tiny_config: Path,
    coco_set: Path,
    tmp_path: Path,
    refusal: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = [str(tiny_config), "--data-root", str(coco_set), "--work-dir", str(tmp_path / "work")]
    rivals.check(train, flags, tmp_path / "work", refusal, monkeypatch)


def test_outputs_in_the_way_are_refused_at_once(
    tiny_config: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "x.pkl").mkdir()
    below = str(tmp_path / "file/x.pkl")
    for flags in (["--out", below], ["--out", str(tmp_path / "x.pkl")], ["--show-dir", below]):
        said = refusal(test_tool, tiny_config, tmp_path / "no.pth", *flags)
        assert f"{flags[1]} cannot be written" in said and f"give another {flags[0]}" in said
    said = refusal(train, tiny_config, "--work-dir", below)
    assert f"{below} cannot be written" in said and "give another --work-dir" in said
    out_dir = f"default_hooks.checkpoint.out_dir={below}"
    said = refusal(train, tiny_config, "--work-dir", tmp_path / "w", "--cfg-options", out_dir)
    assert f"{below} cannot be written" in said and not (tmp_path / "w").exists()
    assert (tmp_path / "file").read_text() == "old" and not list((tmp_path / "x.pkl").iterdir())


def test_predictions_are_written_completely(tmp_path: Path) -> None:
    for case in CASES:
        (tmp_path / case).mkdir()
        survives(
            lambda path: DumpPredictions(str(path)).compute_metrics([{"a": 1}]),
            case,
            tmp_path / case,
            "out.pkl",
        )
    DumpPredictions(str(tmp_path / "x.pkl")).compute_metrics([{"a": 1}])
    assert pickle.loads((tmp_path / "x.pkl").read_bytes()) == [{"a": 1}]
