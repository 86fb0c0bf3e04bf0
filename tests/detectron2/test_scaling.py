"""Learning rates of both kinds of config. Oracles: the rule by hand, and Detectron2's own."""

from __future__ import annotations

import pytest
from detectron2.engine import DefaultTrainer

from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.scaling import follow_batch
from ws_det.errors import InputError

LAZY = "mask_rcnn_R_50_FPN_2x_gn_ws.py"  # 0.02 for 16 images
YAML = "mask_rcnn_R_50_FPN_3x_gn_ws.yaml"


@pytest.mark.parametrize(
    ("processes", "batch", "passes", "rate"),
    [(8, 16, 1, 0.02), (8, 8, 1, 0.01), (8, 8, 2, 0.02), (1, 1, 16, 0.02), (4, 4, 1, 0.005)],
)
@pytest.mark.parametrize("config", [LAZY, YAML])
def test_rate_follows_the_images_of_a_step(config, processes, batch, passes, rate):
    keys = ("dataloader.train.total_batch_size", "train.accumulation_steps")
    keys = keys if config == LAZY else ("SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATION_STEPS")
    options = [f"{keys[0]}={batch}", f"{keys[1]}={passes}"]
    recipe, line = follow_batch(load_recipe(config, options), processes, True)
    assert recipe.learning_rate == pytest.approx(rate, rel=1e-12)  # of float64
    assert recipe.max_iter == load_recipe(config).max_iter
    assert line.startswith(f"learning rate {rate:g} = 0.02 (for 16) x {processes} ")
    kept, line = follow_batch(load_recipe(config, options), processes, False)
    assert kept.learning_rate == 0.02 and f" = {batch * passes} image" in line


def test_micro_batch_configs_have_the_rate_of_their_own_batch():
    for name, processes in (("8x1", 8), ("1x1_accum16", 1)):
        config = f"mask_rcnn_R_50_FPN_2x_gn_ws_{name}.py"
        own = load_recipe(config).learning_rate
        recipe, line = follow_batch(load_recipe(config), processes, True)
        assert recipe.learning_rate == own and "--auto-scale-lr" not in line
        assert own == pytest.approx(0.02 * recipe.batch_size * recipe.accumulation / 16)


def test_reference_world_size_is_followed():
    """Oracle: DefaultTrainer.auto_scale_workers."""
    options = ["SOLVER.REFERENCE_WORLD_SIZE=8"]
    expected = DefaultTrainer.auto_scale_workers(load_recipe(YAML, options).cfg, 4).SOLVER
    recipe, line = follow_batch(load_recipe(YAML, options), 4, False)
    assert recipe.learning_rate == expected.BASE_LR == 0.01
    assert recipe.max_iter == expected.MAX_ITER and recipe.batch_size == 8
    assert "= 8 images a step" in line and "auto-scale" not in line
    with pytest.raises(InputError, match=r"REFERENCE_WORLD_SIZE=8 scales .* already"):
        follow_batch(load_recipe(YAML, options), 4, True)
    with pytest.raises(InputError, match="IMS_PER_BATCH=12 does not divide"):
        follow_batch(load_recipe(YAML, [*options, "SOLVER.IMS_PER_BATCH=12"]), 4, False)
