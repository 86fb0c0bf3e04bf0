"""Yaml runs no code. Oracles: a folder that is not made, and Detectron2's own unsafe readers."""

from __future__ import annotations

from pathlib import Path

import detectron2
import pytest
from detectron2.config import CfgNode, LazyConfig, get_cfg

from tests.detectron2.conftest import DEMO
from tests.watched import watched
from ws_det.detectron2.config import load_recipe
from ws_det.detectron2.recipe import LazyRecipe
from ws_det.detectron2.registry import add_ws_config
from ws_det.detectron2.safe_config import load_yaml
from ws_det.errors import InputError
from ws_det.paths import framework_of

OWN = Path(detectron2.__file__).parent / "model_zoo/configs"
YAMLS = sorted(str(path.relative_to(OWN)) for path in OWN.rglob("*.yaml"))
MKDIR = "!!python/object/apply:os.mkdir [{made}]"
TAGS = {
    "apply": MKDIR,
    "eval": '!!python/object/apply:eval ["__import__(\'os\').mkdir(\'{made}\')"]',
    "eval of a name": '!!python/object/apply:eval ["open"]',
    "new": "!!python/object/new:subprocess.Popen [[mkdir, {made}]]",
    "name": "!!python/name:os.system ''",
    "module": "!!python/module:antigravity ''",
    "object": "!!python/object:subprocess.Popen {{}}",
    "partial": "!!python/object/apply:functools.partial {{args: [!!python/name:os.mkdir '']}}",
    "named by a package": "!!python/name:detectron2.utils.env.os.system ''",
    "own": "!mine 3",
}
NAMED = {"partial": "!!python/name:os.mkdir"}  # what is in it is read first
PLACES = {
    "first": "VERSION: 2\nOUTPUT_DIR: {tag}\n",
    "key": "VERSION: 2\n? {tag}\n: 1\n",
    "deep": "VERSION: 2\nMODEL:\n  ANCHOR_GENERATOR:\n    SIZES: [[{tag}]]\n",
    "lazy": "dataloader: {{}}\nmodel: {tag}\n",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", TAGS)
def test_tags_run_nothing(kind: str, place: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    tag = TAGS[kind].format(made=made)
    path = tmp_path / "evil.yaml"
    path.write_text(PLACES[place].format(tag=tag))
    with watched(tmp_path) as seen, pytest.raises(InputError) as refused:
        framework_of(str(path))
        load_recipe(str(path))
    said = str(refused.value)
    line = PLACES[place].split("{tag}")[0].count("\n") + 1
    assert f"{path}, line {line}" in said and f"the tag {NAMED.get(kind, tag.split()[0])} " in said
    # modules of Detectron2 that were not needed before, and the syntax tree of the numbers
    assert not [line for line in seen if not line.startswith(("import ", "compile "))]
    assert not made.exists()


def test_a_base_runs_nothing(tmp_path: Path) -> None:
    """Also the base of a base."""
    made = tmp_path / "made"
    (tmp_path / "base.yaml").write_text(f"OUTPUT_DIR: {MKDIR.format(made=made)}\n")
    (tmp_path / "middle.yaml").write_text("_BASE_: base.yaml\n")
    (tmp_path / "top.yaml").write_text("VERSION: 2\n_BASE_: [middle.yaml]\n")
    with pytest.raises(InputError, match=rf"{tmp_path}/base\.yaml, line 1"):
        load_recipe(str(tmp_path / "top.yaml"))
    assert not made.exists()


@pytest.mark.parametrize("name", YAMLS)
def test_detectron2s_own_yamls_say_the_same(name: str) -> None:
    """All of them, and two have code in their tags, which Detectron2 runs and ws_det works out."""
    expected = get_cfg()
    expected.merge_from_file(str(OWN / name))
    cfg = load_yaml(str(OWN / name))
    assert isinstance(cfg, CfgNode)
    assert {key: cfg[key] for key in expected if key not in ("MODEL", "SOLVER", "SEED")} == {
        key: expected[key] for key in expected if key not in ("MODEL", "SOLVER", "SEED")
    }
    assert {key: cfg.MODEL[key] for key in expected.MODEL} == expected.MODEL
    assert {key: cfg.SOLVER[key] for key in expected.SOLVER} == expected.SOLVER


def test_the_anchors_of_retinanet() -> None:
    """By hand: three octaves of each size."""
    cfg = load_yaml(str(OWN / "COCO-Detection/retinanet_R_50_FPN_1x.yaml"))
    sizes = [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)]
    assert sizes == cfg.MODEL.ANCHOR_GENERATOR.SIZES


@pytest.mark.parametrize(
    "name", ["mask_rcnn_R_50_FPN_2x_bcn_ws.py", "mask_rcnn_X_101_32x4d_FPN_2x_gn_ws"]
)
def test_a_saved_config_is_read_as_detectron2_reads_it(name: str, tmp_path: Path) -> None:
    """With a partial, names of classes, tuples and shapes in it."""
    path = tmp_path / "config.yaml"
    LazyConfig.save(load_recipe(name).cfg, str(path))
    assert path.read_text().count("!!python/") > 3
    cfg, expected = load_recipe(str(path)).cfg, LazyConfig.load(str(path))
    expected.train.device = cfg.train.device
    saved = [tmp_path / f"{i}.yaml" for i in range(2)]
    for one, target in zip((cfg, expected), saved):
        LazyConfig.save(one, str(target))
    assert saved[0].read_text() == saved[1].read_text()
    assert isinstance(load_recipe(str(path)), LazyRecipe)


def test_a_saved_config_trains_on_the_same_images(coco_set: Path, tmp_path: Path) -> None:
    """Its loader is called by its name then. Oracle: the order that the config itself gives."""
    path = tmp_path / "config.yaml"
    demo = load_recipe(DEMO, [], str(coco_set))
    LazyConfig.save(demo.cfg, str(path))
    orders = []
    for recipe in (demo, load_recipe(str(path))):
        recipe.cfg.dataloader.train.num_workers = 0
        batches = iter(recipe.build_train_loader(seed=7, skip=3))
        orders.append([image["file_name"] for _ in range(6) for image in next(batches)])
    assert orders[0] == orders[1]


def test_what_a_run_dumps_is_read_again(tmp_path: Path) -> None:
    """All keys, those of ws_det too, as Detectron2 reads them and in nodes of its own class."""
    cfg = load_recipe("mask_rcnn_R_50_FPN_2x_bcn_ws.yaml", ["MODEL.WS.NUM_GROUPS=8"]).cfg
    (tmp_path / "config.yaml").write_text(cfg.dump())
    again = load_recipe(str(tmp_path / "config.yaml")).cfg
    expected = get_cfg()
    add_ws_config(expected)
    expected.merge_from_file(str(tmp_path / "config.yaml"))
    assert again == expected and again.MODEL.WS.NUM_GROUPS == 8
    assert {type(cfg), type(again.MODEL), type(again.MODEL.WS), type(again.SOLVER)} == {CfgNode}
