"""config_path in the checkout; tests/test_packaging.py has the wheel. Oracle: the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ws_det import InputError, config_path

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*/*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_found_with_and_without_suffix(path: Path) -> None:
    assert config_path(path.stem) == config_path(path.name) == str(path)


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(InputError, match="mask-rcnn_r50_fpn_gn-ws-all_3x_coco") as error:
        config_path("mask-rcnn_r50_fpn_gn-ws-all_3x_coco")
    assert "mask-rcnn_r50_fpn_gn-ws-all_2x_coco" in str(error.value)


def test_base_files_are_no_configs() -> None:
    with pytest.raises(InputError, match="'gn-ws'"):
        config_path("gn-ws")
