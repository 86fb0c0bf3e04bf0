"""The studies with Mask R-CNN. Oracle: the config that MMEngine wrote, and rates by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tools import study as tool
from ws_det.mmdet import study
from ws_det.norms import EstBatchNorm2d
from ws_det.shapes import ShapesSpec, make_shapes
from ws_det.study import detection


@pytest.mark.slow
def test_a_quick_study_from_the_tool_to_its_files(tmp_path: Path, capsys: Any) -> None:
    flags = ["--work-dir", f"{tmp_path}/runs", "--out", f"{tmp_path}/evidence", "--jobs", "2"]
    tool.main(["detection", "--quick", *flags])
    assert f"wrote {tmp_path}/evidence/detection.json" in capsys.readouterr().out
    content = json.loads((tmp_path / "evidence/detection.json").read_text())
    assert content["runs"] == 3 and content["seconds"] > 0
    assert list(content["summary"]["arms"]) == ["BN, batch 1"]
    assert (tmp_path / "evidence/detection.png").is_file()
    run = tmp_path / "runs/detection-quick/bn_b1_s0"
    assert "Iter(train)" in (run / "log.txt").read_text()
    assert not list(run.glob("work/*.pth"))
    (config,) = run.glob("work/*.py")
    config = Config.fromfile(config)
    assert config.train_cfg.max_iters == 4 and config.randomness.seed == 0
    assert config.optim_wrapper.optimizer.lr == 1e-3


@pytest.mark.parametrize("arm", detection.ARMS)
def test_every_arm_gives_its_norm_to_all_parts(arm: str) -> None:
    settings = {**detection.ARMS[arm], "batch": 2, "images": 8, "lr": 0.5, "seed": 3}
    options = study.config_options(settings)
    for part in ("backbone", "neck", "roi_head.bbox_head", "roi_head.mask_head"):
        assert options[f"model.{part}.conv_cfg"] == settings["conv_cfg"]
        assert options[f"model.{part}.norm_cfg"]["type"] == settings["norm_cfg"]["type"]
    assert options["train_dataloader.batch_size"] == 2 and options["train_cfg.max_iters"] == 4


@pytest.mark.parametrize("warmup", [True, False])
def test_the_rate_follows_the_learning_rate(
    warmup: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, float, set[float]]] = []

    class Look(Hook):
        priority = "VERY_LOW"

        def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
            group = runner.optim_wrapper.optimizer.param_groups[0]
            layers = [m for m in runner.model.modules() if isinstance(m, EstBatchNorm2d)]
            rates = {layer.momentum for layer in layers}
            seen.append((group["lr"], group["initial_lr"], rates))

    HOOKS.register_module(name="LookAtRates", module=Look, force=True)
    options = study.config_options

    def with_look(settings: dict[str, Any]) -> dict[str, Any]:
        found = options(settings)
        found["custom_hooks"].append(dict(type="LookAtRates"))
        return found

    monkeypatch.setattr(study, "config_options", with_look)
    make_shapes(tmp_path / "data/shapes", ShapesSpec(24, 1, 64))
    norm = {"type": "BCN", "num_groups": 8, "estimate": True, "momentum": 0.2}
    settings = {
        "conv_cfg": None, "norm_cfg": norm, "batch": 1, "images": 24, "lr": 2e-3, "seed": 0,
        "data": "data/shapes", "rate": {"warmup": warmup},
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    study.train(settings, tmp_path / "run")
    HOOKS.module_dict.pop("LookAtRates")
    assert len(seen) == 24
    highest = 0.0
    for rate, base, momenta in seen:
        highest = max(highest, rate)
        expected = 0.2 * rate / (base if warmup else highest)
        assert [*momenta] == [pytest.approx(expected, rel=1e-12)]  # the same floats, other order
    assert seen[0][0] < seen[2][0] and seen[-1][0] < seen[4][0]  # a warm-up and a decay


def test_a_run_that_diverges_counts_as_nothing(tmp_path: Path) -> None:
    make_shapes(tmp_path / "data/shapes", ShapesSpec(16, 1, 64))
    settings = {
        **detection.ARMS["BN"], "batch": 1, "images": 16, "lr": 1e30, "seed": 0,
        "data": "data/shapes",
    }  # fmt: skip
    (tmp_path / "run").mkdir()
    found = study.train(settings, tmp_path / "run")
    assert found == {"box_ap": 0.0, "mask_ap": 0.0, "stopped": True}
