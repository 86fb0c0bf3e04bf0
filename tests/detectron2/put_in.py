"""A pytest plugin that puts our layers into Detectron2 itself, for its own tests.

With ``WS_DET_PUT_IN=gn`` or ``bcn`` every convolution of Detectron2 that has a norm becomes a WS
convolution as soon as it is built, and what Detectron2's ``get_norm`` builds by the names BN and
FrozenBN is GN or BCN. (WS behind a frozen norm that fits no weights overflows, so that one has to
go.) Without it nothing is put in, for comparison. See docs/testing.md.
"""

from __future__ import annotations

import functools
import math
import os
from collections import Counter
from typing import Any

import pytest
from detectron2 import model_zoo
from detectron2.layers import Conv2d, batch_norm
from torch import nn

from ws_det import convert_to_ws, plan_conversion
from ws_det.detectron2 import get_norm

MODE = os.environ.get("WS_DET_PUT_IN", "")
counts: Counter[str] = Counter()

_PARAMETERS = "GN and BCN have parameters where a frozen norm has buffers"
# (mode, end of the test's name, why it cannot pass)
EXCEPTIONS = (
    ("gn", "RetinaNetTest::test_param_count", _PARAMETERS),
    ("gn", "FasterRCNNTest::test_param_count", _PARAMETERS),
    ("bcn", "RetinaNetTest::test_param_count", _PARAMETERS),
    ("bcn", "FasterRCNNTest::test_param_count", _PARAMETERS),
    # test_export.py compares the same in float64
    ("bcn", "test_resnet_scriptability", "BCN in one pass and in a graph's two norms rounds apart"),
)


def build_norm(channels: int) -> nn.Module:
    counts[MODE.upper()] += 1
    return get_norm(MODE.upper(), num_groups=math.gcd(channels, 32))(channels)


def convert_after(init: Any) -> Any:
    @functools.wraps(init)
    def wrapped(self: Conv2d, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self) is Conv2d and plan_conversion(self)[0].action == "convert":
            convert_to_ws(self)
            counts["WS convolutions"] += 1

    return wrapped


def get_untrained(get: Any) -> Any:
    @functools.wraps(get)
    def wrapped(config_path: str, trained: bool = False, device: str | None = None) -> Any:
        if trained:
            pytest.skip("needs Detectron2's trained weights from the network")
        return get(config_path, trained, device)

    return wrapped


def pytest_configure(config: pytest.Config) -> None:
    assert MODE in ("", "gn", "bcn"), MODE
    model_zoo.get = get_untrained(model_zoo.get)
    if MODE:
        Conv2d.__init__ = convert_after(Conv2d.__init__)
        # get_norm finds them by these names; what else uses them has its own reference
        for name in ("BatchNorm2d", "FrozenBatchNorm2d"):
            setattr(batch_norm, name, build_norm)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mode, name, reason in EXCEPTIONS:
            if mode == MODE and item.nodeid.endswith(name):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    files: dict[str, Counter[str]] = {}
    for outcome in ("passed", "skipped", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            files.setdefault(report.nodeid.split("::")[0], Counter())[outcome] += 1
    for file, outcomes in files.items():
        numbers = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        terminalreporter.write_line(f"{file}: {numbers}")
    put_in = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    terminalreporter.write_line(f"put in: {put_in or 'nothing'}")
