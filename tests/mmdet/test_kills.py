"""kill -9 at random moments of a run of two processes. Oracle: the run that was never killed.

``WS_DET_KILLS=50 pytest tests/mmdet/test_kills.py`` kills more often; ``WS_DET_SEED`` chooses when.
"""

from __future__ import annotations

from pathlib import Path

from tests.conftest import KILLS, SLOW, kill, write_set
from tests.mmdet.conftest import CONFIG
from tests.mmdet.test_resume import BCN, EPOCHS, assert_same, several, state


def test_no_kill_loses_more_than_an_interval(tmp_path: Path) -> None:
    """A checkpoint each iteration, and the newest two are kept."""
    config = tmp_path / "killed.py"
    config.write_text(CONFIG + BCN.replace("max_keep_ckpts=20", "max_keep_ckpts=2") + EPOCHS)
    root = write_set(tmp_path / "set", train=6)
    epochs = 3 + 2 * KILLS // 5  # of three iterations; many kills come before the first
    flags = [config, "--data-root", root, "--launcher", "pytorch", "--cfg-options"]
    flags = [*map(str, flags), f"train_cfg.max_epochs={epochs}", "randomness.seed=7", "--work-dir"]
    several([[*flags, tmp_path / "whole"]], timeout=120 + 20 * KILLS)
    job = {
        "work_dir": str(tmp_path / "killed"),
        "modules": ["ws_det.mmdet.runner", "mmdet.models", "mmdet.datasets", *SLOW],
        "tool": "train",
        "arguments": [*flags, str(tmp_path / "killed"), "--resume"],
        "processes": 2,
        "saved": r"iter_(\d+)\.pth",
        "resumed": r"resumed epoch: \d+, iter: (\d+)",
    }
    end = kill(job)
    assert end["codes"] == [0, 0]
    last = f"iter_{3 * epochs}.pth"
    assert_same(state(tmp_path / "whole" / last), state(tmp_path / "killed" / last))
    left = {path.name for path in (tmp_path / "killed").glob("*.pth")}
    assert last in left and not list((tmp_path / "killed").glob(".*.part"))
