"""Without Detectron2 the files of this folder are skipped, with the reason, not failed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

DEMO = "mask_rcnn_R_18_FPN_gn_ws_demo_shapes"
# The demo's detector with estimates in every norm, which two processes must keep equal.
BCN_CONFIG = f"""
from functools import partial

from detectron2.config import LazyConfig

import ws_det

cfg = LazyConfig.load(ws_det.config_path({DEMO!r}))
dataloader, lr_multiplier, model, optimizer, train = (
    cfg[key] for key in ("dataloader", "lr_multiplier", "model", "optimizer", "train")
)
model.module.backbone.norm = partial(ws_det.BatchChannelNorm2d, num_groups=8, estimate=True)
"""


class Skipped(pytest.Module):
    """A test file that is not imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("needs Detectron2", allow_module_level=True)


# Not pytest.importorskip: here it would end `pytest tests/detectron2` with a traceback.
def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Skipped | None:
    if find_spec("detectron2") is None:
        return Skipped.from_parent(parent, path=module_path)
    return None


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """A run in the test's own process leaves no handlers of logs whose streams are closed."""
    yield
    for name in ("detectron2", "fvcore"):
        logger = logging.getLogger(name)
        for handler in [*logger.handlers]:
            logger.removeHandler(handler)
        logger.propagate = True
    if "detectron2.utils.logger" in sys.modules:
        sys.modules["detectron2.utils.logger"].setup_logger.cache_clear()


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a whole detector run in float64: torchvision's NMS wants scores of the type of boxes.

    Boxes are float32 in Detectron2. The NMS computes no number.
    """
    from detectron2.modeling.proposal_generator import proposal_utils
    from detectron2.modeling.roi_heads import fast_rcnn

    from tests.detectron2.parts import nms_of_float32

    for module in (proposal_utils, fast_rcnn):
        monkeypatch.setattr(module, "batched_nms", nms_of_float32)


@pytest.fixture(scope="session")
def bcn_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's config with BCN for GN."""
    path = tmp_path_factory.mktemp("config") / "bcn.py"
    path.write_text(BCN_CONFIG)
    return path
