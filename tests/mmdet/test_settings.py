"""Names and numbers over which a run stumbles. Oracle: the sentence, and the folders before it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.visualization import Visualizer

from tests.conftest import write_set
from tests.mmdet.odd_runs import new_run, plain_configs, tree, write_config
from tools import test, train


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set and a config."""
    root = tmp_path_factory.mktemp("place")
    with plain_configs():
        write_config(root / "masks.py", write_set(root / "set", 1, 1), {})
    return root


@pytest.mark.parametrize(
    "option",
    [
        "default_hooks.logger.type=Nope", "custom_hooks.0.type=Nope", "train_cfg.type=Nope",
        "val_cfg.type=Nope", "val_evaluator.type=Nope", "val_dataloader.dataset.type=Nope",
        "visualizer.type=Nope", "visualizer.vis_backends.0.type=Nope", "log_processor.type=Nope",
        "train_cfg.max_iters=0", "train_cfg.max_iters=abc", "train_cfg.val_interval=0",
        "default_hooks.checkpoint.interval=abc", "default_hooks.logger.interval=0",
        "log_processor.window_size=abc", "auto_scale_lr.base_batch_size=0", "randomness.seed=abc",
        "log_level=LOUD", "env_cfg.mp_cfg.mp_start_method=abc",
    ],
)  # fmt: skip
def test_refused_before_a_training(
    place: Path, tmp_path: Path, refusal: Callable[..., str], option: str
) -> None:
    new_run()
    options = ["--work-dir", tmp_path / "work", "--data-root", place / "set"]
    sentence = refusal(train, place / "masks.py", *options, "--cfg-options", option)
    key, _, value = option.partition("=")
    assert key in sentence and value in sentence
    assert tree(tmp_path) == set()


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_pipeline_that_fails(
    place: Path, tmp_path: Path, refusal: Callable[..., str], part: str
) -> None:
    new_run()
    options = ["--work-dir", tmp_path / "work", "--data-root", place / "set"]
    index = 2 if part == "train" else 1
    fault = f"{part}_dataloader.dataset.pipeline.{index}.scale=abc"
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    sentence = refusal(train, place / "masks.py", *options, "--cfg-options", fault)
    assert f"{part}_dataloader" in sentence and ".jpg" in sentence and tree(tmp_path) == set()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state[1:]


def test_refused_before_a_test(place: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    """What only a training uses is not looked at."""
    new_run()
    (tmp_path / "c.pth").write_bytes(b"")
    options = ["--work-dir", tmp_path / "work", "--data-root", place / "set", "--cfg-options"]
    given = place / "masks.py", tmp_path / "c.pth", *options, "train_cfg.max_iters=0"
    assert "c.pth" in refusal(test, *given)
    assert tree(tmp_path) == {tmp_path / "c.pth"}


def test_a_run_draws_with_its_own_visualizer(place: Path, tmp_path: Path) -> None:
    """Not with one of this process that is newer than the last of the same name."""
    for number in (1, 2):
        Visualizer.get_instance(f"another {number}", vis_backends=[], save_dir=str(tmp_path))
        new_run()
        work = tmp_path / f"work {number}"
        options = ["--work-dir", work, "--data-root", place / "set"]
        train.main([str(part) for part in (place / "masks.py", *options)])
        assert Visualizer.get_current_instance().dataset_meta["classes"] == ("box", "bar")
        assert (work / "curves.png").is_file()
