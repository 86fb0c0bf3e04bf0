"""Configs by name and by kind; tests/test_packaging.py has the wheel. Oracle: the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ws_det import InputError, config_path
from ws_det.paths import find_config, framework_of

ROOT = Path(__file__).resolve().parents[1] / "configs"
PYTHON = sorted(ROOT.glob("*/*.py"))
YAML = sorted(ROOT.glob("*/[a-z]*.yaml"))


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.stem)
def test_every_config_is_found_with_and_without_suffix(path: Path) -> None:
    assert config_path(path.stem) == config_path(path.name) == str(path)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.stem)
def test_every_yaml_config_is_found(path: Path) -> None:
    """Without its suffix the name means the .py of the same name, if there is one."""
    assert config_path(path.name) == str(path)
    python = path.with_suffix(".py")
    assert config_path(path.stem) == str(python if python.exists() else path)


def test_no_two_folders_have_a_config_of_the_same_name() -> None:
    names = [path.name for path in (*PYTHON, *YAML)]
    assert len(names) == len(set(names))


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(InputError, match="mask-rcnn_r50_fpn_gn-ws-all_3x_coco") as error:
        config_path("mask-rcnn_r50_fpn_gn-ws-all_3x_coco")
    assert "mask-rcnn_r50_fpn_gn-ws-all_2x_coco" in str(error.value)


@pytest.mark.parametrize("name", ["gn-ws", "mask_rcnn_fpn", "Base-RCNN-FPN-WS.yaml"])
def test_base_files_are_no_configs(name: str) -> None:
    with pytest.raises(InputError, match=f"'{name}'"):
        config_path(name)


@pytest.mark.parametrize("path", (*PYTHON, *YAML), ids=lambda path: path.name)
def test_whose_config_it_is(path: Path) -> None:
    """Oracle: the folder."""
    assert framework_of(str(path)) == path.parent.name


FOREIGN = {
    "dumped.py": ("model = {'type': 'MaskRCNN'}", "mmdet"),
    "new.py": ("from mmengine.config import read_base\nwith read_base():\n    pass", "mmdet"),
    "heir.py": ("from .other import model, train", "detectron2"),
    "config.yaml": ("model:\n  _target_: detectron2.modeling.RetinaNet\ntrain: {}", "detectron2"),
    "plain.yaml": ("_BASE_: Base-FPN-WS.yaml\nMODEL:\n  MASK_ON: True", "detectron2"),
    "openmmlab.yaml": ("model:\n  type: MaskRCNN", "mmdet"),
    "openmmlab.json": ('{"model": {"type": "MaskRCNN"}}', "mmdet"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_whose_a_config_of_others_is(tmp_path: Path, name: str) -> None:
    text, framework = FOREIGN[name]
    (tmp_path / name).write_text(text)
    assert framework_of(find_config(str(tmp_path / name))) == framework


def test_a_config_that_is_no_python(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("model = (")
    with pytest.raises(InputError, match="is no Python"):
        framework_of(str(tmp_path / "broken.py"))
    with pytest.raises(InputError, match="there is no config"):
        find_config(str(tmp_path / "absent.py"))
