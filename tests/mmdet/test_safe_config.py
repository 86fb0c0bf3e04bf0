"""A yaml of MMEngine runs no code from its tags. Oracle: a folder that is not made."""

from __future__ import annotations

from pathlib import Path

import mmengine
import pytest

from tests.watched import watched
from ws_det.errors import InputError
from ws_det.mmdet.config import load_config
from ws_det.paths import framework_of

TAGS = ("!!python/object/apply:os.mkdir [{made}]", "!!python/object/new:os.mkdir [{made}]")


@pytest.mark.parametrize("tag", TAGS)
def test_tags_run_nothing(tag: str, tmp_path: Path) -> None:
    """In the file, and in its base."""
    made = tmp_path / "made"
    evil, top = tmp_path / "evil.yaml", tmp_path / "top.yml"
    evil.write_text(f"model: {{}}\nwork_dir: {tag.format(made=made)}\n")
    top.write_text("_base_: [evil.yaml]\n")
    for path in (evil, top):
        with watched(tmp_path) as seen, pytest.raises(InputError) as refused:
            framework_of(str(path))
            load_config(str(path))
        assert f"the tag {tag.split()[0]} in {evil}, line 2, may run code" in str(refused.value)
        assert not seen and not made.exists()


def test_mmengines_own_reader_runs_nothing_either(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (tmp_path / "evil.yaml").write_text(TAGS[0].format(made=made))
    with pytest.raises(InputError, match="may run code"):
        mmengine.load(tmp_path / "evil.yaml")
    assert not made.exists()


def test_yaml_is_read_as_before(tmp_path: Path) -> None:
    """A config that MMEngine wrote, with its tuples. Oracle: the config that was written."""
    cfg = load_config("mask-rcnn_r18_fpn_gn-ws-all_2xb1-demo_shapes")
    cfg.dump(str(tmp_path / "saved.yaml"))
    assert "!!python/tuple" in (tmp_path / "saved.yaml").read_text()
    again = load_config(str(tmp_path / "saved.yaml"))
    assert again.model == cfg.model and again.train_dataloader == cfg.train_dataloader
