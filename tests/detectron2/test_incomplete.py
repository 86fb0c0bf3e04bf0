"""LazyConfigs that leave out what Detectron2's own have, or refer to what is not there.

Oracles: Detectron2's ``common/train.py``, and the place that was broken, in the sentence.
"""

from __future__ import annotations

import pytest
from detectron2 import model_zoo

from tests.detectron2.conftest import DEMO
from tools import train_detectron2
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.data import register_set
from ws_det.detectron2.train import Job, run

CONFIG = f"""
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

import ws_det

_cfg = LazyConfig.load(ws_det.config_path({DEMO!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    _cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
model.module.roi_heads.num_classes = 2
dataloader.train.dataset.names, dataloader.test.dataset.names = "own_train", "own_val"
"""


@pytest.fixture
def write(tmp_path, coco_set):
    """Write the demo's config with lines after it."""
    register_set(str(coco_set), "own")

    def written(lines):
        path = tmp_path / "own.py"
        path.write_text(CONFIG + lines)
        return str(path)

    return written


@pytest.mark.parametrize("key", [*model_zoo.get_config("common/train.py").train, "seed"])
def test_what_train_leaves_out_is_as_in_detectron2(key, write):
    """One key at a time."""
    expected = model_zoo.get_config("common/train.py").train.get(key)
    train = load_recipe(write(f"del train[{key!r}]\n")).cfg.train
    assert train.get(key) == expected


def test_a_config_with_the_least_trains(write, tmp_path):
    """No key of train but where to write and for how long; no set to test on, no evaluator."""
    least = f"train = dict(output_dir={str(tmp_path / 'out')!r}, max_iter=2)\n"
    least += "del dataloader['test'], dataloader['evaluator'], lr_multiplier['warmup_length']\n"
    run(Job(write(f"{least}lr_multiplier.warmup_length = 0.5\n")))
    assert (tmp_path / "out/model_final.pth").is_file()
    assert load_recipe(str(tmp_path / "out/config.yaml")).test_sets == []


# What is appended to the config, and what the sentence has to name.
BROKEN = {
    "train.max_iter = '???'": "leaves train.max_iter open",
    "model.module.roi_heads.batch_size_per_image = '???'": "roi_heads.batch_size_per_image open",
    "train.max_iter = '${nothing.there}'": "train.max_iter: Interpolation key 'nothing.there'",
    "model.module.backbone.norm = '${..x}'": "norm: Interpolation key 'x' not found",
    "model = '${nothing}'; model = dict(a=model)": "nothing",
    "dataloader.test = [dataloader.test]": "dataloader.test of the config",
    "dataloader.train = [dataloader.train]": "dataloader.train of the config",
    "dataloader.train = None": "no 'dataloader.train'",
    "dataloader.test = None": "dataloader.evaluator.dataset_name",
    "dataloader.test.dataset = dict()": "dataloader.test.dataset.names",
    "del dataloader.train['total_batch_size']": "dataloader.train.total_batch_size",
    "del optimizer['params']": "optimizer",
    "del optimizer['lr'], optimizer['params']": "optimizer",
    "train.amp = True": "train.amp is not what Detectron2 takes",
    "train.amp.enable = True": "train.amp.enable ",
    "train.ddp.find_unused = True": "train.ddp.find_unused ",
    "train.checkpointer.every = 3": "train.checkpointer.every ",
    "train.checkpointer.period = 0": "checkpoint every 0 iterations",
    "train.log_period = 0": "train.log_period=0",
    "train.eval_period = -1": "train.eval_period=-1",
    "train.max_iter = 'long'": "train.max_iter=long",
    "train.seed = None": "train.seed=None",
    "train.accumulation_steps = 1.5": "train.accumulation_steps=1.5",
    "train.clip_grad = 3": "train.clip_grad is not what",
    "train.clip_grad.norm = 3": "train.clip_grad.norm ",
    "dataloader.train.total_batch_size = '2'": "total_batch_size=2: give a whole number",
    "train.clip_grad.max_norm = 'x'": "a gradient's norm of at most x",
    "train.clip_grad.max_norm = -1": "a gradient's norm of at most -1",
    "dataloader.train.num_workers = -1": "settings of dataloader.train (num_workers",
    "dataloader.test.num_workers = -1": "settings of dataloader.test (num_workers",
    "dataloader.train.persistent_workers = True": "persistent_workers",
    "dataloader.train.single_gpu_batch_size = 1": "single_gpu_batch_size",
    "dataloader.train.prefetch_factor = 0; dataloader.train.num_workers = 1": "prefetch_factor",
    "train.tta = dict(sizes=[3])": "train.tta.sizes is not known",
    "lr_multiplier.scheduler = dict()": "optimizer or its schedule",
    "lr_multiplier.warmup = 3": "optimizer or its schedule",
    "del train": "no 'train'",
    "train = OmegaConf.create([1])": "train",
}


@pytest.mark.parametrize("lines", BROKEN)
def test_broken_configs_are_one_sentence(lines, write, refusal, tmp_path):
    out = tmp_path / "out"
    config = write(f"{lines}\n")
    flags = () if "train = " in lines or lines == "del train" else (f"train.output_dir={out}",)
    assert BROKEN[lines] in refusal(train_detectron2, "--config-file", config, *flags)
    assert not out.exists()


def test_missing_values_may_come_as_options(write):
    config = write("train.max_iter = '???'\ndataloader.train.total_batch_size = '???'\n")
    options = ["train.max_iter=3", "dataloader.train.total_batch_size=4"]
    recipe = load_recipe(config, options)
    assert (recipe.max_iter, recipe.batch_size, recipe.base_batch) == (3, 4, 4)


def test_settings_of_loaders_that_detectron2_takes(write, tmp_path):
    """Each in a run, for its own loader takes them."""
    lines = "dataloader.train.update(prefetch_factor=2, drop_last=True, collate_fn=list, seed=3)\n"
    run(Job(write(f"{lines}train.update(output_dir={str(tmp_path / 'out')!r}, max_iter=1)\n")))
    assert (tmp_path / "out/model_final.pth").is_file()


def test_no_weights_may_be_none(write):
    assert load_recipe(write("train.init_checkpoint = None\n")).weights == ""


def test_evaluation_needs_a_set(write, refusal):
    config = write("dataloader.test = None; del dataloader['evaluator']\n")
    said = refusal(train_detectron2, "--config-file", config, "--eval-only")
    assert "no set to test on" in said


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn_R_50_FPN_100ep_LSJ",
        "mask_rcnn_R_101_FPN_400ep_LSJ",
        "mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ",
    ],
)
def test_detectron2s_own_configs_are_complete(name):
    """Whatever is refused above, nothing of theirs is."""
    load_recipe(model_zoo.get_config_file(f"new_baselines/{name}.py"))
