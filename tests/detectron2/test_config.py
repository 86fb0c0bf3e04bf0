"""Options and data roots. Oracle: the value where Detectron2 reads it, or the sentence."""

from __future__ import annotations

import pytest
from detectron2 import model_zoo
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from tests.detectron2.conftest import DEMO
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.recipe import LazyRecipe, YamlRecipe
from ws_det.errors import InputError

YAML = "mask_rcnn_R_50_FPN_3x_gn_ws.yaml"


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("train.max_iter=7", "train.max_iter", 7),
        ("optimizer.lr=0.5", "optimizer.lr", 0.5),
        ("train.seed=3", "train.seed", 3),
        ("model.module.pixel_mean=[1,2,3]", "model.module.pixel_mean", [1, 2, 3]),
        # not in the config, but an argument of what it builds
        (
            "model.module.backbone.bottom_up.freeze_at=2",
            "model.module.backbone.bottom_up.freeze_at",
            2,
        ),
        ("dataloader.train.mapper.augmentations.0.max_size=99", None, 99),
    ],
)
def test_lazy_options_arrive(option, key, value):
    cfg = load_recipe(DEMO, [option]).cfg
    found = (
        OmegaConf.select(cfg, key) if key else cfg.dataloader.train.mapper.augmentations[0].max_size
    )
    assert found == value


@pytest.mark.parametrize(
    "options", [["SOLVER.BASE_LR", "0.5", "SEED", "3"], ["SOLVER.BASE_LR=0.5", "SEED=3"]]
)
def test_yaml_options_arrive(options):
    recipe = load_recipe(YAML, options)
    assert recipe.cfg.SOLVER.BASE_LR == 0.5 and recipe.seed == 3


@pytest.mark.parametrize(
    ("config", "option", "sentence"),
    [
        (DEMO, "train.max_itr=7", "there is no 'max_itr'; did you mean 'max_iter'"),
        (DEMO, "trian.max_iter=7", "there is no 'trian'; did you mean 'train'"),
        (DEMO, "train.max_iter.x=7", "there is no 'x'; nothing is below"),
        (DEMO, "model.module.backbone.bottom_up.freze_at=2", "did you mean 'freeze_at'"),
        (DEMO, "dataloader.train.mapper.augmentations.5.max_size=9", "there is no '5'"),
        (DEMO, "train.clip_grad.norm=7", "there is no 'norm'"),
        (DEMO, "train.max_iter", "has no value: write key.path=value"),
        (DEMO, "train.max_iter=[1,", "cannot be understood"),
        (YAML, "SOLVER.BASE_LRR=1", "there is no 'BASE_LRR'; did you mean 'BASE_LR'"),
        (YAML, "SOLVER.BASE_LR", "has no value: write KEY.PATH=VALUE"),
        (YAML, "SOLVER.MAX_ITER=many", "does not fit"),
        (YAML, "SOLVER.MAX_ITER.X=1", "there is no 'X'; nothing is below"),
    ],
)
def test_unread_options_are_refused(config, option, sentence):
    with pytest.raises(InputError, match=sentence.replace("[", r"\[")) as refused:
        load_recipe(config, [option])
    assert option.partition("=")[0] in str(refused.value)


@pytest.mark.parametrize("config", [DEMO, YAML, "retinanet_R_50_FPN_1x_gn_ws.yaml"])
def test_data_root_names_sets_and_classes(config, coco_set):
    """Oracle: the two categories of the set, in the built model's predictors."""
    recipe = load_recipe(config, [], str(coco_set))
    assert (recipe.train_sets, recipe.test_sets) == (["data_root_train"], ["data_root_val"])
    assert set(recipe.num_classes()) == {2}
    state = recipe.build_model().state_dict()
    if "retinanet" in config:
        assert len(state["head.cls_score.weight"]) == 2 * 9  # anchors
    else:
        assert len(state["roi_heads.box_predictor.cls_score.weight"]) == 2 + 1  # background
        assert len(state["roi_heads.mask_head.predictor.weight"]) == 2


def test_an_option_wins_over_the_data_root(coco_set):
    option = "dataloader.test.dataset.names=data_root_train"
    assert load_recipe(DEMO, [option], str(coco_set)).test_sets == ["data_root_train"]


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no folder .*nowhere: give --data-root"):
        load_recipe(DEMO, [], str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"instances_train2017\.json does not exist"):
        load_recipe(DEMO, [], str(tmp_path))


def test_missing_or_broken_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no config .*x\.py"):
        load_recipe(str(tmp_path / "x.py"))
    with pytest.raises(InputError, match="no supplied config is called 'mask_rcnn_R_49'"):
        load_recipe("mask_rcnn_R_49")
    (tmp_path / "broken.py").write_text("model = 1 +")
    with pytest.raises(InputError, match=r"broken\.py cannot be read \(SyntaxError"):
        load_recipe(str(tmp_path / "broken.py"))
    (tmp_path / "half.py").write_text("model = dict(a=1)")
    with pytest.raises(InputError, match=r"half\.py has no 'dataloader.train'"):
        load_recipe(str(tmp_path / "half.py"))
    (tmp_path / "unknown.yaml").write_text("VERSION: 2\nMODEL: {WEIGHT: x}")
    with pytest.raises(InputError, match=r"unknown\.yaml cannot be read \(KeyError.*WEIGHT"):
        load_recipe(str(tmp_path / "unknown.yaml"))


def test_a_saved_lazy_config_is_a_config(tmp_path):
    """Oracle: the state-dict keys of the model of the config that was saved."""
    recipe = load_recipe(DEMO)
    LazyConfig.save(recipe.cfg, str(tmp_path / "config.yaml"))
    again = load_recipe(str(tmp_path / "config.yaml"))
    assert isinstance(again, LazyRecipe)
    assert list(again.build_model().state_dict()) == list(recipe.build_model().state_dict())


@pytest.mark.parametrize(
    "name",
    ["COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py", "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml"],
)
def test_detectron2s_own_configs_load(name):
    recipe = load_recipe(model_zoo.get_config_file(name))
    assert isinstance(recipe, LazyRecipe if name.endswith(".py") else YamlRecipe)
    assert recipe.num_classes()[0] == 80 and recipe.batch_size == 16


VARIABLES = """
from detectron2.config import LazyCall as L, LazyConfig
import ws_det
cfg = LazyConfig.load(ws_det.config_path({demo!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
clip = dict(max_norm=35.5)
train.clip_grad = clip
mean = dict(values=[1.5, 2.5, 3.5])
model.module.pixel_mean = "${{mean.values}}"
"""


def test_options_for_variables_of_a_file(tmp_path):
    """Only what is read can be changed; an interpolation reads from a variable of its own."""
    config = tmp_path / "own.py"
    config.write_text(VARIABLES.format(demo="mask_rcnn_R_18_FPN_gn_ws_demo_shapes"))
    with pytest.raises(InputError, match=r"'clip' is a variable .* change train\.clip_grad\.max_"):
        load_recipe(str(config), ["clip.max_norm=3.0"])
    assert load_recipe(str(config), ["train.clip_grad.max_norm=3.0"]).max_norm == 3
    cfg = load_recipe(str(config), ["mean.values=[1.0,2.0,4.0]"]).cfg
    assert list(cfg.model.module.pixel_mean) == [1, 2, 4]
