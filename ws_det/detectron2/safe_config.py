"""Read the two kinds of yaml that Detectron2 has, without running code from them.

Detectron2's own readers run it (``yaml.unsafe_load``). A yaml saved from a LazyConfig still names,
by ``_target_``, what is called when its parts are built, so it is a program as the ``.py`` is.
"""

from __future__ import annotations

import io
from functools import partial
from pydoc import locate
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig, OmegaConf

from ws_det.detectron2.registry import add_ws_config
from ws_det.safe_yaml import PYTHON, SafeLoader, read_yaml, refusal

_PACKAGES = ("detectron2.", "torch.nn.", "ws_det.")


def load_yaml(path: str) -> DictConfig | CfgNode:
    """The config of a yaml file.

    Args:
        path: Of what ``LazyConfig.save`` wrote, or of a config with ``_BASE_`` and capital keys.

    Raises:
        InputError: If it has a tag that is not known; other errors if it is broken.
    """
    content = read_yaml(path, _LazyLoader)
    if isinstance(content, dict) and "dataloader" in content:
        return OmegaConf.create(content, flags={"allow_objects": True})
    cfg = get_cfg()
    add_ws_config(cfg)
    read = _SafeCfgNode(cfg)
    read.merge_from_file(path)
    return CfgNode(read)


class _SafeCfgNode(CfgNode):
    """Sees every file, those in ``_BASE_`` too, as the plain yaml that is left of it."""

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        content = read_yaml(PathManager.get_local_path(filename))
        return io.StringIO(yaml.safe_dump(content, sort_keys=False))


class _LazyLoader(SafeLoader):
    """Also knows what LazyConfig writes for norms, blocks and shapes."""

    def construct_named(self, name: str, node: yaml.Node) -> Any:
        """A class or function by its name; nothing is called."""
        found = locate(name) if name.startswith(_PACKAGES) else None
        if found is None or not f"{getattr(found, '__module__', '')}.".startswith(_PACKAGES):
            raise refusal(node, f"names nothing in {', '.join(_PACKAGES)}")
        return found

    def construct_partial(self, node: yaml.Node) -> Any:
        """A ``functools.partial``, as pickled: function, arguments, keywords, attributes."""
        state = self.construct_mapping(node, deep=True)["state"]
        function, arguments, keywords, _ = state
        return partial(function, *arguments, **keywords)

    def construct_shape(self, node: yaml.Node) -> ShapeSpec:
        """The shape of features."""
        return ShapeSpec(**self.construct_mapping(node))


_LazyLoader.add_multi_constructor(f"{PYTHON}name:", _LazyLoader.construct_named)
for tag, construct in (
    ("object/apply:functools.partial", _LazyLoader.construct_partial),
    ("object:detectron2.layers.shape_spec.ShapeSpec", _LazyLoader.construct_shape),
):
    _LazyLoader.add_constructor(PYTHON + tag, construct)
